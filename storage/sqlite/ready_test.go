package sqlite

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// notReady checks that a store cannot work, for a reason that says nothing of the place of the database.
func notReady(t *testing.T, store *sqlstore.Store, path, reason string) {
	t.Helper()
	err := store.Ready(t.Context())
	var notReady *storage.NotReadyError
	require.ErrorAs(t, err, &notReady)
	require.Contains(t, notReady.Reason, reason)
	require.NotContains(t, notReady.Reason, path)
}

func TestReady(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decree.db")
	store := openStore(t, path)
	require.NoError(t, store.Ready(t.Context()))
	db := handle(t, path)

	newest := dialect.SchemaVersion
	require.Positive(t, newest)
	_, err := db.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (?, 1)`, newest+1)
	require.NoError(t, err)
	require.NoError(t, store.Ready(t.Context()), "a server of the next version has migrated the database")

	_, err = db.ExecContext(t.Context(), `DELETE FROM goose_db_version WHERE version_id >= ?`, newest)
	require.NoError(t, err)
	notReady(t, store, path, "needs")

	_, err = db.ExecContext(t.Context(), `DROP TABLE goose_db_version`)
	require.NoError(t, err)
	notReady(t, store, path, "cannot be read")
	require.NoError(t, store.Ping(t.Context()), "it does answer")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, store.Ready(ended), context.Canceled)
}

// TestNotReadyAnyMore checks that a database which went away is seen.
func TestNotReadyAnyMore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decree.db")
	store, err := Open(t.Context(), path, sqlstore.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	notReady(t, store, path, "cannot be reached")

	path = filepath.Join(t.TempDir(), "decree.db")
	damaged := openStore(t, path)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	handleOf := handle(t, path)
	_, err = handleOf.ExecContext(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`)
	require.NoError(t, err)
	require.NoError(t, file.Truncate(0))
	notReady(t, damaged, path, "the")
}
