package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// containerEngine returns the command of an engine that works, or skips the test.
func containerEngine(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, engine := range []string{"docker", "podman"} {
		if exec.CommandContext(ctx, engine, "info").Run() == nil {
			return engine
		}
	}
	t.Skip("neither docker nor podman works here")
	return ""
}

// TestImage builds the container image, and runs it with nothing to write to but its volume.
func TestImage(t *testing.T) {
	t.Parallel()
	engine := containerEngine(t)
	needProgram(t, "bash")
	script, err := filepath.Abs("../../tools/image.sh")
	require.NoError(t, err)
	build := exec.Command("bash", script)
	build.Env = append(os.Environ(), "VERSION="+builtVersion, "ENGINE="+engine)
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	const image = "decree:" + builtVersion
	command := func(arguments ...string) (string, error) {
		output, err := exec.Command(engine, arguments...).CombinedOutput()
		return strings.TrimSpace(string(output)), err
	}
	t.Cleanup(func() { _, _ = command("image", "rm", image) }) // it may be in use elsewhere

	answer, err := command("run", "--rm", "--read-only", "--cap-drop", "ALL", image, "-version")
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.ExitCode() == 125 || strings.Contains(answer, "not permitted")) {
		t.Skipf("%s builds images here, and cannot run them: %s", engine, answer)
	}
	require.NoError(t, err, answer)
	require.Equal(t, builtVersion, answer)

	container, err := command("run", "--detach", "--read-only", "--cap-drop", "ALL", "--publish", "127.0.0.1::9002",
		"--env", "DECREE_API="+testKey, image)
	require.NoError(t, err, container)
	t.Cleanup(func() {
		output, err := command("rm", "--force", "--volumes", container)
		require.NoError(t, err, output)
	})
	s := &server{t: t}
	s.eventually(func() bool {
		_, err := command("exec", container, "/decree", "health")
		return err == nil
	}, "a healthy container")
	address, err := command("port", container, "9002/tcp")
	require.NoError(t, err, address)
	s.url = "http://" + address
	s.putTest("com.example.test", "Hello")
	code, _ := s.do(http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusOK, code)
	_, err = command("stop", container)
	require.NoError(t, err)
	exitCode, err := command("inspect", "--format", "{{.State.ExitCode}}", container)
	require.NoError(t, err, exitCode)
	require.Equal(t, "0", exitCode, "SIGTERM ends it in order")
}
