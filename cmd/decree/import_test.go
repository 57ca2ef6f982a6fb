package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
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

	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
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

// kmfddmSchema is what KMFDDM makes of its database, as far as an import reads it (KMFDDM v0.8, storage/mysql/schema.sql).
// The rows that break rules can only come from older versions or other hands.
const kmfddmSchema = `
ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci;
CREATE TABLE declarations (
	identifier VARCHAR(255) NOT NULL,
	type VARCHAR(255) NOT NULL,
	payload JSON NOT NULL,
	created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
	updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP NOT NULL,
	touched_ct INT DEFAULT 0 NOT NULL,
	server_token CHAR(40) NOT NULL,
	PRIMARY KEY (identifier),
	CHECK (type != ''),
	INDEX (type)
);
CREATE TABLE set_declarations (
	set_name VARCHAR(255) NOT NULL,
	declaration_identifier VARCHAR(255) NOT NULL,
	PRIMARY KEY (set_name, declaration_identifier),
	FOREIGN KEY (declaration_identifier) REFERENCES declarations (identifier),
	created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
	updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP NOT NULL
);
CREATE TABLE enrollment_sets (
	enrollment_id VARCHAR(255) NOT NULL,
	set_name VARCHAR(255) NOT NULL,
	PRIMARY KEY (enrollment_id, set_name),
	created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
	updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP NOT NULL
)`

// brokenSchema is one that holds anything.
const brokenSchema = `
CREATE TABLE declarations (
	identifier VARBINARY(600), type VARBINARY(600), payload LONGBLOB, server_token VARBINARY(255)
);
CREATE TABLE set_declarations (set_name VARBINARY(600), declaration_identifier VARBINARY(600));
CREATE TABLE enrollment_sets (enrollment_id VARBINARY(600), set_name VARBINARY(600))`

// newKMFDDM makes a database of KMFDDM.
func newKMFDDM(t *testing.T, schema string) (dsn string, database *sql.DB) {
	t.Helper()
	dsn = mysqltest.DSN(t)
	database, err := sql.Open("mysql", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, database.Close()) })
	for statement := range strings.SplitSeq(schema, ";") {
		_, err := database.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	return dsn, database
}

// kmfddmDeclaration is the row of a declaration as KMFDDM writes it.
func kmfddmDeclaration(identifier, declarationType, payload string) string {
	return fmt.Sprintf(`'%[1]s', '%[2]s', '%[3]s', SHA1(CONCAT('%[1]s', '%[2]s', '%[3]s', CURRENT_TIMESTAMP, 0))`,
		identifier, declarationType, payload)
}

func fillKMFDDM(t *testing.T, database *sql.DB) {
	t.Helper()
	insertRows(t, database, "declarations (identifier, type, payload, server_token)", manyDeclarations, func(i int) string {
		if i%10 == 0 && i > 0 {
			return kmfddmDeclaration(fmt.Sprintf("d.%03d", i), typeActivation, fmt.Sprintf(`{"StandardConfigurations": ["d.%03d"]}`, (i+1)))
		}
		return kmfddmDeclaration(fmt.Sprintf("d.%03d", i), "com.apple.configuration.management.test", `{"Echo": "é", "N": 1.0}`)
	})
	insertRows(t, database, "set_declarations (set_name, declaration_identifier)", manyDeclarations, func(i int) string {
		return fmt.Sprintf("'set %02d', 'd.%03d'", i%manySets, i)
	})
	insertRows(t, database, "enrollment_sets (enrollment_id, set_name)", 2*manyEnrollments, func(i int) string {
		return fmt.Sprintf("'E-%05d', 'set %02d'", i/2, (i/2+i%2*7)%manySets)
	})
}

