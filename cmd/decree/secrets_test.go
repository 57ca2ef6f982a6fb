package main

import (
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// writeFile writes a file, as an editor does that writes in place, and returns its name.
func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	return name
}

// replaceFile puts a new file in the place of another in one step.
func replaceFile(t testing.TB, name, content string) {
	t.Helper()
	require.NoError(t, os.Rename(writeFile(t, name+".new", content), name))
}

// TestSecretsFromFiles checks that every secret can be in a file, and that what is wrong with one is told.
func TestSecretsFromFiles(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	file := func(name, content string) string { return writeFile(t, filepath.Join(directory, name), content) }
	secret := file("secret", "from-the-file\n")

	environ := []string{"DECREE_STORAGE=mysql", "DECREE_ENQUEUE=http://h/", "DECREE_EVENT_URL=http://h/"}
	for _, name := range secretFlags {
		environ = append(environ, variableOf(name)+fileSuffix+"="+file(name, "secret of "+name+"\n"))
	}
	config, err := parseConfig(t.Context(), nil, environ, io.Discard)
	require.NoError(t, err)
	require.Equal(t, []string{
		"secret of api", "secret of enqueue-key", "secret of webhook-hmac-key", "secret of dm-verify-hmac-key",
		"secret of dm-sign-hmac-key", "secret of event-hmac-key", "secret of storage-dsn",
	}, []string{
		config.apiKey, config.enqueueKey, config.webhookKey, config.dmVerifyKey, config.dmSignKey, config.events.key,
		config.storageDSN,
	})
	config.flagSet(io.Discard).VisitAll(func(f *flag.Flag) {
		if strings.HasSuffix(f.Name, "-key") && f.Name != "tls-key" {
			require.Contains(t, secretFlags, f.Name)
		}
	})

	imported, err := parseImportConfig(t.Context(), []string{"-from-url", "http://h/"}, []string{
		"DECREE_KEY_FILE=" + secret, "DECREE_STORAGE_DSN_FILE=" + file("dsn", "other.db"),
	}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, "from-the-file other.db", imported.key+" "+imported.storageDSN)

	for content, want := range map[string]string{
		"x": "x", "x\n": "x", "x\r\n": "x", "x\n\n": "x\n", " x ": " x ", "x=y\n": "x=y",
	} {
		config, err := parseConfig(t.Context(), nil, []string{"DECREE_API_FILE=" + file("form", content)}, io.Discard)
		require.NoError(t, err)
		require.Equal(t, want, config.apiKey, "%q", content)
	}
	for _, story := range []struct {
		name          string
		args, environ []string
		want          string
		mentions      []string
	}{
		{"a flag wins", []string{"-api", "flag"}, []string{"DECREE_API_FILE=" + secret}, "flag", nil},
		{"what is empty is not given", nil, []string{"DECREE_API=", "DECREE_API_FILE=" + secret}, "from-the-file", nil},
		{"no file is given", nil, []string{"DECREE_API=x", "DECREE_API_FILE="}, "x", nil},
		{"both", nil, []string{"DECREE_API=x", "DECREE_API_FILE=" + secret}, "", []string{"DECREE_API and DECREE_API_FILE", "both"}},
		{"no file", nil, []string{"DECREE_API_FILE=" + secret + "x"}, "", []string{"DECREE_API_FILE", secret + "x", "no such file"}},
		{"a directory", nil, []string{"DECREE_API_FILE=" + directory}, "", []string{"DECREE_API_FILE", directory}},
		{"an empty file", nil, []string{"DECREE_API_FILE=" + file("empty", "")}, "", []string{"DECREE_API_FILE", "empty"}},
		{"an empty line", nil, []string{"DECREE_API_FILE=" + file("line", "\n")}, "", []string{"DECREE_API_FILE", "empty"}},
	} {
		config, err := parseConfig(t.Context(), story.args, story.environ, io.Discard)
		if story.mentions == nil {
			require.NoError(t, err, story.name)
			require.Equal(t, story.want, config.apiKey, story.name)
			continue
		}
		for _, text := range story.mentions {
			require.ErrorContains(t, err, text, story.name)
		}
		require.NotContains(t, err.Error(), "from-the-file")
	}
}

// TestSecretFromPipe checks that a program that waits for a secret from a pipe can be stopped.
func TestSecretFromPipe(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-listen", "127.0.0.1:0"}, {"check"}} {
		name := filepath.Join(t.TempDir(), "pipe")
		require.NoError(t, syscall.Mkfifo(name, 0o600))
		cmd := exec.Command(buildDecree(t), args...)
		cmd.Env, cmd.Dir = []string{"DECREE_API=" + testKey, "DECREE_STORAGE_DSN_FILE=" + name}, t.TempDir()
		p := startProcess(t, cmd)
		(&server{t: t}).eventually(func() bool {
			// This fails until somebody reads.
			writer, err := os.OpenFile(name, os.O_WRONLY|syscall.O_NONBLOCK, 0)
			if err == nil {
				t.Cleanup(func() { _ = writer.Close() })
			}
			return err == nil
		}, "the pipe to be read")
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.Error(t, p.wait(patience))
		require.Contains(t, p.stderr.String(), "DECREE_STORAGE_DSN_FILE: "+name+" was not read to its end")
	}
}

// TestOperationsHasEverySecret checks that the operations guide has the variable for the file of every secret.
func TestOperationsHasEverySecret(t *testing.T) {
	t.Parallel()
	var documented []string
	for _, row := range tableRows(section(t, readDocument(t, "operations.md"), "## Flags and environment")) {
		if variable := strings.Trim(row[0], "`"); strings.HasSuffix(variable, fileSuffix) {
			documented = append(documented, variable)
			require.Contains(t, row[1], "`"+strings.TrimSuffix(variable, fileSuffix)+"`")
		}
	}
	var variables []string
	for _, name := range secretFlags {
		variables = append(variables, variableOf(name)+fileSuffix)
	}
	slices.Sort(documented)
	slices.Sort(variables)
	require.Equal(t, variables, documented)
}
