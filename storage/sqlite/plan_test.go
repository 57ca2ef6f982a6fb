package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
	"github.com/decree-ddm/decree/storage/storagetest"
)

// nameConnector makes connections of the driver.
type nameConnector struct {
	name   string
	driver driver.Driver
}

func (c nameConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.name) }
func (c nameConnector) Driver() driver.Driver                        { return c.driver }

// A scan of a table or of a whole index, other than of the rows of an INSERT.
var scan = regexp.MustCompile(`^SCAN [a-z]`)

// TestPlans checks that no statement reads through a whole table.
func TestPlans(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "decree.db")
	db := handle(t, path)
	require.NoError(t, migrate(ctx, db))
	storagetest.Populate(t, db)
	_, err := db.ExecContext(ctx, `ANALYZE`)
	require.NoError(t, err)

	recorder := &storagetest.Recorder{Connector: nameConnector{
		dataSourceName(path, writerPatience, url.Values{"_txlock": {"immediate"}}), db.Driver(),
	}}
	recorded := sql.OpenDB(recorder)
	clock := storagetest.NewClock()
	store, err := sqlstore.New(ctx, sqlstore.Handles{Read: recorded, Write: recorded}, dialect, sqlstore.Options{
		NotifyDelay: -1, Clock: clock.Now, KeepChanges: 100, KeepVersions: 1,
	})
	require.NoError(t, err)
	storagetest.Exercise(ctx, t, store, clock)
	require.NoError(t, store.Close())

	require.Greater(t, len(recorder.Statements()), 50)
	for _, statement := range recorder.Statements() {
		made := map[string]bool{} // of a subquery, whose own steps say how it is read
		for _, step := range plan(t, db, statement) {
			if name, of := strings.CutPrefix(step, "CO-ROUTINE "); of {
				made["SCAN "+name] = true
			}
			if !made[step] {
				assert.NotRegexp(t, scan, step, statement.Text)
			}
		}
	}
}

func plan(t testing.TB, db *sql.DB, statement storagetest.Statement) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `EXPLAIN QUERY PLAN `+statement.Text, statement.Args...)
	require.NoError(t, err, statement.Text)
	defer func() { require.NoError(t, rows.Close()) }()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
		steps = append(steps, detail)
	}
	require.NoError(t, rows.Err())
	return steps
}

// BenchmarkFleetPlans prints how the statements of questions about the fleet are read. How long they take is measured in
// cmd/decree.
func BenchmarkFleetPlans(b *testing.B) {
	ctx := b.Context()
	path := filepath.Join(b.TempDir(), "decree.db")
	db := handle(b, path)
	require.NoError(b, migrate(ctx, db))
	storagetest.Populate(b, db)
	_, err := db.ExecContext(ctx, `ANALYZE`)
	require.NoError(b, err)
	recorder := &storagetest.Recorder{Connector: nameConnector{
		dataSourceName(path, writerPatience, url.Values{"_txlock": {"immediate"}}), db.Driver(),
	}}
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
			fmt.Printf("%s\n%s\n\n", statement.Text, strings.Join(plan(b, db, statement), "\n"))
		}
	}
}
