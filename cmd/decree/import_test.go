package main

import (
	"bytes"
	"database/sql"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The size of the server that tests import.
const (
	manyDeclarations = 500
	manySets         = 50
	manyEnrollments  = 5000
)

// runImportTest runs decree import into a database and returns what it wrote and its exit code.
func runImportTest(t testing.TB, target []string, flags ...string) (text string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), append(append([]string{"import"}, target...), flags...), nil, &stdout, &stderr)
	text = stdout.String() + stderr.String()
	if err == nil {
		return text, 0
	}
	return text + "decree: " + err.Error(), exitCode(err)
}

// mustImport runs decree import, which must take everything.
func mustImport(t testing.TB, target []string, flags ...string) (text string) {
	t.Helper()
	text, code := runImportTest(t, target, flags...)
	require.Zero(t, code, text)
	return text
}

// openTarget makes the database to import into, and opens it beside Decree.
func openTarget(t *testing.T, flags []string) *sql.DB {
	t.Helper()
	config := &config{}
	set := config.flagSet(os.Stderr)
	require.NoError(t, set.Parse(flags))
	p, err := openStore(t.Context(), config, nil)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	return openDatabase(t, config)
}

// rows are what a query gives, a text for each row.
func rows(t testing.TB, database *sql.DB, query string) (list []string) {
	t.Helper()
	found, err := database.QueryContext(t.Context(), query)
	require.NoError(t, err)
	columns, err := found.Columns()
	require.NoError(t, err)
	for found.Next() {
		values := make([]string, len(columns))
		pointers := make([]any, len(columns))
		for i := range values {
			pointers[i] = &values[i]
		}
		require.NoError(t, found.Scan(pointers...))
		list = append(list, fmt.Sprint(values))
	}
	require.NoError(t, found.Err())
	require.NoError(t, found.Close())
	return list
}

// importCommand is decree import as a process of its own.
func importCommand(t testing.TB, target []string, flags ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(buildDecree(t), append(append([]string{"import"}, target...), flags...)...)
}

// imported is what an import takes over, in the words of both kinds of databases.
func imported(t testing.TB, database *sql.DB, kmfddm bool) []string {
	t.Helper()
	identifier := "identifier"
	if kmfddm {
		identifier = "declaration_identifier"
	}
	return slices.Concat(
		rows(t, database, `SELECT identifier, type, server_token FROM declarations ORDER BY identifier`),
		rows(t, database, `SELECT set_name, `+identifier+` FROM set_declarations ORDER BY 1, 2`),
		rows(t, database, `SELECT enrollment_id, set_name FROM enrollment_sets ORDER BY 1, 2`))
}

// content is everything in a database.
func content(t testing.TB, database *sql.DB) []string {
	t.Helper()
	return (&server{t: t, database: database}).content()
}

func insertRows(t testing.TB, database *sql.DB, into string, n int, row func(i int) string) {
	t.Helper()
	for from := 0; from < n; from += 500 {
		var values []string
		for i := from; i < min(n, from+500); i++ {
			values = append(values, "("+row(i)+")")
		}
		_, err := database.ExecContext(t.Context(), "INSERT INTO "+into+" VALUES "+strings.Join(values, ","))
		require.NoError(t, err)
	}
}

// startManySource starts a Decree that has a lot, and has been used: some declarations were touched.
func startManySource(t *testing.T, declarations, sets, enrollments int) *server {
	t.Helper()
	s := startDecree(t, "-storage", "sqlite", "-storage-dsn", filepath.Join(t.TempDir(), "source.db"))
	for i := range declarations {
		if i%10 == 0 && i > 0 {
			// Activations sort before what they refer to.
			s.putDeclaration(fmt.Sprintf("a.%03d", i), typeActivation, fmt.Sprintf(`{"StandardConfigurations":["d.%03d"]}`, i-1))
		} else {
			s.putTest(fmt.Sprintf("d.%03d", i), "é")
		}
		if i%50 == 1 {
			s.change(http.MethodPost, fmt.Sprintf("/v1/declarations/d.%03d/touch", i), "")
		}
		name := fmt.Sprintf("d.%03d", i)
		if i%10 == 0 && i > 0 {
			name = fmt.Sprintf("a.%03d", i)
		}
		s.addToSet(fmt.Sprintf("set %02d", i%sets), name)
	}
	insertRows(t, s.database, "enrollments (id, created_at)", enrollments, func(i int) string {
		return fmt.Sprintf("'E/%05d', 0", i)
	})
	insertRows(t, s.database, "enrollment_sets (enrollment_id, set_name)", 2*enrollments, func(i int) string {
		return fmt.Sprintf("'E/%05d', 'set %02d'", i/2, (i/2+i%2*7)%sets)
	})
	return s
}

const typeActivation = "com.apple.activation.simple"

