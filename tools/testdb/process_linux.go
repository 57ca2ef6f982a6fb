package main

import "syscall"

// dieWithParent makes the process get a signal when testdb is gone, even by SIGKILL. The kernel forgets it when the
// process changes its user, so a server's user must be set by attr.Credential and not by the server itself.
func dieWithParent(attr *syscall.SysProcAttr, signal syscall.Signal) *syscall.SysProcAttr {
	attr.Pdeathsig = signal
	return attr
}
