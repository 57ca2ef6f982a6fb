package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/decree-ddm/decree/storage/sqlstore"
)

// OpenExisting opens the database in the file at path for reading, beside a server or without one. It makes no file and
// migrates nothing: a database with another schema than this program's is refused.
func OpenExisting(ctx context.Context, path string, options sqlstore.Options) (*sqlstore.Store, error) {
	db, err := openExisting(path, url.Values{"_pragma": {"query_only(1)", "busy_timeout(10000)", "temp_store(MEMORY)"}})
	if err != nil {
		return nil, err
	}
	if err := sqlstore.RequireSchema(ctx, db, dialect); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
	}
	return sqlstore.New(ctx, sqlstore.Handles{Read: db, Write: db, ReadOnly: true}, dialect, options)
}

// openExisting opens a file as it is: settings that would be written to it are not among those given.
func openExisting(path string, settings url.Values) (*sql.DB, error) {
	if err := requireFileName(path); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	settings.Set("mode", "rw") // which does not create it, and reads a file that cannot be written too
	return sql.Open("sqlite", fileURL(path, settings))
}
