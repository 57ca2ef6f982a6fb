package mysql

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
	"github.com/decree-ddm/decree/storage/sqlstore"
	"github.com/decree-ddm/decree/storage/storagetest"
)

// walks are parts of statements that read a bounded number of rows only in the order of one index, by its name.
var walks = map[string]string{
	"FROM enrollments WHERE id > ?":                        "PRIMARY",
	"WHERE out_of_sync = ? AND id > ?":                     "enrollments_sync",
	"WHERE set_name = ? AND enrollment_id > ?":             "enrollment_sets_set",
	"FROM enrollments WHERE attempts > 0":                  "enrollments_failing enrollments_unwoken",
	"FROM enrollments WHERE priority = ? AND not":          "enrollments_queue",
	"FROM fanouts\n\t\tWHERE set_name > ''":                "PRIMARY",
	"FROM facts FORCE INDEX":                               "facts_serial_number facts_model facts_os_family",
	"WHERE kind = ? AND subject = ? AND enrollment_id > ?": "PRIMARY",
	"WHERE sync_news = 1":                                  "enrollments_sync_news",
}

// TestPlans checks that no statement reads through a whole table.
func TestPlans(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dsn := mysqltest.DSN(t)
	db := handle(t, dsn)
	require.NoError(t, migrate(ctx, db))
	storagetest.Populate(t, db)
	connector, err := newConnector(dsn, 0)
	require.NoError(t, err)
	recorder := &storagetest.Recorder{Connector: connector}
	recorded := sql.OpenDB(recorder)
	clock := storagetest.NewClock()
	store, err := sqlstore.New(ctx, sqlstore.Handles{Read: recorded, Write: recorded}, dialect, sqlstore.Options{
		NotifyDelay: -1, Clock: clock.Now, KeepChanges: 100, KeepVersions: 1,
	})
	require.NoError(t, err)
	storagetest.Exercise(ctx, t, store, clock)
	require.NoError(t, store.Close())

	require.Greater(t, len(recorder.Statements()), 50)

	// What is due changes what the planner likes.
	for _, state := range []string{
		`UPDATE enrollments SET notify_at = NULL`,
		`UPDATE enrollments SET notify_at = 1 WHERE id >= 'e2000'`, // as in the midst of a mass fan-out
		`UPDATE enrollments SET notify_at = 1`,
		`UPDATE enrollments SET attempts = 1, last_error = 'x', out_of_sync = 1 WHERE id < 'e2000'`,
		`UPDATE enrollments SET lease_until = 9000000000000000 WHERE id <= 'e3000'`,
		`UPDATE fanouts SET due_at = 1 WHERE set_name >= 'other2000'`,
		`UPDATE declaration_versions SET replaced_at = 1, collect_from = 1 WHERE identifier > 'd2000'`,
		`UPDATE manifests SET served_at = 1 WHERE token > 't2000'`,
	} {
		_, err := db.ExecContext(ctx, state)
		require.NoError(t, err)
		for _, table := range tables(t, db) {
			rows, err := db.QueryContext(ctx, `ANALYZE TABLE `+table)
			require.NoError(t, err)
			require.NoError(t, rows.Close())
		}
		for _, statement := range recorder.Statements() {
			for _, step := range plan(t, db, statement) {
				for part, key := range walks {
					if strings.Contains(statement.Text, part) && !strings.HasPrefix(step.table, "<derived") {
						assert.Contains(t, strings.Fields(key), step.key, "%s:\n%s", state, statement.Text)
					}
				}
				if strings.HasPrefix(step.table, "<derived") {
					continue // the rows of a subquery, which has steps of its own
				}
				if step.access == "ALL" || step.access == "index" {
					assert.Less(t, step.rows, int64(500), "%s:\n%+v\n%s", state, step, statement.Text)
				}
			}
		}
	}
}

// step is a line of a plan: how a table is read, by which key, and about how many rows of it.
type step struct {
	table, access, key string
	rows               int64
}

func plan(t testing.TB, db *sql.DB, statement storagetest.Statement) []step {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `EXPLAIN `+statement.Text, statement.Args...)
	require.NoError(t, err, statement.Text)
	defer func() { require.NoError(t, rows.Close()) }()
	columns, err := rows.Columns()
	require.NoError(t, err)
	var steps []step
	for rows.Next() {
		values := make([]sql.NullString, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		require.NoError(t, rows.Scan(into...))
		var s step
		for i, column := range columns {
			switch column {
			case "table":
				s.table = values[i].String
			case "type":
				s.access = values[i].String
			case "key":
				s.key = values[i].String
			case "rows":
				var count sql.NullInt64
				require.NoError(t, count.Scan(valueOrNil(values[i])))
				s.rows = count.Int64
			}
		}
		steps = append(steps, s)
	}
	require.NoError(t, rows.Err())
	return steps
}

func valueOrNil(s sql.NullString) any {
	if !s.Valid {
		return nil
	}
	return s.String
}

// tables returns the names of Decree's tables.
func tables(t testing.TB, db *sql.DB) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT table_name FROM information_schema.tables
		WHERE table_schema = DATABASE() AND table_name NOT LIKE 'goose%' ORDER BY table_name`)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	var names []string
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		names = append(names, name)
	}
	require.NoError(t, rows.Err())
	return names
}

// BenchmarkFleetPlans prints how the statements of questions about the fleet are read. How long they take is measured in
// cmd/decree.
func BenchmarkFleetPlans(b *testing.B) {
	ctx := b.Context()
	dsn := mysqltest.DSN(b)
	db := handle(b, dsn)
	require.NoError(b, migrate(ctx, db))
	storagetest.Populate(b, db)
	connector, err := newConnector(dsn, 0)
	require.NoError(b, err)
	recorder := &storagetest.Recorder{Connector: connector}
	recorded := sql.OpenDB(recorder)
	clock := storagetest.NewClock()
	store, err := sqlstore.New(ctx, sqlstore.Handles{Read: recorded, Write: recorded}, dialect, sqlstore.Options{Clock: clock.Now})
	require.NoError(b, err)
	for range b.N {
		storagetest.AskFleet(ctx, b, store, storage.Page{Limit: 100})
	}
	require.NoError(b, store.Close())
	for _, statement := range recorder.Statements() {
		if strings.HasPrefix(statement.Text, "SELECT") { // a benchmark's log is cut
			fmt.Printf("%s\n%+v\n\n", statement.Text, plan(b, db, statement))
		}
	}
}
