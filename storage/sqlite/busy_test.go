package sqlite

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// TestManyReadersAreNoOutage checks that a database is not taken to be away because all connections for readers are in use.
func TestManyReadersAreNoOutage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decree.db")
	store := openStore(t, path)
	db := handle(t, path)
	for _, statement := range []string{
		`ALTER TABLE declarations RENAME TO others`,
		`CREATE VIEW declarations AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'x' AS identifier FROM n WHERE i < 0`,
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	most := store.Stats().Pools["read"].MaxOpenConnections
	for range most {
		readers.Go(func() { _, _ = store.DeclarationIdentifiers(ctx, storage.Page{Limit: 1}) }) // until it is cut off
	}
	require.Eventually(t, func() bool { return store.Stats().Pools["read"].InUse == most }, 10*time.Second, time.Millisecond)
	bounded, done := context.WithTimeout(t.Context(), 5*time.Second)
	defer done()
	require.NoError(t, store.Look(bounded))
	require.NoError(t, store.Ready(bounded))
}
