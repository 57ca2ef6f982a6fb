package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// unprivileged is the user and group of the container image.
const unprivileged = 65532

// jail is a directory that processes have as their root. They are of an unprivileged user, and can write to /data alone.
type jail struct {
	t    *testing.T
	root string
	work chan func() // for the thread whose mounts the processes see
}

// newJail returns a jail that holds the binary and an empty /data. Where the system permits mounts, the root is mounted
// read-only; elsewhere it only belongs to somebody else.
func newJail(t *testing.T) *jail {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can change the root directory of a process")
	}
	j := &jail{t: t, root: t.TempDir(), work: make(chan func())}
	data := filepath.Join(j.root, "data")
	copyFile(t, buildDecree(t), filepath.Join(j.root, "decree"))
	require.NoError(t, os.Mkdir(data, 0o700))
	require.NoError(t, os.Chown(data, unprivileged, unprivileged))
	require.NoError(t, os.Chmod(j.root, 0o555))
	t.Cleanup(func() { _ = os.Chmod(j.root, 0o755) }) // root needs it not

	mounted := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its mounts with the last of its processes.
		runtime.LockOSThread()
		mounted <- mountReadOnly(j.root, data)
		for work := range j.work {
			work()
		}
	}()
	t.Cleanup(func() { close(j.work) })
	if err := <-mounted; err != nil {
		t.Logf("the root is not mounted read-only: %v", err)
	}
	return j
}

// mountReadOnly makes root read-only, data in it aside, for this thread and the processes that it starts.
func mountReadOnly(root, data string) error {
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a mount namespace: %w", err)
	}
	for _, mount := range []struct {
		source, target string
		flags          uintptr
	}{
		{"none", "/", syscall.MS_REC | syscall.MS_PRIVATE}, // nobody else sees the following
		{root, root, syscall.MS_BIND},
		{data, data, syscall.MS_BIND},
		{"none", root, syscall.MS_BIND | syscall.MS_REMOUNT | syscall.MS_RDONLY},
	} {
		if err := syscall.Mount(mount.source, mount.target, "", mount.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", mount.target, err)
		}
	}
	return nil
}

// start starts the binary in the jail.
func (j *jail) start(args ...string) *process {
	j.t.Helper()
	cmd := exec.Command("/decree", args...)
	cmd.Env = []string{"DECREE_API=" + testKey}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: j.root, Credential: &syscall.Credential{Uid: unprivileged, Gid: unprivileged},
	}
	var p *process
	done := make(chan struct{})
	j.work <- func() {
		defer close(done)
		p = startProcess(j.t, cmd)
	}
	<-done
	require.NotNil(j.t, p)
	return p
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	require.NoError(t, err)
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o555)
	require.NoError(t, err)
	_, err = io.Copy(target, source)
	require.NoError(t, err)
	require.NoError(t, target.Close())
}

// TestNothingButTheBinary checks that the binary needs no other file, no privilege, and nothing to write to but the
// directory of its database: what the container image and the systemd unit give it.
func TestNothingButTheBinary(t *testing.T) {
	t.Parallel()
	j := newJail(t)
	p := j.start("-listen", "127.0.0.1:0", "-storage-dsn", "/data/decree.db")
	s := p.server()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(t, err)
	require.Contains(t, string(status), fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", unprivileged))
	require.Contains(t, string(status), "CapEff:\t0000000000000000\n")

	s.putTest("com.example.test", "Hello")
	s.addToSet("base", "com.example.test")
	s.assign("device", "base")
	code, text := s.device("device", http.MethodGet, "/declaration/configuration/com.example.test", "")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, string(text), "Hello")
	code, _ = s.device("device", http.MethodPut, "/status", `{"StatusItems":{"x":1}}`)
	require.Equal(t, http.StatusOK, code)

	health := j.start("health", "-listen", strings.TrimPrefix(s.url, "http://"))
	require.NoError(t, health.wait(patience))
	require.Equal(t, "ok\n", health.stdout.String())
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.wait(patience))
	require.FileExists(t, filepath.Join(j.root, "data", "decree.db"))

	again := j.start("-listen", "127.0.0.1:0", "-storage-dsn", "/data/decree.db").server()
	code, text = again.device("device", http.MethodGet, "/declaration/configuration/com.example.test", "")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, string(text), "Hello")

	elsewhere := j.start("-listen", "127.0.0.1:0", "-storage-dsn", "/decree.db")
	require.Error(t, elsewhere.wait(patience))
	require.Contains(t, elsewhere.stderr.String(), "/decree.db", "what cannot be written is named")
}
