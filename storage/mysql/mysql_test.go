package mysql

import (
	"context"
	"database/sql"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
	"github.com/decree-ddm/decree/storage/sqlstore"
	"github.com/decree-ddm/decree/storage/storagetest"
)

func TestStorage(t *testing.T) {
	storagetest.Run(t, storagetest.Backend{New: newDatabase})
}

func newDatabase(t *testing.T) storagetest.Database {
	dsn := mysqltest.DSN(t)
	db := handle(t, dsn)
	return storagetest.Database{
		Open: func(ctx context.Context, options sqlstore.Options) (storage.Store, error) {
			return Open(ctx, dsn, options)
		},
		SQL:     db,
		Lock:    " FOR UPDATE",
		Waiting: func(ctx context.Context) (int, error) { return waiting(ctx, db) },
		Shared:  true,
	}
}

// handle returns a handle of the test's own, with the settings of the stores'.
func handle(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	connector, err := newConnector(dsn, 0)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

var threadID = regexp.MustCompile(`thread id (\d+)`)

// waiting counts the transactions that wait for a lock in the handle's database. information_schema.innodb_trx, which
// would tell it more easily, is a copy that is not renewed while somebody looks at it often.
func waiting(ctx context.Context, db *sql.DB) (count int, err error) {
	var kind, name, status string
	if err := db.QueryRowContext(ctx, `SHOW ENGINE INNODB STATUS`).Scan(&kind, &name, &status); err != nil {
		return 0, err
	}
	var threads []string
	for _, transaction := range strings.Split(status, "---TRANSACTION ")[1:] {
		if match := threadID.FindStringSubmatch(transaction); match != nil && strings.Contains(transaction, "LOCK WAIT") {
			threads = append(threads, match[1])
		}
	}
	if len(threads) == 0 {
		return 0, nil
	}
	err = db.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.processlist
		WHERE db = DATABASE() AND id IN (`+strings.Join(threads, ",")+`)`).Scan(&count)
	return count, err
}
