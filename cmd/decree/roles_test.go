package main

import (
	"bytes"
	"io"
	"net/http"
	"path/filepath"
	"strings"
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
