package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
