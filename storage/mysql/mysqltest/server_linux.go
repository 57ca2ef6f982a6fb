package mysqltest

import (
	"os/exec"
	"syscall"
)

// dieWithParent has a process end with the test program, however that ends.
func dieWithParent(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
