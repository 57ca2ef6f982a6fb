package sqlite

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write schema.sql instead of comparing with it")

const schemaFile = "schema.sql"

// TestSchema checks that the migrations lead to the schema that is checked in.
func TestSchema(t *testing.T) {
	t.Parallel()
	db := handle(t, filepath.Join(t.TempDir(), "decree.db"))
	require.NoError(t, migrate(t.Context(), db))
	rows, err := db.QueryContext(t.Context(), `SELECT sql FROM sqlite_master
		WHERE sql IS NOT NULL AND tbl_name NOT LIKE 'goose%' AND tbl_name NOT LIKE 'sqlite_%'
		ORDER BY tbl_name, type DESC, name`)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	schema := "-- The schema after all migrations: go test ./storage/sqlite -run TestSchema -update\n\n"
	for rows.Next() {
		var statement string
		require.NoError(t, rows.Scan(&statement))
		schema += statement + ";\n"
	}
	require.NoError(t, rows.Err())
	if *update {
		require.NoError(t, os.WriteFile(schemaFile, []byte(schema), 0o644))
	}
	wanted, err := os.ReadFile(schemaFile)
	require.NoError(t, err)
	require.Equal(t, string(wanted), schema)

	require.NoError(t, migrate(t.Context(), db), "there is nothing left to do")
}
