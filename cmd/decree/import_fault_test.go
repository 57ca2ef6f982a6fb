package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
)

// TestImportSourceFails has the source go away midway.
func TestImportSourceFails(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		source := startManySource(t, 60, 10, 100)
		address, err := url.Parse(source.url)
		require.NoError(t, err)
		proxy := httputil.NewSingleHostReverseProxy(address)
		var left atomic.Int64
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if left.Add(-1) < 0 {
				panic(http.ErrAbortHandler)
			}
			proxy.ServeHTTP(w, r)
		}))
		defer front.Close()
		target := openTarget(t, flags)
		from := []string{"-from-url", front.URL, "-key", testKey}
		const enough = 1 << 40
		left.Store(enough)
		mustImport(t, flags, append(from, "-dry-run")...)
		requests := enough - left.Load() // counted before any is left behind by an import that failed
		// At once, and among the declarations, the sets and the enrollments.
		for _, short := range []int64{requests, 30, 8, 1} {
			left.Store(requests - short)
			text, code := runImportTest(t, flags, from...)
			require.Equal(t, 1, code, text)
			require.Contains(t, text, "EOF")
			if short < requests {
				require.Contains(t, text, "Run the command again to go on")
			}
		}
		left.Store(enough)
		text := mustImport(t, flags, from...)
		require.Contains(t, text, "here already")
		require.Equal(t, imported(t, source.database, false), imported(t, target, false))
	})
}

