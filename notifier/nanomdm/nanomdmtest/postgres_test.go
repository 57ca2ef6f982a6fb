package nanomdmtest

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"
)

func TestPostgresDSNIsADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	var dsns []string
	t.Run("in use", func(t *testing.T) {
		dsns = []string{postgresDSN(t), postgresDSN(t)}
		require.NotEqual(t, dsns[0], dsns[1])
		for i, dsn := range dsns {
			db := openPostgres(t, dsn)
			_, err := db.Exec("CREATE TABLE example (id INT PRIMARY KEY)")
			require.NoError(t, err)
			_, err = db.Exec("INSERT INTO example VALUES ($1)", i)
			require.NoError(t, err)
			var id int
			require.NoError(t, db.QueryRow("SELECT id FROM example").Scan(&id))
			require.Equal(t, i, id)
		}
	})
	for _, dsn := range dsns {
		requireNoDatabase(t, dsn)
	}
}

func TestPostgresDSNDropsWhatIsInUse(t *testing.T) {
	t.Parallel()
	var dsn string
	t.Run("left open", func(inner *testing.T) {
		dsn = postgresDSN(inner)
		db, err := sql.Open("postgres", dsn)
		require.NoError(inner, err)
		t.Cleanup(func() { _ = db.Close() }) // after the drop; it complains that the server hung up
		require.NoError(inner, db.Ping())
	})
	if dsn == "" {
		return // skipped or failed above
	}
	requireNoDatabase(t, dsn)
}

func TestPostgresDSNFromURL(t *testing.T) {
	postgresDSN(t) // skips or fails without a server
	pairs := os.Getenv(postgresVariable)
	if strings.Contains(pairs, "://") {
		t.Skip(postgresVariable + " is a URL already")
	}
	query := make(url.Values)
	for _, pair := range strings.Fields(pairs) {
		key, value, _ := strings.Cut(pair, "=")
		query.Set(key, value)
	}
	t.Setenv(postgresVariable, "postgres:///?"+query.Encode())
	require.NoError(t, openPostgres(t, postgresDSN(t)).Ping())
}

func TestPostgresDSNWithoutServer(t *testing.T) {
	t.Setenv(postgresVariable, "")
	t.Setenv(requireVariable, "")
	skipped := runPostgresDSN()
	require.Contains(t, skipped.skipMessage, "make test")
	require.Empty(t, skipped.fatalMessage)

	t.Setenv(requireVariable, "1")
	failed := runPostgresDSN()
	require.Contains(t, failed.fatalMessage, postgresVariable)
	require.Empty(t, failed.skipMessage)
}

func TestPostgresDSNWithServerThatIsGone(t *testing.T) {
	t.Setenv(postgresVariable, "host="+t.TempDir()+" user=postgres sslmode=disable")
	require.Contains(t, runPostgresDSN().fatalMessage, "create a database")
}

func openPostgres(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func requireNoDatabase(t *testing.T, dsn string) {
	t.Helper()
	const invalidCatalogName = "3D000"
	var refused *pq.Error
	require.ErrorAs(t, openPostgres(t, dsn).Ping(), &refused)
	require.EqualValues(t, invalidCatalogName, refused.Code)
}

// postgresRecorder is a test whose end is recorded instead of reported.
type postgresRecorder struct {
	testing.TB
	skipMessage, fatalMessage string
}

func (r *postgresRecorder) Helper() {}

func (r *postgresRecorder) Skip(args ...any) {
	r.skipMessage = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *postgresRecorder) Fatal(args ...any) {
	r.fatalMessage = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *postgresRecorder) Fatalf(format string, args ...any) {
	r.fatalMessage = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func runPostgresDSN() *postgresRecorder {
	r := new(postgresRecorder)
	done := make(chan struct{})
	go func() {
		defer close(done)
		postgresDSN(r)
	}()
	<-done
	return r
}
