package sqlite

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

func openStore(t *testing.T, path string) *sqlstore.Store {
	t.Helper()
	store, err := Open(t.Context(), path, sqlstore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// TestFileNames checks that the database is in the file of the given name, whatever a URI would make of it.
func TestFileNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"decree.db", "with space.db", "what?mode=memory", "100%.db", "50%41.db", "a#b.db", "a&b=c;d.db", "a:b.db", "é😀.db",
		"a+b.db", `back\slash.db`, `"quoted'.db`, "[x].db", "file:x.db", "-", "?", "#", "%",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, name)
			store := openStore(t, path)
			_, err := store.PutEnrollmentSet(t.Context(), "e", "s", storage.ChangeOptions{})
			require.NoError(t, err)
			require.FileExists(t, path)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			for _, entry := range entries {
				require.Contains(t, []string{name, name + "-wal", name + "-shm"}, entry.Name())
			}
			again := openStore(t, path)
			e, _, err := again.Enrollment(t.Context(), "e")
			require.NoError(t, err)
			require.True(t, e.Known)
		})
	}
}

// TestNoFileName checks that a database in memory is refused before anything is made.
func TestNoFileName(t *testing.T) {
	t.Chdir(t.TempDir())
	const memory = ":memory:"
	refused := func(err error) {
		t.Helper()
		require.ErrorContains(t, err, memory+" is not supported")
		entries, err := os.ReadDir(".")
		require.NoError(t, err)
		require.Empty(t, entries)
	}
	_, err := Open(t.Context(), memory, sqlstore.Options{})
	refused(err)
	_, err = OpenExisting(t.Context(), memory, sqlstore.Options{})
	refused(err)
	refused(Backup(t.Context(), memory, "backup.db"))
	refused(Backup(t.Context(), "decree.db", memory))
	refused(Restore(t.Context(), memory, "decree.db", RestoreOptions{}))
	refused(Restore(t.Context(), "backup.db", memory, RestoreOptions{}))
	openStore(t, "./"+memory)
	require.FileExists(t, memory)
}

func TestRelativeFileName(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"decree.db", "./a b?.db", "a:b.db", "file:c.db"} {
		openStore(t, name)
		require.FileExists(t, name)
	}
}

// TestOnlyTheOwnerReads: declarations and reports are nobody else's business, and who wants it otherwise says so once.
func TestOnlyTheOwnerReads(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decree.db")
	modes := func() (modes []os.FileMode) {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			require.NoError(t, err)
			modes = append(modes, info.Mode())
		}
		return modes
	}
	store, err := Open(t.Context(), path, sqlstore.Options{})
	require.NoError(t, err)
	require.Equal(t, []os.FileMode{0o600, 0o600, 0o600}, modes())
	require.NoError(t, store.Close())
	require.NoError(t, os.Chmod(path, 0o640)) // #nosec G302 -- a group that makes backups
	openStore(t, path)
	require.Equal(t, []os.FileMode{0o640, 0o640, 0o640}, modes())
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	notDatabase := filepath.Join(dir, "text")
	require.NoError(t, os.WriteFile(notDatabase, []byte(strings.Repeat("This is no database.\n", 100)), 0o600))
	for name, path := range map[string]string{
		"a directory that is not there": filepath.Join(dir, "none", "decree.db"),
		"a directory":                   dir,
		"a file in a file":              filepath.Join(notDatabase, "decree.db"),
		"another kind of file":          notDatabase,
	} {
		_, err := Open(t.Context(), path, sqlstore.Options{})
		require.ErrorContains(t, err, path, name)
	}

	unwritable := filepath.Join(dir, "unwritable")
	require.NoError(t, os.Mkdir(unwritable, 0o555))
	if file, err := os.Create(filepath.Join(unwritable, "probe")); err == nil {
		require.NoError(t, file.Close())
		t.Log("everything can be written here: not testing a directory that cannot")
		return
	}
	path := filepath.Join(unwritable, "decree.db")
	_, err := Open(t.Context(), path, sqlstore.Options{})
	require.ErrorContains(t, err, path)
}

// TestKilled copies a database while it is being written, which is what a kill leaves: the copy must open, and hold
// whole changes only, all those that were acknowledged before among them.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "decree.db")
	store := openStore(t, path)
	ctx := t.Context()

	acknowledged := make(chan string) // what is not received is not acknowledged, and holds its writer up
	stop := make(chan struct{})
	var writing sync.WaitGroup
	defer writing.Wait()
	defer close(stop)
	for writer := range 4 {
		writing.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d-%d", writer, i)
				if err := putInto(ctx, store, "s", name); err != nil {
					t.Errorf("writing: %v", err)
					return
				}
				select {
				case acknowledged <- name:
				case <-stop:
					return
				}
			}
		})
	}
	_, err := store.PutEnrollmentSet(ctx, "e", "s", storage.ChangeOptions{})
	require.NoError(t, err)
	holder := handle(t, path)
	var known []string
	for round := range 3 {
		for range 10 {
			select {
			case name := <-acknowledged:
				known = append(known, name)
			case <-time.After(30 * time.Second):
				t.Fatal("no change is answered")
			}
		}
		// While this transaction is open nobody else commits, so that the files can be copied; and its own pages, more
		// than the cache holds, are in the log.
		half, err := holder.BeginTx(ctx, nil)
		require.NoError(t, err)
		_, err = half.ExecContext(ctx, `INSERT INTO manifests (token, items, served_at)
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
			SELECT 'half' || i, printf('%.*c', 4000, 'x'), 0 FROM n`)
		require.NoError(t, err)
		copied := filepath.Join(dir, fmt.Sprintf("copy%d.db", round))
		for _, suffix := range []string{"", "-wal"} {
			content, err := os.ReadFile(path + suffix)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(copied+suffix, content, 0o600))
		}
		require.NoError(t, half.Rollback())
		requireWhole(t, copied, known)
	}
}

// putInto makes a declaration and puts it into a set.
func putInto(ctx context.Context, store storage.Store, set, identifier string) error {
	_, err := store.PutDeclaration(ctx, &ddm.Declaration{
		Identifier: identifier, Type: "com.apple.configuration.test", Class: ddm.ClassConfiguration,
		Payload: []byte(`{"Text":"` + strings.Repeat(identifier, 500) + `"}`),
	}, storage.ChangeOptions{})
	if err != nil {
		return err
	}
	_, err = store.PutSetDeclaration(ctx, set, identifier, storage.ChangeOptions{})
	return err
}

func requireWhole(t *testing.T, path string, acknowledged []string) {
	t.Helper()
	ctx := t.Context()
	db, err := open(path, readerPatience, url.Values{})
	require.NoError(t, err)
	var verdict string
	require.NoError(t, db.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&verdict))
	require.Equal(t, "ok", verdict)
	var half int
	require.NoError(t, db.QueryRowContext(ctx, `SELECT COUNT(*) FROM manifests`).Scan(&half))
	require.Zero(t, half, "what was not committed is not there")
	require.NoError(t, db.Close())

	store := openStore(t, path)
	_, contents, err := store.VectorContents(ctx, "e", nil)
	require.NoError(t, err)
	held := map[string]bool{}
	for _, item := range contents["s"] {
		held[item.Identifier] = true
		declaration, err := store.Declaration(ctx, item.Identifier)
		require.NoError(t, err)
		require.Equal(t, item.ServerToken, declaration.ServerToken)
	}
	for _, name := range acknowledged {
		require.True(t, held[name], "%s was acknowledged", name)
	}
	_, err = store.PutEnrollmentSet(ctx, "after", "s", storage.ChangeOptions{})
	require.NoError(t, err)
}
