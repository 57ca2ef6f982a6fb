package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"modernc.org/sqlite"

	"github.com/decree-ddm/decree/storage"
)

// pauses are those that the function pause in SQL makes, by its argument.
var pauses sync.Map // of string to pause

// pause says that the function was called, and comes back when it is ended.
type pause struct{ called, ended chan struct{} }

func init() {
	sqlite.MustRegisterScalarFunction("pause", 1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		found, ok := pauses.Load(args[0])
		if !ok {
			return nil, fmt.Errorf("no pause has the name %v", args[0])
		}
		p := found.(pause)
		select {
		case p.called <- struct{}{}:
			<-p.ended
		case <-p.ended: // a query may ask more than once
		}
		return "paused", nil
	})
}

// TestManyReadersAreNoOutage checks that a database is not taken to be away because all connections for readers are in use.
func TestManyReadersAreNoOutage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decree.db")
	store := openStore(t, path)
	db := handle(t, path)
	for _, statement := range []string{
		`ALTER TABLE declarations RENAME TO others`,
		`CREATE VIEW declarations AS SELECT pause('` + path + `') AS identifier`,
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	p := pause{make(chan struct{}), make(chan struct{})}
	pauses.Store(path, p)
	most := store.Stats().Pools["read"].MaxOpenConnections
	var readers errgroup.Group
	for range most {
		readers.Go(func() error {
			paused, err := store.DeclarationIdentifiers(t.Context(), storage.Page{Limit: 1})
			if err == nil && !slices.Equal(paused, []string{"paused"}) {
				err = fmt.Errorf("read %q", paused)
			}
			return err
		})
	}
	for range most {
		select {
		case <-p.called:
		case <-time.After(10 * time.Second):
			t.Fatal("a reader has no connection")
		}
	}
	bounded, done := context.WithTimeout(t.Context(), 5*time.Second)
	defer done()
	assert.NoError(t, store.Look(bounded))
	assert.NoError(t, store.Ready(bounded))
	close(p.ended)
	require.NoError(t, readers.Wait())
}