func TestImportFromKMFDDM(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		dsn, source := newKMFDDM(t, kmfddmSchema)
		fillKMFDDM(t, source)
		target := openTarget(t, flags)
		before := content(t, target)

		dry := mustImport(t, flags, "-from-mysql", dsn, "-dry-run")
		require.Contains(t, dry, "declarations: 500 to take, 0 here already, 0 not to take")
		require.Equal(t, before, content(t, target), "a dry run writes nothing")

		began := time.Now()
		text := mustImport(t, flags, "-from-mysql", dsn)
		t.Logf("imported in %v", time.Since(began))
		require.Contains(t, text, "declarations: 500 taken, 0 here already, 0 not taken")
		require.Contains(t, text, "declarations in sets: 500 taken, 0 here already, 0 not taken")
		require.Contains(t, text, "sets of enrollments: 10000 taken, 0 here already, 0 not taken")
		require.Equal(t, imported(t, source, true), imported(t, target, false))

		after := content(t, target)
		text = mustImport(t, flags, "-from-mysql", dsn)
		require.Contains(t, text, "sets of enrollments: 0 taken, 10000 here already, 0 not taken")
		require.Equal(t, after, content(t, target), "the second time nothing changes, not even a version")

		// The old server goes on being used, until the switch.
		_, err := source.ExecContext(t.Context(), `UPDATE declarations SET touched_ct = 1, server_token = 'new' WHERE identifier = 'd.001'`)
		require.NoError(t, err)
		_, err = source.ExecContext(t.Context(),
			`UPDATE declarations SET payload = '{"Echo": "later"}', server_token = 'newer' WHERE identifier = 'd.002'`)
		require.NoError(t, err)
		_, err = source.ExecContext(t.Context(), `INSERT INTO enrollment_sets (enrollment_id, set_name) VALUES ('late', 'set 01')`)
		require.NoError(t, err)
		text = mustImport(t, flags, "-from-mysql", dsn)
		require.Contains(t, text, "declarations: 2 taken, 498 here already, 0 not taken")
		require.Contains(t, text, "sets of enrollments: 1 taken, 10000 here already, 0 not taken")
		require.Equal(t, imported(t, source, true), imported(t, target, false))

		// What was changed here is not lost.
		server := startDecree(t, flags...)
		server.putTest("d.002", "mine")
		_, err = source.ExecContext(t.Context(),
			`UPDATE declarations SET payload = '{"Echo": "last"}', server_token = 'newest' WHERE identifier = 'd.002'`)
		require.NoError(t, err)
		text, code := runImportTest(t, flags, "-from-mysql", dsn)
		require.Equal(t, exitNotAllTaken, code)
		require.Contains(t, text, `not taken: declaration "d.002": it exists here with another content, which may have been made here`)
		mustImport(t, flags, "-from-mysql", dsn, "-overwrite")
		require.Equal(t, imported(t, source, true), imported(t, target, false))
	})
}

// TestImportSpellings imports names that MySQL takes for the same, and Decree does not.
func TestImportSpellings(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		dsn, source := newKMFDDM(t, kmfddmSchema)
		insertRows(t, source, "declarations (identifier, type, payload, server_token)", 3, func(i int) string {
			return kmfddmDeclaration(fmt.Sprintf("com.example.%d", i), "com.apple.configuration.management.test", `{}`)
		})
		insertRows(t, source, "set_declarations (set_name, declaration_identifier)", 3, func(i int) string {
			return fmt.Sprintf("'%s', '%s.%d'", []string{"base", "Base", "BASE"}[i], []string{"com.Example", "com.example", "COM.EXAMPLE"}[i], i)
		})
		insertRows(t, source, "enrollment_sets (enrollment_id, set_name)", 3, func(i int) string {
			return fmt.Sprintf("'E-%d', '%s'", i, []string{"baSe", "base", "other"}[i])
		})
		target := openTarget(t, flags)
		mustImport(t, flags, "-from-mysql", dsn)
		require.Equal(t, []string{"[base com.example.0]", "[base com.example.1]", "[base com.example.2]"},
			rows(t, target, `SELECT set_name, identifier FROM set_declarations ORDER BY 1, 2`))
		require.Equal(t, []string{"[E-0 base]", "[E-1 base]", "[E-2 other]"},
			rows(t, target, `SELECT enrollment_id, set_name FROM enrollment_sets ORDER BY 1, 2`))
	})
}