func TestImportFromDecree(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		source := startManySource(t, manyDeclarations, manySets, manyEnrollments)
		target := openTarget(t, flags)
		before := content(t, target)
		from := []string{"-from-url", source.url + "/", "-key", testKey}

		dry := mustImport(t, flags, append(from, "--dry-run")...)
		require.Contains(t, dry, "declarations: 500 to take, 0 here already, 0 not to take")
		require.Contains(t, dry, "declarations in sets: 500 to take, 0 here already, 0 not to take")
		require.Contains(t, dry, "sets of enrollments: 10000 to take, 0 here already, 0 not to take")
		require.Equal(t, before, content(t, target), "a dry run writes nothing")

		began := time.Now()
		text := mustImport(t, flags, from...)
		t.Logf("imported in %v", time.Since(began))
		require.Equal(t, strings.NewReplacer("to take", "taken", "not to take", "not taken").Replace(dry), text)
		require.Equal(t, imported(t, source.database, false), imported(t, target, false))
		require.Equal(t, []string{"[5000]"}, rows(t, target, `SELECT COUNT(*) FROM enrollments WHERE notify_at IS NOT NULL`))

		after := content(t, target)
		text = mustImport(t, flags, from...)
		require.Contains(t, text, "declarations: 0 taken, 500 here already, 0 not taken")
		require.Contains(t, text, "sets of enrollments: 0 taken, 10000 here already, 0 not taken")
		require.Equal(t, after, content(t, target), "the second time nothing changes, not even a version")

		// Both give a device the same.
		other := startDecree(t, flags...)
		for _, id := range []string{"E/00000", "E/00123", "E/04999"} {
			token, items := source.manifest(id)
			require.Len(t, items, 20)
			importedToken, importedItems := other.manifest(id)
			require.Equal(t, items, importedItems)
			require.Equal(t, token, importedToken)
		}
		// The next touch goes on from here.
		_, items := other.manifest("E/00001")
		other.change(http.MethodPost, "/v1/declarations/d.001/touch", "")
		_, touched := other.manifest("E/00001")
		require.NotEqual(t, items, touched)
	})
}

func TestImportConflicts(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		source := startDecree(t, "-storage", "sqlite", "-storage-dsn", filepath.Join(t.TempDir(), "source.db"))
		source.putTest("same", "x")
		source.change(http.MethodPost, "/v1/declarations/same/touch", "")
		source.putTest("other", "theirs")
		target := startDecree(t, flags...)
		target.putTest("same", "x")
		target.putTest("other", "mine")
		from := []string{"-from-url", source.url, "-key", testKey}
		text, code := runImportTest(t, flags, from...)
		require.Equal(t, exitNotAllTaken, code)
		require.Contains(t, text, `not taken: declaration "other": it exists here with another content`)
		require.Contains(t, text, "declarations: 1 taken, 0 here already, 1 not taken")
		mustImport(t, flags, append(from, "-overwrite")...)
		require.Equal(t, imported(t, source.database, false), imported(t, target.database, false))
	})
}

// withoutEnrollments passes everything on but the list of enrollments, and makes no pages: that is what KMFDDM has.
func withoutEnrollments(t *testing.T, source *server) string {
	t.Helper()
	address, err := url.Parse(source.url)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(address)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/enrollments" {
			http.NotFound(w, r)
			return
		}
		r.URL.RawQuery = ""
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL
}

func TestImportNamedEnrollments(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		source := startDecree(t, "-storage", "sqlite", "-storage-dsn", filepath.Join(t.TempDir(), "source.db"))
		source.putTest("d/1 é", "x")
		source.addToSet("a/b ü", "d/1 é")
		for i := range 40 {
			source.assign(fmt.Sprintf("E/%02d", i), "a/b ü")
		}
		from := []string{"-from-url", withoutEnrollments(t, source) + "/v1/", "-key", testKey}
		target := openTarget(t, flags)
		text, code := runImportTest(t, flags, from...)
		require.Equal(t, exitNotAllTaken, code)
		require.Contains(t, text, "not taken: the sets of enrollments: the server does not list its enrollments")
		require.Contains(t, text, "declarations in sets: 1 taken")
		require.Empty(t, rows(t, target, `SELECT * FROM enrollments`))

		file := filepath.Join(t.TempDir(), "ids")
		var ids strings.Builder
		for i := range 39 {
			fmt.Fprintf(&ids, "E/%02d\r\n\n", i)
		}
		ids.WriteString("unknown\nbad,id\nE/39")
		require.NoError(t, os.WriteFile(file, []byte(ids.String()), 0o600))
		text = mustImport(t, flags, append(from, "-enrollments", file)...)
		require.Contains(t, text, "sets of enrollments: 40 taken, 0 here already, 0 not taken")
		require.Contains(t, text, "ids given: 42, with sets at the source: 40\n")
		require.Equal(t, imported(t, source.database, false), imported(t, target, false))

		_, code = runImportTest(t, flags, append(from, "-enrollments", file+".not")...)
		require.Equal(t, 1, code)

		cmd := importCommand(t, flags, append(from, "-enrollments", "-")...)
		cmd.Stdin = strings.NewReader(ids.String())
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", output)
		require.Contains(t, string(output), "sets of enrollments: 0 taken, 40 here already, 0 not taken")

		for _, list := range []struct {
			name, text string
			code       int
			says       string
		}{
			{"byte order mark", "\ufeffE/00\nE/01\n", 0, "ids given: 2, with sets at the source: 2"},
			{"nobody", "\n \n", 0, "ids given: 0, with sets at the source: 0"},
			{"unknown", "id\ne/00\n", exitNotAllTaken, "none of the ids given has sets at the source"},
			{"another case", "e/00\n", exitNotAllTaken, "ids given: 1, with sets at the source: 0"},
			{"quoted", "E/00\n\n\"E/01\"\n", 1, "the enrollments' ids: line 3 is in quotes"},
			{"quoted otherwise", "'E/01'\n", 1, "line 1 is in quotes"},
			{"UTF-16", "\xff\xfeE\x00/\x00", 1, "line 1 is not valid UTF-8"},
			{"UTF-16 without a mark", "E\x00/\x000\x000\x00\n\x00", 1, "line 1 has a NUL"},
			{"Latin-1", "E/00\n\xe4\n", 1, "line 2 is not valid UTF-8"},
		} {
			require.NoError(t, os.WriteFile(file, []byte(list.text), 0o600))
			for _, more := range [][]string{nil, {"-dry-run"}} {
				text, code := runImportTest(t, flags, slices.Concat(from, []string{"-enrollments", file}, more)...)
				require.Equal(t, list.code, code, "%s: %s", list.name, text)
				require.Contains(t, text, list.says, list.name)
				require.Contains(t, text, "ids given: ", list.name)
			}
		}
	})
}

