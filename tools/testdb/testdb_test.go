package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const asTestdb = "DECREE_TEST_AS_TESTDB"

// TestMain lets the tests run this binary as testdb.
func TestMain(m *testing.M) {
	if os.Getenv(asTestdb) != "" {
		main()
	}
	os.Exit(m.Run())
}

// testdb returns a command that runs testdb, with none of the variables that it sets.
func testdb(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "DECREE_TEST_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, asTestdb+"=1")
	return cmd
}

// requireServers skips where testdb would have to install servers.
func requireServers(t *testing.T) {
	t.Helper()
	for _, p := range []product{mysqlProduct, postgresProduct} {
		if _, ok := p.locate(); !ok {
			t.Skipf("no %s server is installed here", p.name)
		}
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		code int
	}{
		{[]string{"--", "sh", "-c", "exit 0"}, 0},
		{[]string{"--", "sh", "-c", "exit 7"}, 7},
		{[]string{"--", "sh", "-c", "kill -KILL $$"}, 128 + 9},
		{[]string{"--", "decree-no-such-command"}, exitNotFound},
		{[]string{"--", t.TempDir()}, exitNotRun},
		{[]string{"--"}, exitUsage},
		{[]string{"-no-such-flag", "--", "true"}, exitUsage},
		{[]string{"-help"}, 0},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			t.Parallel()
			cmd := testdb(t, append([]string{"-mysql=false", "-postgres=false"}, test.args...)...)
			output, err := cmd.CombinedOutput()
			require.Equal(t, test.code, cmd.ProcessState.ExitCode(), "%v\n%s", err, output)
		})
	}
}

func TestStandardStreamsAreTheCommands(t *testing.T) {
	t.Parallel()
	cmd := testdb(t, "-mysql=false", "-postgres=false", "--", "sh", "-c", "cat; echo $"+requireVariable)
	cmd.Stdin = strings.NewReader("from outside\n")
	output, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "from outside\n1\n", string(output))
}

func TestGivenServerIsChecked(t *testing.T) {
	t.Parallel()
	for _, variable := range []string{mysqlVariable, postgresVariable} {
		t.Run(variable, func(t *testing.T) {
			t.Parallel()
			flag := map[string]string{mysqlVariable: "-postgres=false", postgresVariable: "-mysql=false"}[variable]
			cmd := testdb(t, flag, "--", "true")
			cmd.Env = append(cmd.Env, variable+"=not a DSN")
			output, err := cmd.CombinedOutput()
			require.Error(t, err)
			require.Equal(t, exitFailure, cmd.ProcessState.ExitCode())
			require.Contains(t, string(output), variable)
			require.Contains(t, string(output), errInvalidDSN.Error())
		})
	}
}

// A server that the environment names is passed on, and no other is started.
func TestGivenServerIsUsed(t *testing.T) {
	t.Parallel()
	requireServers(t)
	r := startServers(t)
	cmd := testdb(t, "--", "sh", "-c", `echo "$`+mysqlVariable+`"; echo "$`+postgresVariable+`"`)
	cmd.Env = append(cmd.Env, mysqlVariable+"="+r.mysql, postgresVariable+"="+r.postgres)
	var messages strings.Builder
	cmd.Stderr = &messages
	output, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, r.mysql+"\n"+r.postgres+"\n", string(output))
	require.Empty(t, messages.String())
}

func TestMissingServerIsExplained(t *testing.T) {
	t.Parallel()
	missing := mysqlProduct
	missing.locate = func() (programs, bool) { return programs{}, false }
	message := advice([]product{missing})
	require.Contains(t, message, "apt-get install mariadb-server")
	require.Contains(t, message, mysqlVariable)
}

// running is a testdb whose command waits.
type running struct {
	cmd       *exec.Cmd
	mysql     string
	postgres  string
	directory string
}

// startServers starts testdb and returns when its command runs.
func startServers(t *testing.T) running {
	t.Helper()
	cmd := testdb(t, "--", "sh", "-c", `echo "$`+mysqlVariable+`"; echo "$`+postgresVariable+`"; exec sleep 600`)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(stdout)
	line := func() string {
		text, err := lines.ReadString('\n')
		require.NoError(t, err)
		return strings.TrimSpace(text)
	}
	r := running{cmd: cmd, mysql: line(), postgres: line()}
	_, rest, _ := strings.Cut(r.mysql, "(")
	socket, _, _ := strings.Cut(rest, ")")
	r.directory = filepath.Dir(filepath.Dir(socket))
	require.DirExists(t, r.directory)
	require.NoError(t, pingMySQL(t.Context(), r.mysql))
	require.NoError(t, pingPostgres(t.Context(), r.postgres))
	return r
}