// TestImportBrokenRows imports from tables with everything that can be wrong in them.
func TestImportBrokenRows(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		dsn, source := newKMFDDM(t, brokenSchema)
		const management = "com.apple.configuration.management.test"
		long := strings.Repeat("x", 256)
		for _, row := range [][4]any{
			{"good", management, `{"Echo":"x"}`, "token"},
			{"activation", typeActivation, `{"StandardConfigurations":["good","later"]}`, "token"},
			{"later", management, `{"Echo":"x"}`, "token"},
			{"circle.1", typeActivation, `{"StandardConfigurations":["circle.2"]}`, "token"},
			{"circle.2", typeActivation, `{"StandardConfigurations":["circle.1","later"]}`, "token"},
			{"bad.dangling", typeActivation, `{"StandardConfigurations":["good","nowhere"]}`, "token"},
			{"bad.dangling.2", typeActivation, `{"StandardConfigurations":["bad.dangling"]}`, "token"},
			{"bad.json", management, `{"Echo":`, "token"},
			{"bad.injection", management, `{},"ServerToken":"x"`, "token"},
			{"bad.list", management, `[]`, "token"},
			{"bad.utf8.payload", management, "{\"Echo\":\"\xff\"}", "token"},
			{"bad.utf8.\xff", management, `{}`, "token"},
			{"bad.type", "com.apple.nothing.test", `{}`, "token"},
			{"bad.type.utf8", "com.apple.configuration.\xff", `{}`, "token"},
			{"bad?", management, `{}`, "token"},
			{long, management, `{}`, "token"},
			{"", management, `{}`, "token"},
			{nil, management, `{}`, "token"},
			{"bad.null.type", nil, `{}`, "token"},
			{"bad.null.payload", management, nil, "token"},
			{"bad.null.token", management, `{}`, nil},
			{"bad.token.empty", management, `{}`, ""},
			{"bad.token.long", management, `{}`, strings.Repeat("t", 65)},
			{"bad.token.utf8", management, `{}`, "\xff"},
			{"bad.token.control", management, `{}`, "a\nb"},
			{"bad.large", management, `{"Echo":"` + strings.Repeat("x", 4<<20) + `"}`, "token"},
			{"large", management, `{"Echo":"` + strings.Repeat("x", 4<<20-200) + `"}`, "token"},
			{"twice", management, `{"Echo":"x"}`, "token"},
			{"twice", management, `{"Echo":"other"}`, "token"},
		} {
			_, err := source.ExecContext(t.Context(), `INSERT INTO declarations VALUES (?, ?, ?, ?)`, row[0], row[1], row[2], row[3])
			require.NoError(t, err)
		}
		for _, row := range [][2]any{
			{"s", "good"}, {"s", "activation"}, {"s", "unknown"}, {"s", "bad.json"}, {nil, "good"}, {"s", nil}, {"\xff", "good"},
			{" s", "good"}, {"s", "bad?"}, {long, "good"}, {"t", "large"}, {"", "good"}, {"s", "good"},
		} {
			_, err := source.ExecContext(t.Context(), `INSERT INTO set_declarations VALUES (?, ?)`, row[0], row[1])
			require.NoError(t, err)
		}
		for _, row := range [][2]any{
			{"e", "s"}, {"e", "empty"}, {"bad,1", "s"}, {nil, "s"}, {"bad.2", nil}, {"bad\xff", "s"}, {"bad.3", "s\xff"},
			{"bad.4", long}, {"", "s"}, {"bad.5\n", "s"}, {"f", "t"},
		} {
			_, err := source.ExecContext(t.Context(), `INSERT INTO enrollment_sets VALUES (?, ?)`, row[0], row[1])
			require.NoError(t, err)
		}
		target := openTarget(t, flags)
		before := content(t, target)
		dry, code := runImportTest(t, flags, "-from-mysql", dsn, "-dry-run")
		require.Equal(t, exitNotAllTaken, code)
		require.Equal(t, before, content(t, target))

		text, code := runImportTest(t, flags, "-from-mysql", dsn)
		require.Equal(t, exitNotAllTaken, code, text)
		t.Log(text)
		for _, line := range []string{
			`declaration "bad.dangling": refers to declarations that do not exist here: "nowhere"`,
			`declaration "bad.dangling.2": refers to declarations that do not exist here: "bad.dangling"`,
			`declaration "bad.json": Payload: is not JSON`,
			`declaration "bad.injection": Payload: is not JSON`,
			`declaration "bad.list": Payload: must be an object`,
			`declaration "bad.utf8.payload": `,
			`declaration "bad.utf8.\xff": Identifier: must be valid UTF-8`,
			`declaration "bad.type": Type: `,
			`declaration "bad.type.utf8": Type: must be valid UTF-8`,
			`declaration "bad?": Identifier: must not contain '?'`,
			`declaration "` + long + `": Identifier: must not be longer than 255 octets`,
			`declaration "": Identifier: must not be empty`,
			`declaration "": identifier is NULL`,
			`declaration "bad.null.type": type is NULL`,
			`declaration "bad.null.payload": payload is NULL`,
			`declaration "bad.null.token": server_token is NULL`,
			`declaration "bad.token.empty": ServerToken: is missing`,
			`declaration "bad.token.long": ServerToken: must not be longer than 64 octets, has 65`,
			`declaration "bad.token.utf8": ServerToken: must be valid UTF-8`,
			`declaration "bad.token.control": ServerToken: must not contain control characters`,
			`declaration "bad.large": is too large`,
			`declaration "twice": its ServerToken belongs to another content of it here`,
			`declaration "unknown" in set "s": there is no such declaration here`,
			`declaration "bad.json" in set "s": there is no such declaration here`,
			`declaration "good" in set "": set_name is NULL`,
			`set "s": declaration_identifier is NULL`,
			`declaration "good" in set "\xff": set: must be valid UTF-8`,
			`declaration "good" in set " s": set: must not begin or end with white space`,
			`declaration "bad?" in set "s": declaration: must not contain '?'`,
			`declaration "good" in set "` + long + `": set: must not be longer than 255 octets`,
			`set "s" of enrollment "bad,1": enrollment: must not contain a comma`,
			`set "s" of enrollment "": enrollment_id is NULL`,
			`enrollment "bad.2": set_name is NULL`,
			`set "s" of enrollment "bad\xff": enrollment: must be valid UTF-8`,
			`set "s\xff" of enrollment "bad.3": set: must be valid UTF-8`,
			`set "s" of enrollment "bad.5\n": enrollment: must not contain control characters`,
		} {
			require.Contains(t, text, "not taken: "+line)
			if !strings.Contains(line, `"twice"`) {
				require.Contains(t, dry, "not taken: "+line, "a dry run says the same")
			}
		}
		require.Contains(t, text, "declarations: 7 taken, 0 here already, 22 not taken")
		require.Contains(t, text, "declarations in sets: 3 taken, 1 here already, 9 not taken")
		require.Contains(t, text, "sets of enrollments: 3 taken, 0 here already, 8 not taken")
		require.Equal(t, []string{
			"[activation token]", "[circle.1 token]", "[circle.2 token]", "[good token]", "[large token]", "[later token]", "[twice token]",
		}, rows(t, target, `SELECT identifier, server_token FROM declarations ORDER BY identifier`))
		require.Equal(t, []string{"[s activation]", "[s good]", "[t large]"},
			rows(t, target, `SELECT set_name, identifier FROM set_declarations ORDER BY 1, 2`))
		require.Equal(t, []string{"[e empty]", "[e s]", "[f t]"},
			rows(t, target, `SELECT enrollment_id, set_name FROM enrollment_sets ORDER BY 1, 2`))

		after := content(t, target)
		_, code = runImportTest(t, flags, "-from-mysql", dsn)
		require.Equal(t, exitNotAllTaken, code)
		require.Equal(t, after, content(t, target))
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
