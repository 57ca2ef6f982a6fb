package sqlite

import (
	"context"
	"database/sql"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
	"github.com/decree-ddm/decree/storage/storagetest"
)

func TestStorage(t *testing.T) {
	storagetest.Run(t, storagetest.Backend{New: newDatabase})
}

func newDatabase(t *testing.T) storagetest.Database {
	path := filepath.Join(t.TempDir(), "decree.db")
	return storagetest.Database{
		Open: func(ctx context.Context, options sqlstore.Options) (storage.Store, error) {
			return Open(ctx, path, options)
		},
		SQL: handle(t, path),
	}
}

// handle returns a handle of the test's own, whose transactions hold the whole database.
func handle(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := open(path, writerPatience, url.Values{"_txlock": {"immediate"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}
