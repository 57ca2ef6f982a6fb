//go:build !linux

package mysqltest

import "os/exec"

// dieWithParent does nothing: only Linux can tell a process that its parent is gone.
func dieWithParent(*exec.Cmd) {}
