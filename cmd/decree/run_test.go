package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// needProgram skips a test where a program that it runs is not installed, or fails it where nothing may be missing (as
// under `make test`).
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		message := "needs " + name + " in PATH"
		if os.Getenv("DECREE_TEST_REQUIRE_DATABASES") != "" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
}

// freeAddress returns an address that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// TestRunScript checks that what `make run` starts works, and that the commands which it prints can be copied as they
// stand.
func TestRunScript(t *testing.T) {
	t.Parallel()
	needProgram(t, "bash")
	needProgram(t, "curl")
	script, err := filepath.Abs("../../tools/run.sh")
	require.NoError(t, err)
	directory := filepath.Join(t.TempDir(), "it's a directory")
	require.NoError(t, os.MkdirAll(filepath.Join(directory, "bin"), 0o700))
	require.NoError(t, os.Symlink(buildDecree(t), filepath.Join(directory, "bin", "decree")))

	var key string
	for _, story := range []struct {
		name    string
		start   func(address string) (args, environ []string)
		answers []string
	}{
		{"a flag", func(address string) ([]string, []string) { return []string{"-listen", address}, nil }, []string{"[]\n", "204\n"}},
		{
			"a flag in one word", func(address string) ([]string, []string) { return []string{"--listen=" + address}, nil },
			[]string{`["com.example.test"]` + "\n", "304\n"},
		},
		{
			"the environment", func(address string) ([]string, []string) { return nil, []string{"DECREE_LISTEN=" + address} },
			[]string{`["com.example.test"]` + "\n", "304\n"},
		},
		{
			"every address", func(address string) ([]string, []string) {
				return []string{"-listen", address[strings.LastIndex(address, ":"):]}, nil
			},
			[]string{`["com.example.test"]` + "\n", "304\n"},
		},
	} {
		args, environ := story.start(freeAddress(t))
		cmd := exec.Command("bash", append([]string{script}, args...)...)
		cmd.Dir = directory
		cmd.Env = append(os.Environ(), environ...)
		p := startProcess(t, cmd)
		p.server()

		var commands []string
		for line := range strings.Lines(p.stdout.String()) {
			if strings.HasPrefix(line, "  curl ") {
				commands = append(commands, line)
			}
		}
		require.Len(t, commands, len(story.answers), "%s: %s", story.name, p.stdout.String())
		for i, command := range commands {
			curl := exec.Command("bash", "-c", command)
			curl.Dir = t.TempDir()
			answer, err := curl.Output()
			require.NoError(t, err, "%s: %s", story.name, command)
			require.Equal(t, story.answers[i], string(answer), "%s: %s", story.name, command)
		}

		text, err := os.ReadFile(filepath.Join(directory, ".decree-api-key"))
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(text), 32)
		if key == "" {
			key = string(text)
		}
		require.Equal(t, key, string(text), "the key is kept")
		require.NotContains(t, p.stdout.String()+p.stderr.String(), key)
		information, err := os.Stat(filepath.Join(directory, ".decree-api-key"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), information.Mode().Perm())

		require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, p.wait(patience), story.name)
	}
}
