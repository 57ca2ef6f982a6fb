package main

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
)

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
