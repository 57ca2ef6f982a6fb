package sqlite

import (
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage/sqlstore"
)

// TestTrouble checks what is made of SQLite's own errors.
func TestTrouble(t *testing.T) {
	t.Parallel()
	existing := func(t *testing.T, settings url.Values) *sql.DB {
		path := filepath.Join(t.TempDir(), "decree.db")
		db := handle(t, path)
		_, err := db.ExecContext(t.Context(), `CREATE TABLE t (x)`)
		require.NoError(t, err)
		other, err := open(path, writerPatience, settings)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, other.Close()) })
		return other
	}
	const insert = `INSERT INTO t VALUES (randomblob(100000))`
	for name, test := range map[string]struct {
		provoke func(t *testing.T) error
		want    sqlstore.Trouble
	}{
		"held": {func(t *testing.T) error {
			path := filepath.Join(t.TempDir(), "decree.db")
			held, err := handle(t, path).BeginTx(t.Context(), nil)
			require.NoError(t, err)
			defer func() { require.NoError(t, held.Rollback()) }()
			_, err = handle(t, path).ExecContext(t.Context(), `CREATE TABLE u (x)`)
			require.True(t, busy(err))
			return err
		}, sqlstore.Trouble{Reason: "another process holds the database for too long"}},
		"full": {func(t *testing.T) error {
			_, err := existing(t, url.Values{"_pragma": {"max_page_count(5)"}}).ExecContext(t.Context(), insert)
			return err
		}, sqlstore.Trouble{Reason: "the disk that the database is on is full", Writing: true}},
		"not to be written to": {func(t *testing.T) error {
			_, err := existing(t, url.Values{"_pragma": {"query_only(1)"}}).ExecContext(t.Context(), insert)
			return err
		}, sqlstore.Trouble{Reason: "the file of the database cannot be written to", Writing: true}},
		"no database": {func(t *testing.T) error {
			path := filepath.Join(t.TempDir(), "decree.db")
			require.NoError(t, os.WriteFile(path, []byte("This is no database, but a text that is long enough to be one."), 0o600))
			return handle(t, path).PingContext(t.Context())
		}, sqlstore.Trouble{Reason: "the file of the database is damaged"}},
		"no directory": {func(t *testing.T) error {
			return handle(t, filepath.Join(t.TempDir(), "none", "decree.db")).PingContext(t.Context())
		}, sqlstore.Trouble{Reason: "the file of the database cannot be opened"}},
		"a mistake": {func(t *testing.T) error {
			_, err := existing(t, url.Values{}).ExecContext(t.Context(), `INSERT INTO nothing VALUES (1)`)
			return err
		}, sqlstore.Trouble{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := test.provoke(t)
			require.Error(t, err)
			require.Equal(t, test.want, trouble(err), "%v", err)
		})
	}
}