// TestImportBesideServer imports into the database of a running server, which serves what comes at once.
func TestImportBesideServer(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		dsn, source := newKMFDDM(t, kmfddmSchema)
		fillKMFDDM(t, source)
		server := startDecree(t, flags...)
		server.assign("E-00001", "set 01")
		empty, items := server.manifest("E-00001")
		require.Empty(t, items)

		// Meanwhile the server is used.
		done := make(chan struct{})
		var slowest atomic.Int64
		errs := make(chan error, 1)
		go func() {
			defer close(errs)
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-time.After(5 * time.Millisecond):
				}
				request, err := http.NewRequest(http.MethodPut,
					fmt.Sprintf("%s/v1/enrollment-sets/mine-%d?set=mine", server.url, i), nil)
				if err == nil {
					request.SetBasicAuth("kmfddm", testKey)
					began := time.Now()
					var code int
					var text []byte
					if code, text, err = exchange(request); err == nil && code != http.StatusNoContent {
						err = fmt.Errorf("%d: %s", code, text)
					}
					slowest.Store(max(slowest.Load(), int64(time.Since(began))))
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
		began := time.Now()
		mustImport(t, flags, "-from-mysql", dsn)
		t.Logf("imported in %v; the server's slowest answer took %v", time.Since(began), time.Duration(slowest.Load()))
		close(done)
		require.NoError(t, <-errs)

		token, items := server.manifest("E-00001")
		require.NotEqual(t, empty, token)
		require.Len(t, items, 20)
		server.waitFanouts()
		require.Zero(t, server.count(`SELECT COUNT(*) FROM enrollments e WHERE notify_seq = 0 AND
			EXISTS (SELECT 1 FROM enrollment_sets s WHERE s.enrollment_id = e.id)`))
	})
}

func TestImportNoNotify(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		dsn, source := newKMFDDM(t, kmfddmSchema)
		fillKMFDDM(t, source)
		target := openTarget(t, flags)
		mustImport(t, flags, "-from-mysql", dsn, "-nonotify")
		require.Equal(t, []string{"[5000 5000]"}, rows(t, target, `SELECT COUNT(*), SUM(held) FROM enrollments`))
	})
}

func TestImportEmptySource(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		source := startDecree(t, "-storage", "sqlite", "-storage-dsn", filepath.Join(t.TempDir(), "source.db"))
		const nothing = "declarations: 0 taken, 0 here already, 0 not taken\n" +
			"declarations in sets: 0 taken, 0 here already, 0 not taken\nsets of enrollments: 0 taken, 0 here already, 0 not taken\n"
		require.Equal(t, nothing, mustImport(t, flags, "-from-url", source.url, "-key", testKey))
		dsn, _ := newKMFDDM(t, kmfddmSchema)
		require.Equal(t, nothing, mustImport(t, flags, "-from-mysql", dsn))

		// KMFDDM writes null for an empty list.
		null := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/enrollments" {
				http.NotFound(w, r)
				return
			}
			fmt.Fprintln(w, "null")
		}))
		defer null.Close()
		text, code := runImportTest(t, flags, "-from-url", null.URL, "-key", testKey)
		require.Equal(t, exitNotAllTaken, code)
		require.Contains(t, text, "sets of enrollments: 0 taken, 0 here already, 1 not taken")
	})
}
