// Package mysqltest gives each test a MySQL or MariaDB database of its own. It knows nothing of Decree's schema.
package mysqltest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// The environment that tools/testdb sets.
const (
	dsnVariable     = "DECREE_TEST_MYSQL_DSN"
	requireVariable = "DECREE_TEST_REQUIRE_DATABASES"
)

// timeout bounds each statement. DROP DATABASE waits for every transaction that has used a table.
const timeout = 30 * time.Second

// DSN creates an empty database and returns a DSN for it, in the format of github.com/go-sql-driver/mysql. The database is
// dropped when the test ends, after the cleanups that were registered later; connections must be closed by then.
//
// Without a server to use, the test is skipped, or fails where databases are required (as under `make test`).
func DSN(tb testing.TB) string {
	tb.Helper()
	server := os.Getenv(dsnVariable)
	if server == "" {
		const message = "needs MySQL or MariaDB: run `make test`, or set " + dsnVariable
		if os.Getenv(requireVariable) != "" {
			tb.Fatal(message)
		}
		tb.Skip(message)
	}
	config, err := mysql.ParseDSN(server)
	if err != nil {
		tb.Fatalf("%s: %v", dsnVariable, err)
	}
	config.DBName = ""
	name := "decree_test_" + strings.ToLower(rand.Text())
	if err := execute(context.Background(), config, "CREATE DATABASE "+name); err != nil {
		tb.Fatalf("create a database for the test: %v", err)
	}
	tb.Cleanup(func() {
		if err := execute(context.Background(), config, "DROP DATABASE "+name); err != nil {
			tb.Errorf("drop the test's database (was every connection closed?): %v", err)
		}
	})
	own := config.Clone()
	own.DBName = name
	return own.FormatDSN()
}

// execute runs one statement on a connection of its own, so that nothing is left running between tests.
func execute(ctx context.Context, config *mysql.Config, statement string) (err error) {
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = db.ExecContext(ctx, statement)
	return err
}
