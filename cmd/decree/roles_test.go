package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// as sends a request to the API with a key, and returns the answer's code and body.
func (s *server) as(key, method, path, body string) (int, string) {
	s.t.Helper()
	request, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	request.Header.Set("Authorization", "Bearer "+key)
	code, text := s.send(request)
	return code, string(text)
}

// waitLog waits until the process has logged a text.
func (p *process) waitLog(text string) {
	p.t.Helper()
	(&server{t: p.t}).eventually(func() bool { return strings.Contains(p.stderr.String(), text) }, "the log of "+text)
}

func digestOf(key string) string {
	digest := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(digest[:])
}

// TestKeyRotation is a year with keys in a file: roles, new keys, old ones that go, and mistakes, with one process.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "keys"),
		"# the first\npipeline write secret-of-pipeline\nconsole read secret-of-console\n")
	p := startBinary(t, "-api-keys", file)
	s := p.server()
	put := func(key string) int {
		declaration := declarationJSON("d."+digestOf(key)[7:15], "com.apple.configuration.test", "{}")
		code, _ := s.as(key, http.MethodPut, "/v1/declarations", declaration)
		return code
	}
	get := func(key string) int {
		code, _ := s.as(key, http.MethodGet, "/v1/declarations", "")
		return code
	}
	check := func(want map[string][2]int) {
		t.Helper()
		for key, codes := range want {
			require.Equal(t, codes, [2]int{get(key), put(key)}, key)
		}
	}
	nobody, reads, writes := [2]int{401, 401}, [2]int{200, 403}, [2]int{200, 204}
	check(map[string][2]int{
		testKey: writes, "secret-of-pipeline": writes, "secret-of-console": reads, "secret": nobody, "": nobody,
		"pipeline": nobody,
	})
	code, text := s.as("secret-of-console", http.MethodDelete, "/v1/declarations/d", "")
	require.Equal(t, http.StatusForbidden, code)
	require.JSONEq(t, `{"error":"this needs an API key with the role write, and console has the role read"}`, text)

	// The new key beside the old one, then alone. What was put was put by now.
	replaceFile(t, file, "pipeline write secret-of-pipeline\npipeline-2 write "+digestOf("secret-2")+
		"\nconsole read secret-of-console\n")
	s.eventually(func() bool { return get("secret-2") == 200 }, "the new key")
	check(map[string][2]int{"secret-of-pipeline": {200, 304}, "secret-2": writes, digestOf("secret-2"): nobody})
	writeFile(t, file, "pipeline-2 write "+digestOf("secret-2")+"\nconsole write secret-of-console\n")
	s.eventually(func() bool { return get("secret-of-pipeline") == 401 }, "the old key to go")
	check(map[string][2]int{"secret-of-pipeline": nobody, "secret-2": {200, 304}, "secret-of-console": writes, testKey: {200, 304}})

	// Mistakes change nothing, and are told without what is there.
	for content, told := range map[string]string{
		"pipeline-2 write secret-2\nconsole secret-of-console read\n": "line 2: the role is neither read nor write",
		"# all gone\n":                        "there is no key in it",
		"a write secret-3\nb read " + testKey: "line 2: the key is that of -api",
	} {
		replaceFile(t, file, content)
		p.waitLog(told)
		check(map[string][2]int{"secret-2": {200, 304}, "secret-of-console": {200, 304}, "secret-3": nobody})
	}
	require.NoError(t, os.Remove(file))
	p.waitLog("no such file")
	check(map[string][2]int{"secret-2": {200, 304}})
	writeFile(t, file, "last read secret-5\n")
	s.eventually(func() bool { return get("secret-5") == 200 }, "the file to be read again")
	check(map[string][2]int{"secret-2": nobody, "secret-5": reads, testKey: {200, 304}})

	// The log has who, and nobody's key.
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.wait(patience))
	log := p.stderr.String() + p.stdout.String()
	for _, name := range []string{"key_name=api", "key_name=pipeline ", "key_name=pipeline-2", "key_name=console", "key_name=last"} {
		require.True(t, strings.Contains(log, name), name)
	}
	for _, secret := range []string{"secret", testKey, strings.TrimPrefix(digestOf("secret-2"), "sha256:")} {
		require.False(t, strings.Contains(log, secret), secret)
	}
}

// TestKeysOfTheFileOnly checks that a file of keys is enough, and what is said at start of one that is wrong.
func TestKeysOfTheFileOnly(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "keys"), "api read secret-of-somebody\n")
	s := startBinary(t, "-api", "", "-api-keys", file).server()
	code, _ := s.as("secret-of-somebody", http.MethodGet, "/v1/sets", "")
	require.Equal(t, http.StatusOK, code)
	for _, key := range []string{testKey, ""} {
		code, _ = s.as(key, http.MethodGet, "/v1/sets", "")
		require.Equal(t, http.StatusUnauthorized, code)
	}
	for content, told := range map[string]string{
		"":                                         "there is no key in it",
		"a write secret\na read secret-2\n":        "line 2: the name",
		"a write secret\nb read secret\n":          "line 2: the key",
		"a admin secret\n":                         "line 1: the role",
		"a write secret\nb read -api-secret\n":     "line 2: the key is that of -api",
		"\n# x\n\tsecret!! read secret-3 secret\n": "line 3: it has 4 words",
	} {
		var stderr bytes.Buffer
		bad := writeFile(t, filepath.Join(t.TempDir(), "keys"), content)
		err := run(t.Context(), []string{
			"-listen", "127.0.0.1:0", "-storage-dsn", filepath.Join(t.TempDir(), "decree.db"), "-api", "-api-secret", "-api-keys", bad,
		}, nil, io.Discard, &stderr)
		require.ErrorContains(t, err, "-api-keys: ")
		require.ErrorContains(t, err, told)
		require.NotContains(t, err.Error()+stderr.String(), "secret")
	}
	err := run(t.Context(), []string{"-storage-dsn", filepath.Join(t.TempDir(), "decree.db"), "-api-keys", file + "x"},
		nil, io.Discard, io.Discard)
	require.ErrorContains(t, err, file+"x")
}
