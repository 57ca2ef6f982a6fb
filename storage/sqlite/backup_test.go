package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// namesIn returns the names of all files in a directory, hidden ones too.
func namesIn(t *testing.T, directory string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(directory)
	require.NoError(t, err)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// TestNoHalfCopyStays: a copy that fails half-way, or is interrupted, leaves nothing that takes the room of a database or
// can be taken for one.
func TestNoHalfCopyStays(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	whole, damaged := filepath.Join(source, "whole.db"), filepath.Join(source, "damaged.db")
	store, err := Open(t.Context(), whole, sqlstore.Options{})
	require.NoError(t, err)
	for i := range 50 {
		require.NoError(t, putInto(t.Context(), store, "s", fmt.Sprint("declaration-", i, strings.Repeat("x", 50))))
	}
	require.NoError(t, store.Close())
	content, err := os.ReadFile(whole)
	require.NoError(t, err)
	// Its first page says where everything is; what is there is not.
	copy(content[len(content)/2:], bytes.Repeat([]byte{0xaa}, len(content)/2))
	require.NoError(t, os.WriteFile(damaged, content, 0o600))

	to := filepath.Join(target, "to.db")
	require.ErrorContains(t, Backup(t.Context(), damaged, to), "malformed")
	require.ErrorContains(t, Restore(t.Context(), damaged, to, RestoreOptions{}), "malformed")
	require.Empty(t, namesIn(t, target))

	// It is interrupted as soon as the copy is begun.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
				cancel()
			}
		}
	}()
	for err == nil {
		if err = Backup(ctx, whole, to); err == nil {
			require.NoError(t, os.Remove(to), "it was too fast")
		}
	}
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, namesIn(t, target))
}

// TestRestoreKeepsWhatSomebodyCouldMiss: a database in which everything was deleted still says what that was, and who did it.
func TestRestoreKeepsWhatSomebodyCouldMiss(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	backup := filepath.Join(directory, "backup.db")
	store, err := Open(t.Context(), backup, sqlstore.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	by := storage.ChangeOptions{ChangeID: "id", By: "somebody"}
	for name, story := range map[string]struct {
		put, deleted bool
		statement    string
		holds        bool
	}{
		"new":         {},
		"declaration": {put: true, statement: `DELETE FROM changes`, holds: true},
		"history":     {put: true, deleted: true, holds: true},
		"versions":    {put: true, deleted: true, statement: `DELETE FROM changes`, holds: true},
		"changes":     {put: true, deleted: true, statement: `DELETE FROM declaration_versions`, holds: true},
	} {
		path := filepath.Join(directory, name)
		store, err := Open(t.Context(), path, sqlstore.Options{})
		require.NoError(t, err)
		if story.put {
			_, err = store.PutDeclaration(t.Context(), &ddm.Declaration{
				Identifier: "d", Type: "com.apple.configuration.test", Class: ddm.ClassConfiguration, Payload: []byte(`{}`),
			}, by)
			require.NoError(t, err)
		}
		if story.deleted {
			_, err = store.DeleteDeclaration(t.Context(), "d", by)
			require.NoError(t, err)
		}
		require.NoError(t, store.Close())
		if story.statement != "" {
			db, err := openExisting(path, url.Values{})
			require.NoError(t, err)
			_, err = db.ExecContext(t.Context(), story.statement)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		}
		options := RestoreOptions{ChangeID: "restore", Check: func(context.Context, *sqlstore.Store) error { return nil }}
		err = Restore(t.Context(), backup, path, options)
		if !story.holds {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, ErrNotEmpty, name)
		options.Force = true
		require.NoError(t, Restore(t.Context(), backup, path, options), name)
	}
}