// requireStopped waits until the servers don't answer and, where that can be seen, none of their processes is left.
func (r running) requireStopped(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		return pingMySQL(t.Context(), r.mysql) != nil && pingPostgres(t.Context(), r.postgres) != nil
	}, 15*time.Second, 50*time.Millisecond, "a server is still running")
	if runtime.GOOS != "linux" {
		return
	}
	require.Eventually(t, func() bool { return len(processesIn(t, r.directory)) == 0 }, 15*time.Second, 50*time.Millisecond)
}

// processesIn returns the processes that have the directory in their command lines.
func processesIn(t *testing.T, directory string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, file := range files {
		if commandLine, err := os.ReadFile(file); err == nil && strings.Contains(string(commandLine), directory) {
			found = append(found, file)
		}
	}
	return found
}

func TestSignalStopsEverything(t *testing.T) {
	t.Parallel()
	requireServers(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			r := startServers(t)
			require.NoError(t, r.cmd.Process.Signal(signal))
			require.Error(t, r.cmd.Wait())
			require.Equal(t, exitSignal+int(signal), r.cmd.ProcessState.ExitCode())
			require.NoDirExists(t, r.directory)
			r.requireStopped(t)
		})
	}
}

func TestKillStopsServersAndNextRunCleansUp(t *testing.T) {
	t.Parallel()
	requireServers(t)
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can tell a process that its parent was killed")
	}
	r := startServers(t)
	require.NoError(t, r.cmd.Process.Kill())
	var exit *exec.ExitError
	require.ErrorAs(t, r.cmd.Wait(), &exit)
	r.requireStopped(t)
	require.Eventually(t, func() bool { // another testdb may be sweeping too
		sweep(filepath.Dir(r.directory))
		_, err := os.Stat(r.directory)
		return errors.Is(err, os.ErrNotExist)
	}, 15*time.Second, 50*time.Millisecond)
}

func TestParentsEndStopsEverything(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The shell is testdb's parent: it ends as soon as testdb's command has begun.
	inner := testdb(t)
	marker := filepath.Join(t.TempDir(), "begun")
	script := fmt.Sprintf(`%q -mysql=false -postgres=false -- sh -c 'echo begun >%q; exec sleep 600' &
		until [ -s %q ]; do sleep 0.05; done`, os.Args[0], marker, marker)
	outer := exec.CommandContext(ctx, "sh", "-c", script)
	outer.Env = inner.Env
	pipe, err := outer.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, outer.Start())
	// The pipe's other end is closed when testdb and its command have ended.
	_, err = io.ReadAll(pipe)
	require.NoError(t, err)
	require.NoError(t, outer.Wait())
	require.NoError(t, ctx.Err())
}

func TestSweepSparesDirectoriesInUse(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	used := filepath.Join(base, directoryPrefix+"used")
	left := filepath.Join(base, directoryPrefix+"left")
	other := filepath.Join(base, "other")
	for _, dir := range []string{used, left, other} {
		require.NoError(t, os.Mkdir(dir, 0o700))
	}
	lock, err := lockDirectory(used)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lock.Close()) })

	sweep(base)
	require.DirExists(t, used)
	require.DirExists(t, other)
	require.NoDirExists(t, left)
}

func TestPoll(t *testing.T) {
	t.Parallel()
	failure := errors.New("not yet")
	tries := 0
	require.NoError(t, poll(t.Context(), time.Minute, nil, func(context.Context) error {
		if tries++; tries < 3 {
			return failure
		}
		return nil
	}))
	ended := make(chan struct{})
	close(ended)
	never := func(context.Context) error { return failure }
	require.ErrorIs(t, poll(t.Context(), time.Minute, ended, never), errEnded)
	require.ErrorIs(t, poll(t.Context(), 30*time.Millisecond, nil, never), failure)
}

func TestBaseDirectoryIsShortAndOpen(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", maxBaseLength))
	require.NoError(t, os.Mkdir(long, 0o755))
	t.Setenv("TMPDIR", long)
	require.Equal(t, "/tmp", baseDirectory(true))

	closed, err := os.MkdirTemp("/tmp", "x")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(closed)) })
	require.False(t, isOpen(closed))
	require.NoError(t, os.Chmod(closed, 0o711))
	require.True(t, isOpen(closed))
	t.Setenv("TMPDIR", closed)
	require.Equal(t, closed, baseDirectory(true))
}

func TestTemporaryFilesAreInMemory(t *testing.T) {
	memory := memoryDirectory()
	if memory == "" {
		t.Skip("there is no directory in memory with enough room")
	}
	t.Setenv("TMPDIR", "/tmp")
	require.Equal(t, memory, baseDirectory(false))
	require.Equal(t, "/tmp", baseDirectory(true))
}
