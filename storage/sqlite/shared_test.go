package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// TestSharedTransactions has many write at once, of whom some must fail and some go away, and checks that each got what
// became of its own work: what was answered is there, and what failed is not.
func TestSharedTransactions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decree.db")
	store, err := Open(t.Context(), path, sqlstore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	const writers, each = 32, 30
	var done, failed, left atomic.Int64
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				ctx, cancel := context.WithCancel(t.Context())
				id := fmt.Sprintf("%d/%d", w, i)
				var err error
				switch i % 5 {
				case 0:
					// It writes the set's row before it finds that there is no such declaration.
					if _, err = store.PutSetDeclaration(ctx, "set "+id, "unknown", storage.ChangeOptions{}); !errors.Is(err, storage.ErrNotFound) {
						t.Errorf("a member of a set that does not exist: %v", err)
					}
					failed.Add(1)
				case 1:
					go cancel()
					_, err = store.PutEnrollmentSet(ctx, "maybe "+id, "set", storage.ChangeOptions{})
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Errorf("who went away: %v", err)
					}
					left.Add(1)
				default:
					if _, err = store.PutEnrollmentSet(ctx, "sure "+id, "set", storage.ChangeOptions{}); err != nil {
						t.Error(err)
					}
					var known *storage.Enrollment
					if known, _, err = store.Enrollment(ctx, "sure "+id); err != nil || !known.Known {
						t.Errorf("what was answered is not there: %v", err)
					}
					done.Add(1)
				}
				cancel()
			}
		})
	}
	group.Wait()
	require.Positive(t, failed.Load())
	require.Positive(t, left.Load())
	require.NoError(t, store.Close())

	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	count := func(query string) (n int64) {
		require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&n))
		return n
	}
	require.Equal(t, done.Load(), count(`SELECT COUNT(*) FROM enrollment_sets WHERE enrollment_id LIKE 'sure %'`))
	require.Equal(t, count(`SELECT COUNT(*) FROM enrollments`), count(`SELECT COUNT(*) FROM enrollment_sets`), "nothing half done")
	require.Zero(t, count(`SELECT COUNT(*) FROM sets WHERE name LIKE 'set %'`), "what failed is undone")
}

// TestSharedTransactionsOutliveTheirFirst checks that a member which goes away while it works takes nobody's work with it.
func TestSharedTransactionsOutliveTheirFirst(t *testing.T) {
	t.Parallel()
	store, err := Open(t.Context(), filepath.Join(t.TempDir(), "decree.db"), sqlstore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	for round := range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				mine := t.Context()
				if i%2 == 0 {
					mine = ctx
				}
				declaration, _, err := ddm.ParseDeclaration([]byte(fmt.Sprintf(
					`{"Identifier":"d%d.%d","Type":"com.apple.configuration.management.test","Payload":{"Echo":"x"}}`, round, i)))
				if err != nil {
					t.Error(err)
					return
				}
				if i == 3 {
					cancel()
				}
				_, err = store.PutDeclaration(mine, declaration, storage.ChangeOptions{})
				if mine != ctx && err != nil {
					t.Errorf("who stayed: %v", err)
				}
			})
		}
		group.Wait()
		cancel()
	}
	identifiers, err := store.DeclarationIdentifiers(t.Context(), storage.Page{Limit: 1000})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(identifiers), 200)
}
