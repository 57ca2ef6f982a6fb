package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/decree-ddm/decree/storage"
)

// Ready reports whether the database answers and has the schema that this server works with, or a later one: servers of
// the next version may have migrated it already. Otherwise it returns *storage.NotReadyError. The caller bounds how long
// it may take.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.Ping(ctx); err != nil {
		return &storage.NotReadyError{Reason: "the database cannot be reached", Err: err}
	}
	// What is read must come from the database's files: it can lose them and still answer a ping.
	var version sql.NullInt64
	if err := s.read.QueryRowContext(ctx, `SELECT MAX(version_id) FROM goose_db_version`).Scan(&version); err != nil {
		return &storage.NotReadyError{Reason: "the version of the database's schema cannot be read", Err: err}
	}
	if version.Int64 < s.dialect.SchemaVersion {
		return &storage.NotReadyError{Reason: fmt.Sprintf(
			"the schema of the database has version %d, and this server needs %d: it migrates the database when it starts",
			version.Int64, s.dialect.SchemaVersion)}
	}
	return nil
}

// SchemaVersion returns the version of the newest migration in files that are named VERSION_SUBJECT.sql. They are
// embedded, so that other names are mistakes in the program.
func SchemaVersion(migrations fs.FS) int64 {
	names, err := fs.Glob(migrations, "*.sql")
	if err != nil {
		panic(err)
	}
	var newest int64
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic(err)
		}
		newest = max(newest, version)
	}
	return newest
}
