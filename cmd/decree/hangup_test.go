package main

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHangup: a terminal that is gone ends the program in order, so that nothing half-made stays, unless it was started to
// outlive the terminal.
func TestHangup(t *testing.T) {
	t.Parallel()
	p := startBinary(t)
	p.server()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	require.NoError(t, p.wait(patience))
	require.Contains(t, p.stderr.String(), "msg=stopping")

	// This is what nohup does.
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec "$0" -listen 127.0.0.1:0`, buildDecree(t))
	cmd.Env, cmd.Dir = []string{"DECREE_API=" + testKey}, t.TempDir()
	p = startProcess(t, cmd)
	s := p.server()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	s.putTest("test.a", "after it")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.wait(patience))
}
