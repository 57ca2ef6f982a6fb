package mysqltest

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
)

func TestDSNIsADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	var dsns []string
	t.Run("in use", func(t *testing.T) {
		dsns = []string{DSN(t), DSN(t)}
		require.NotEqual(t, dsns[0], dsns[1])
		for i, dsn := range dsns {
			db := open(t, dsn)
			_, err := db.Exec("CREATE TABLE example (id INT PRIMARY KEY)")
			require.NoError(t, err)
			_, err = db.Exec("INSERT INTO example VALUES (?)", i)
			require.NoError(t, err)
			var id int
			require.NoError(t, db.QueryRow("SELECT id FROM example").Scan(&id))
			require.Equal(t, i, id)
		}
	})
	for _, dsn := range dsns {
		const unknownDatabase = 1049
		var refused *mysql.MySQLError
		require.ErrorAs(t, open(t, dsn).Ping(), &refused)
		require.EqualValues(t, unknownDatabase, refused.Number)
	}
}

func TestDSNInParallel(t *testing.T) {
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			require.NoError(t, open(t, DSN(t)).Ping())
		})
	}
}

func TestDSNWithoutServer(t *testing.T) {
	t.Setenv(dsnVariable, "")
	t.Setenv(requireVariable, "")
	skipped := runWith(func(tb testing.TB) { DSN(tb) })
	require.Contains(t, skipped.skipMessage, "make test")
	require.Empty(t, skipped.fatalMessage)

	t.Setenv(requireVariable, "1")
	failed := runWith(func(tb testing.TB) { DSN(tb) })
	require.Contains(t, failed.fatalMessage, dsnVariable)
	require.Empty(t, failed.skipMessage)
}

func TestDSNWithServerThatIsGone(t *testing.T) {
	t.Setenv(dsnVariable, "root@unix("+t.TempDir()+"/none)/")
	failed := runWith(func(tb testing.TB) { DSN(tb) })
	require.Contains(t, failed.fatalMessage, "create a database")
}

func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// recorder is a test whose end is recorded instead of reported.
type recorder struct {
	testing.TB
	skipMessage, fatalMessage string
}

func (r *recorder) Helper() {}

func (r *recorder) Skip(args ...any) {
	r.skipMessage = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) {
	r.fatalMessage = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatalMessage = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func runWith(test func(testing.TB)) *recorder {
	r := new(recorder)
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(r)
	}()
	<-done
	return r
}

// TestServerOfATestsOwn checks that it can be away and hang, and keeps what it has committed.
func TestServerOfATestsOwn(t *testing.T) {
	t.Parallel()
	s := Start(t)
	db := open(t, s.DSN())
	_, err := db.Exec("CREATE TABLE example (id INT PRIMARY KEY)")
	require.NoError(t, err)
	for i, end := range []func(){s.Kill, s.Stop} {
		_, err = db.Exec("INSERT INTO example VALUES (?)", i)
		require.NoError(t, err)
		end()
		require.Error(t, db.Ping())
		s.Start()
	}
	s.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.Error(t, db.PingContext(ctx))
	s.Continue()
	var n int
	require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM example").Scan(&n))
	require.Equal(t, 2, n)
}
