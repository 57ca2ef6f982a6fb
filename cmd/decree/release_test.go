package main

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
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

// TestRelease builds the archive for this platform, unpacks it elsewhere, and starts what is in it without anything that
// built it.
func TestRelease(t *testing.T) {
	t.Parallel()
	needProgram(t, "bash")
	directory := release(t, "../..")
	sums, err := os.ReadFile(filepath.Join(directory, "SHA256SUMS"))
	require.NoError(t, err)

	name := "decree-" + builtVersion + "-" + runtime.GOOS + "-" + runtime.GOARCH
	archive, err := os.ReadFile(filepath.Join(directory, name+".zip"))
	require.NoError(t, err)
	sum := sha256.Sum256(archive)
	require.Equal(t, hex.EncodeToString(sum[:])+"  "+name+".zip\n", string(sums))

	unpacked := t.TempDir()
	names := unpack(t, filepath.Join(directory, name+".zip"), unpacked)
	for _, file := range []string{
		"decree", "LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "SECURITY.md", "docs/operations.md", "docs/openapi.yaml",
		"docs/deploy/decree.service", "docs/deploy/env.example",
		"docs/deploy/Dockerfile", "docs/deploy/grafana.json", "docs/deploy/alerts.yaml",
	} {
		require.Contains(t, names, name+"/"+file)
	}
	for _, file := range names {
		require.NotContains(t, []string{".env", "run.sh", "check.sh"}, filepath.Base(file))
	}

	imageFromArchive(t, filepath.Join(unpacked, name))

	cmd := exec.Command(filepath.Join(unpacked, name, "decree"), "-listen", "127.0.0.1:0")
	cmd.Env = []string{"DECREE_API=" + testKey} // neither a PATH nor anything of Go's
	cmd.Dir = t.TempDir()
	p := startProcess(t, cmd)
	s := p.server()
	code, text := s.do(http.MethodGet, "/version", "")
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, `{"version":"`+builtVersion+`"}`, string(text))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.wait(patience))
}

// imageFromArchive runs the documented commands that make the image from an archive, but for the engine's.
func imageFromArchive(t *testing.T, directory string) {
	t.Helper()
	const build = "docker build --tag decree --file docs/deploy/Dockerfile image"
	for _, block := range shellBlocks(readDocument(t, "deploy/README.md")) {
		if !strings.Contains(block, build) {
			continue
		}
		if _, err := os.Stat("/etc/ssl/certs/ca-certificates.crt"); err != nil {
			t.Log("there are no certificates where Debian has them")
			return
		}
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", "docker() { echo docker \"$@\"; }\n"+block)
		cmd.Dir = directory
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", output)
		require.Equal(t, build+"\n", string(output))
		require.FileExists(t, filepath.Join(directory, "docs/deploy/Dockerfile"))
		requireImageFiles(t, filepath.Join(directory, "image"))
		return
	}
	require.Fail(t, "the commands are not in docs/deploy/README.md")
}

// release builds the archive for this platform from a source directory, and returns where it is.
func release(t *testing.T, source string) (directory string) {
	t.Helper()
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("there is no release for " + runtime.GOOS)
	}
	directory = t.TempDir()
	script, err := filepath.Abs(filepath.Join(source, "tools", "release.sh"))
	require.NoError(t, err)
	build := exec.Command("bash", script)
	build.Dir = t.TempDir() // where it is started does not matter
	build.Env = append(os.Environ(), "VERSION="+builtVersion, "DIRECTORY="+directory,
		"PLATFORMS="+runtime.GOOS+"/"+runtime.GOARCH)
	output, err := build.CombinedOutput()
	if err != nil {
		needProgram(t, "zip") // the script installs it where it can
	}
	require.NoError(t, err, "%s", output)
	return directory
}

// TestReleaseIsReproducible builds from two places, neither a checkout of git: the same source gives the same bytes.
func TestReleaseIsReproducible(t *testing.T) {
	t.Parallel()
	needProgram(t, "bash")
	var sums []string
	parent := t.TempDir()
	source := filepath.Join(parent, "copied")
	copySource(t, source)
	for _, place := range []string{"one place", "another"} {
		moved := filepath.Join(parent, place)
		require.NoError(t, os.Rename(source, moved))
		source = moved
		directory := release(t, source)
		text, err := os.ReadFile(filepath.Join(directory, "SHA256SUMS"))
		require.NoError(t, err)
		sums = append(sums, string(text))
	}
	require.Equal(t, sums[0], sums[1])
}

// copySource copies what a release is made of.
func copySource(t *testing.T, to string) {
	t.Helper()
	for _, name := range []string{
		"cmd", "ddm", "docs", "http", "notifier", "storage", "tools", "go.mod", "go.sum", "LICENSE", "README.md", "CHANGELOG.md",
		"CONTRIBUTING.md", "SECURITY.md",
	} {
		from := filepath.Join("../..", name)
		information, err := os.Stat(from)
		require.NoError(t, err)
		if information.IsDir() {
			require.NoError(t, os.CopyFS(filepath.Join(to, name), os.DirFS(from)))
			continue
		}
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, name), text, 0o600))
	}
}

// unpack unpacks an archive with the modes that it has, and returns the names in it.
func unpack(t *testing.T, archive, directory string) (names []string) {
	t.Helper()
	reader, err := zip.OpenReader(archive)
	require.NoError(t, err)
	defer reader.Close()
	for _, entry := range reader.File {
		require.True(t, filepath.IsLocal(entry.Name), entry.Name)
		names = append(names, entry.Name)
		if strings.HasSuffix(entry.Name, "/decree") {
			require.Equal(t, os.FileMode(0o755), entry.Mode(), entry.Name)
		} else {
			require.Equal(t, os.FileMode(0o644), entry.Mode()&^0o111, entry.Name)
		}
		content, err := entry.Open()
		require.NoError(t, err)
		text, err := io.ReadAll(content)
		require.NoError(t, err)
		require.NoError(t, content.Close())
		path := filepath.Join(directory, entry.Name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, text, entry.Mode()))
	}
	return names
}