func TestImportWrongSources(t *testing.T) {
	t.Parallel()
	source := startDecree(t, "-storage", "sqlite", "-storage-dsn", filepath.Join(t.TempDir(), "source.db"))
	answers := func(contentType, text string, status int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	dsn, _ := newKMFDDM(t, "CREATE TABLE other (id INT)")
	server := mysqltest.DSN(t)
	_, address, _ := strings.Cut(server, "@")
	wrongPassword := "nobody:wrong-password@" + address
	for _, test := range []struct {
		name, message string
		flags         []string
	}{
		{"nothing", "give one of -from-url and -from-mysql", nil},
		{"both", "give one of -from-url and -from-mysql", []string{"-from-url", "x", "-from-mysql", "x"}},
		{"argument", `unexpected argument "x"`, []string{"-from-mysql", dsn, "x"}},
		{"no key", "needs -key or DECREE_KEY", []string{"-from-url", source.url}},
		{"file", "-enrollments is for -from-url", []string{"-from-mysql", dsn, "-enrollments", "x"}},
		{"wrong key", "-from-url: GET /v1/declarations: the server refuses the API key (401)",
			[]string{"-from-url", source.url, "-key", "wrong"}},
		{"no address", "is not an address such as", []string{"-from-url", "127.0.0.1:9002", "-key", "x"}},
		{"nobody", "refused", []string{"-from-url", "http://127.0.0.1:1", "-key", "x"}},
		{"HTML", `is there another server at this address?`,
			[]string{"-from-url", answers("text/html; charset=utf-8", "<html>Welcome</html>", 200), "-key", "x"}},
		{"text", `the answer is not what it should be`, []string{"-from-url", answers("text/plain", "Hello", 200), "-key", "x"}},
		{"not found", "is this the address of the server", []string{"-from-url", answers("text/html", "<html>", 404), "-key", "x"}},
		{"fails", "500 Internal Server Error: database is gone",
			[]string{"-from-url", answers("application/json", `{"error":"database is gone"}`, 500), "-key", "x"}},
		{"no DSN", "-from-mysql: reading the DSN", []string{"-from-mysql", "nonsense"}},
		{"DSN without a database", "it names no database", []string{"-from-mysql", "user@tcp(127.0.0.1:1)/"}},
		{"DSN with nobody there", "connecting to KMFDDM's database", []string{"-from-mysql", "user@tcp(127.0.0.1:1)/x"}},
		{"wrong password", "Access denied", []string{"-from-mysql", wrongPassword}},
		{"other database", "this is not KMFDDM's database", []string{"-from-mysql", dsn}},
		{"storage", `-storage "x" is neither sqlite nor mysql`, []string{"-from-mysql", dsn, "-storage", "x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "decree.db")
			text, code := runImportTest(t, []string{"-storage-dsn", path}, test.flags...)
			require.Equal(t, 1, code)
			require.Contains(t, text, test.message)
			require.NotContains(t, text, "wrong-password")
			if test.name != "other database" {
				require.NoFileExists(t, path, "no database is made for a source that does not work")
			}
		})
	}
}

// TestImportStrangeServer imports from a server whose answers about some things are wrong.
func TestImportStrangeServer(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		const good = `{"Identifier":"good","Type":"com.apple.configuration.management.test","Payload":{},"ServerToken":"t"}`
		answers := map[string]string{
			"/v1/declarations":            `["good","gone","fails","garbage","other","array","large","no.token","no.payload","utf8"]`,
			"/v1/declarations/good":       good,
			"/v1/declarations/garbage":    "garbage",
			"/v1/declarations/other":      good,
			"/v1/declarations/array":      "[]",
			"/v1/declarations/large":      `{"Payload":"` + strings.Repeat("x", 5<<20) + `"}`,
			"/v1/declarations/no.token":   `{"Identifier":"no.token","Type":"com.apple.configuration.management.test","Payload":{}}`,
			"/v1/declarations/no.payload": `{"Identifier":"no.payload","Type":"com.apple.configuration.management.test","ServerToken":"t"}`,
			"/v1/declarations/utf8":       "{\"Identifier\":\"utf8\",\"Payload\":\"\xff\"}",
			"/v1/sets":                    `["s","fails","array"]`,
			"/v1/set-declarations/s":      `["good","gone"]`,
			"/v1/set-declarations/array":  `{"a":1}`,
			"/v1/enrollments":             `{"not":"a list"}`,
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer, found := answers[r.URL.Path]
			switch {
			case strings.HasSuffix(r.URL.Path, "/fails"):
				http.Error(w, `{"error":"it is broken"}`, http.StatusInternalServerError)
			case !found:
				http.NotFound(w, r)
			default:
				fmt.Fprint(w, answer)
			}
		}))
		defer server.Close()
		target := openTarget(t, flags)
		text, code := runImportTest(t, flags, "-from-url", server.URL, "-key", "x")
		require.Equal(t, exitNotAllTaken, code, text)
		for _, line := range []string{
			`declaration "gone": the server answers 404`, `declaration "fails": the server answers 500 Internal Server Error: it is broken`,
			`declaration "garbage": the answer is not what it should be`,
			`declaration "other": the server answers with another declaration, "good"`,
			`declaration "array": the answer is not what it should be`, `declaration "large": is too large`,
			`declaration "no.token": ServerToken: is missing`, `declaration "no.payload": Payload: is missing`,
			`declaration "utf8": the answer is not what it should be`,
			`declaration "gone" in set "s": there is no such declaration here`, `set "fails": the server answers 500`,
			`set "array": the answer is not what it should be`,
			`the sets of enrollments: the server does not list its enrollments`,
		} {
			require.Contains(t, text, "not taken: "+line)
		}
		require.Equal(t, []string{"[good t]"}, rows(t, target, `SELECT identifier, server_token FROM declarations`))
		require.Equal(t, []string{"[s good]"}, rows(t, target, `SELECT set_name, identifier FROM set_declarations`))
	})
}

// TestImportKilled kills imports at any moment; the next one completes what they began.
func TestImportKilled(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		dsn, source := newKMFDDM(t, kmfddmSchema)
		fillKMFDDM(t, source)
		target := openTarget(t, flags)
		for _, after := range []time.Duration{60, 120, 200, 300, 450} {
			cmd := importCommand(t, flags, "-from-mysql", dsn)
			p := startProcess(t, cmd)
			time.Sleep(after * time.Millisecond)
			p.kill()
		}
		mustImport(t, flags, "-from-mysql", dsn)
		require.Equal(t, imported(t, source, true), imported(t, target, false))
		require.Equal(t, []string{"[5000]"}, rows(t, target, `SELECT COUNT(*) FROM enrollments WHERE notify_at IS NOT NULL`))
	})
}

// TestImportCancelled has an import interrupted.
func TestImportCancelled(t *testing.T) {
	t.Parallel()
	dsn, source := newKMFDDM(t, kmfddmSchema)
	fillKMFDDM(t, source)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var output bytes.Buffer
	err := run(ctx, []string{"import", "-storage-dsn", filepath.Join(t.TempDir(), "decree.db"), "-from-mysql", dsn}, nil, &output, &output)
	require.Error(t, err)
	require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
	require.Equal(t, 1, exitCode(err))
}
