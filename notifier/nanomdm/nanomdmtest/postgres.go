package nanomdmtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
)

// The environment that tools/testdb sets.
const (
	postgresVariable = "DECREE_TEST_POSTGRES_DSN"
	requireVariable  = "DECREE_TEST_REQUIRE_DATABASES"
)

// postgresTimeout bounds each statement that creates or drops a database.
const postgresTimeout = 30 * time.Second

// postgresDSN creates an empty PostgreSQL database and returns a DSN for it, as key=value pairs that github.com/lib/pq
// understands. The database is dropped when the test ends, even if connections are still open.
//
// Without a server to use, the test is skipped, or fails where databases are required (as under `make test`).
func postgresDSN(tb testing.TB) string {
	tb.Helper()
	server := os.Getenv(postgresVariable)
	if server == "" {
		const message = "needs PostgreSQL: run `make test`, or set " + postgresVariable
		if os.Getenv(requireVariable) != "" {
			tb.Fatal(message)
		}
		tb.Skip(message)
	}
	if strings.HasPrefix(server, "postgres://") || strings.HasPrefix(server, "postgresql://") {
		pairs, err := pq.ParseURL(server)
		if err != nil {
			tb.Fatalf("%s: %v", postgresVariable, err)
		}
		server = pairs
	}
	name := "decree_test_" + strings.ToLower(rand.Text())
	// template1 can't be copied while somebody is connected to it.
	if err := postgresExec(server, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		tb.Fatalf("create a database for the test: %v", err)
	}
	tb.Cleanup(func() {
		if err := postgresExec(server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop the test's database: %v", err)
		}
	})
	return server + " dbname=" + name // the last one counts
}

// postgresExec runs one statement on a connection of its own, so that nothing is left running between tests.
func postgresExec(dsn, statement string) (err error) {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), postgresTimeout)
	defer cancel()
	_, err = db.ExecContext(ctx, statement)
	return err
}
