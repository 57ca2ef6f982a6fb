//go:build !linux

package main

import "syscall"

// dieWithParent does nothing: only Linux can tell a process that its parent was killed.
func dieWithParent(attr *syscall.SysProcAttr, _ syscall.Signal) *syscall.SysProcAttr {
	return attr
}
