package api

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func digestOf(key string) string {
	digest := sha256.Sum256([]byte(key))
	return digestPrefix + hex.EncodeToString(digest[:])
}

// TestRoles checks what a key for reading is good for, and that the log has names and no keys.
func TestRoles(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("D")
	s.do("GET", "/v1/declarations", readOnly).is(200).json(`["D"]`)
	s.do("HEAD", "/v1/declarations", readOnly).is(200).empty()
	s.do("GET", "/v1/declarations", header("Authorization", "Bearer "+readKey)).is(200)
	for _, request := range []string{
		"PUT /v1/declarations", "DELETE /v1/declarations/D", "POST /v1/declarations/D/touch", "POST /v1/notify?id=E",
	} {
		method, target, _ := strings.Cut(request, " ")
		got := s.do(method, target, readOnly, body(declaration("other"))).fails(403, "role write", "reader has the role read")
		require.Empty(t, got.header.Get("WWW-Authenticate"), "another password is not asked for")
	}
	s.do("GET", "/v1/declarations").is(200).json(`["D"]`)
	s.do("PUT", "/v1/declarations", header("Authorization", "Bearer a-guess"), body(declaration("D"))).is(401)
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), `"status":401`) }, eventually, tick)
	log := s.log.String()
	require.Contains(t, log, `"key_name":"api"`)
	require.Contains(t, log, `"key_name":"reader"`)
	for _, secret := range []string{testKey, readKey, "a-guess"} {
		require.NotContains(t, log, secret)
	}
}

func TestKeyringLoad(t *testing.T) {
	t.Parallel()
	keys, err := NewKeyring("own-secret")
	require.NoError(t, err)
	name := func(key string) string {
		if found := keys.find(key); found != nil {
			return found.name + " " + string(found.role)
		}
		return ""
	}
	require.NoError(t, keys.Load([]byte(strings.Join([]string{
		"# who may do what", "", "  # more", "console\tread   secret-1\r", "ci.deploy@example write " + digestOf("secret-2"),
		"hash write sec#ret",
	}, "\n"))))
	check := func() {
		for key, want := range map[string]string{
			"own-secret": "api write", "secret-1": "console read", "secret-2": "ci.deploy@example write", "sec#ret": "hash write",
			digestOf("secret-1"): "", digestOf("secret-2"): "", "": "", "secret": "", "secret-1\r": "", "#": "",
			strings.Repeat("x", maxKeyLength+1): "",
		} {
			require.Equal(t, want, name(key), key)
		}
	}
	check()
	many := &strings.Builder{}
	for i := range maxKeys {
		fmt.Fprintf(many, "name%d read secret%d\n", i, i)
	}
	for text, mentions := range map[string][]string{
		"":                           {"no key"},
		"\n# nothing\n":              {"no key"},
		"a read":                     {"line 1", "2 words"},
		"\n\na read secret-3 # mine": {"line 3", "5 words"},
		"a secret-3 read":            {"line 1", "role", "read", "write"},
		"a admin secret-3":           {"line 1", "role"},
		"a READ secret-3":            {"line 1", "role"},
		"secret-3! read a":           {"line 1", "name"},
		strings.Repeat("n", 65) + " read secret-3":            {"line 1", "name"},
		"a read secret-3\nb read secret-4\na write secret-5":  {"line 3", "name", "line 1"},
		"a read secret-3\nb write secret-3":                   {"line 2", "the key is that of line 1"},
		"a read secret-3\nb write " + digestOf("secret-3"):    {"line 2", "the key is that of line 1"},
		"api read secret-3":                                   {"line 1", "name", "-api"},
		"a read own-secret":                                   {"line 1", "the key is that of -api"},
		"a read sha256:secret":                                {"line 1", "64 hexadecimal digits"},
		"a read sha256:" + strings.Repeat("0", 66):            {"line 1", "64 hexadecimal digits"},
		"a read " + strings.Repeat("secret", maxKeyLength):    {"line 1", "longer than 1024"},
		many.String() + "another write " + digestOf("secret"): {"more than 1000"},
	} {
		err := keys.Load([]byte(text))
		require.Error(t, err, text)
		for _, mentioned := range mentions {
			require.ErrorContains(t, err, mentioned, text)
		}
		require.NotContains(t, err.Error(), "secret")
		require.NotContains(t, err.Error(), "admin", "words that were mixed up may be keys")
		check() // what is wrong changes nothing
	}

	require.NoError(t, keys.Load([]byte("console write "+digestOf("secret-6"))))
	require.Equal(t, []string{"api write", "console write", "", ""},
		[]string{name("own-secret"), name("secret-6"), name("secret-1"), name("secret-2")})

	alone, err := NewKeyring("")
	require.NoError(t, err)
	require.Nil(t, alone.find(""))
	require.NoError(t, alone.Load([]byte("api read secret")), "the name is free where there is no -api")
	require.Equal(t, "api", alone.find("secret").name)
	_, err = NewKeyring(strings.Repeat("x", maxKeyLength+1))
	require.ErrorContains(t, err, "longer")
}

// TestKeysWhileTheyChange checks that requests with a key that stays are not disturbed by others that come and go.
func TestKeysWhileTheyChange(t *testing.T) {
	t.Parallel()
	keys, err := NewKeyring(testKey)
	require.NoError(t, err)
	s := newServer(t, func(c *Config) { c.Keys = keys })
	done := make(chan error)
	go func() {
		var err error
		for i := 0; i < 1000 && err == nil; i++ {
			err = keys.Load(fmt.Appendf(nil, "stays read %s\nother%d write secret%d", digestOf(readKey), i, i))
		}
		done <- err
	}()
	require.NoError(t, keys.Load([]byte("stays read "+readKey)))
	for range 20 {
		require.Equal(t, http.StatusOK, s.do("GET", "/v1/sets", readOnly).code)
		require.Equal(t, http.StatusOK, s.do("GET", "/v1/sets").code)
	}
	require.NoError(t, <-done)
}

// FuzzKeyring checks that no file lets nobody's key in, or takes the keyring's own away.
func FuzzKeyring(f *testing.F) {
	f.Add([]byte("a read b\n# c\nd write " + digestOf("e")))
	f.Fuzz(func(t *testing.T, file []byte) {
		keys, err := NewKeyring("own")
		require.NoError(t, err)
		if err := keys.Load(file); err != nil {
			require.Len(t, *keys.current.Load(), 1)
		}
		require.NotNil(t, keys.find("own"))
		require.Nil(t, keys.find(""))
	})
}
