package mysql

import (
	"database/sql"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var update = flag.Bool("update", false, "write schema.sql instead of comparing with it")

const schemaFile = "schema.sql"

// TestSchema checks that the migrations lead to the schema that is checked in, on every server. It is in the words of
// information_schema, without what differs between servers: SHOW CREATE TABLE has too much of that.
func TestSchema(t *testing.T) {
	t.Parallel()
	db := handle(t, mysqltest.DSN(t))
	require.NoError(t, migrate(t.Context(), db))
	schema := "-- The schema after all migrations: go test ./storage/mysql -run TestSchema -update\n"
	for _, table := range tables(t, db) {
		schema += "\n" + describe(t, db, table)
	}
	if *update {
		require.NoError(t, os.WriteFile(schemaFile, []byte(schema), 0o644))
	}
	wanted, err := os.ReadFile(schemaFile)
	require.NoError(t, err)
	require.Equal(t, string(wanted), schema)

	require.NoError(t, migrate(t.Context(), db), "there is nothing left to do")
}

// Widths for display are MariaDB's, and mean nothing.
var displayWidth = regexp.MustCompile(`\b(tinyint|int|bigint)\(\d+\)`)

func describe(t *testing.T, db *sql.DB, table string) string {
	t.Helper()
	var lines []string
	query(t, db, func(rows *sql.Rows) {
		var name, kind, nullable, extra string
		var fallback, collation sql.NullString
		require.NoError(t, rows.Scan(&name, &kind, &nullable, &fallback, &extra, &collation))
		line := "    " + name + " " + displayWidth.ReplaceAllString(kind, "$1")
		if collation.Valid {
			line += " COLLATE " + collation.String
		}
		if nullable == "NO" {
			line += " NOT NULL"
		}
		// MariaDB gives an expression, MySQL a value.
		switch value := strings.Trim(fallback.String, "'"); {
		case !fallback.Valid || fallback.String == "NULL":
		case value == "" || value == "0x":
			line += " DEFAULT ''"
		default:
			line += " DEFAULT " + value
		}
		lines = append(lines, line+strings.ToUpper(strings.TrimRight(" "+extra, " ")))
	}, `SELECT column_name, column_type, is_nullable, column_default, extra, collation_name
		FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position`, table)
	query(t, db, func(rows *sql.Rows) {
		var name, columns string
		var repeats bool
		require.NoError(t, rows.Scan(&name, &repeats, &columns))
		kind := "UNIQUE KEY " + name
		switch {
		case name == "PRIMARY":
			kind = "PRIMARY KEY"
		case repeats:
			kind = "KEY " + name
		}
		lines = append(lines, "    "+kind+" ("+columns+")")
	}, `SELECT index_name, MAX(non_unique), GROUP_CONCAT(column_name ORDER BY seq_in_index SEPARATOR ', ')
		FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = ?
		GROUP BY index_name ORDER BY index_name <> 'PRIMARY', index_name`, table)
	var engine, collation string
	require.NoError(t, db.QueryRowContext(t.Context(), `SELECT engine, table_collation FROM information_schema.tables
		WHERE table_schema = DATABASE() AND table_name = ?`, table).Scan(&engine, &collation))
	return "CREATE TABLE " + table + " (\n" + strings.Join(lines, ",\n") + "\n" +
		") ENGINE " + engine + " COLLATE " + collation + ";\n"
}

func query(t *testing.T, db *sql.DB, scan func(rows *sql.Rows), text string, args ...any) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), text, args...)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		scan(rows)
	}
	require.NoError(t, rows.Err())
}

// TestMigrateTogether starts several processes over a new database at once.
func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	dsn := mysqltest.DSN(t)
	var group errgroup.Group
	for range 4 {
		group.Go(func() error {
			store, err := Open(t.Context(), dsn, sqlstore.Options{})
			if err != nil {
				return err
			}
			return store.Close()
		})
	}
	require.NoError(t, group.Wait())
	var versions, distinct int
	require.NoError(t, handle(t, dsn).QueryRowContext(t.Context(),
		`SELECT COUNT(*), COUNT(DISTINCT version_id) FROM goose_db_version`).Scan(&versions, &distinct))
	require.Equal(t, distinct, versions, "each migration ran once")
}

// TestMigrateAfterAnInterruption checks that migrations can go on where a process died: the server commits each CREATE
// TABLE by itself.
func TestMigrateAfterAnInterruption(t *testing.T) {
	t.Parallel()
	db := handle(t, mysqltest.DSN(t))
	require.NoError(t, migrate(t.Context(), db))
	for _, statement := range []string{
		`DELETE FROM goose_db_version WHERE version_id > 0`, `DROP TABLE fanouts`, `DROP TABLE status_errors`,
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	require.NoError(t, migrate(t.Context(), db))
	require.Contains(t, tables(t, db), "fanouts")
	require.Contains(t, tables(t, db), "status_errors")
}
