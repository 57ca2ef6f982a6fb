// Package sqlite opens Decree's embedded database: one SQLite file, written by one process.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/decree-ddm/decree/storage/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Open opens the database in the file at path, which is created if it does not exist, for its owner only, and brings its
// schema up to date. The directory must exist.
func Open(ctx context.Context, path string, options sqlstore.Options) (*sqlstore.Store, error) {
	if err := requireFileName(path); err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	write, err := open(path, writerPatience, url.Values{"_txlock": {"immediate"}})
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	if err := migrate(ctx, write); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), write.Close())
	}
	read, err := open(path, readerPatience, url.Values{"_pragma": {"query_only(1)"}})
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	readers := max(4, 2*runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	probe, err := open(path, readerPatience, url.Values{"_pragma": {"query_only(1)"}})
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	probe.SetMaxOpenConns(2)
	return sqlstore.New(ctx, sqlstore.Handles{Read: read, Write: write, Probe: probe}, dialect, options)
}

// requireFileName refuses the one name that is no file to SQLite: each connection would have an empty database of its own.
func requireFileName(path string) error {
	if path == ":memory:" {
		return fmt.Errorf("%s is not supported: the database needs a file", path)
	}
	return nil
}

// create makes the file if there is none. SQLite would let everybody read it whom the umask lets, and gives its companions
// the mode of the file. One that is there is not opened: closing it would take the locks that this process has on it.
func create(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // #nosec G304 -- the operator names it
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return file.Close()
}

// For so long another process is waited for at a time. A transaction that waits to write cannot be cancelled, and others
// wait for their turn behind it, so it tries again instead. Who reads waits only while the file is recovered after a kill.
const (
	writerPatience = 2 * time.Second
	readerPatience = 10 * time.Second
)

// open returns a handle whose connections have the settings that Decree relies on.
func open(path string, patience time.Duration, settings url.Values) (*sql.DB, error) {
	return sql.Open("sqlite", dataSourceName(path, patience, settings))
}

func dataSourceName(path string, patience time.Duration, settings url.Values) string {
	for _, pragma := range []string{
		fmt.Sprintf("busy_timeout(%d)", patience.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"cache_size(-8000)", // KiB for each connection
		"temp_store(MEMORY)",
	} {
		settings.Add("_pragma", pragma)
	}
	return fileURL(path, settings)
}

func fileURL(path string, settings url.Values) string {
	name := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: settings.Encode()}
	return name.String()
}

// migrateWithin is for how long the migrations of another process are waited for, and migrateInterval how often there is a
// look at a database that is busy.
const (
	migrateWithin   = 5 * time.Minute
	migrateInterval = 100 * time.Millisecond
)

// migrate brings the schema up to date. Of processes that start together one makes each migration, in one transaction. In
// the others it fails, and they go on behind it.
func migrate(ctx context.Context, db *sql.DB) error {
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, migrationFiles())
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	for until := time.Now().Add(migrateWithin); ; {
		var before, after int64
		if before, err = provider.GetDBVersion(ctx); err == nil {
			if _, err = provider.Up(ctx); err == nil {
				return nil
			}
			if after, _ = provider.GetDBVersion(ctx); after > before {
				continue // what failed was made by another process
			}
		}
		if !busy(err) || time.Now().After(until) {
			return fmt.Errorf("migrating: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(migrateInterval):
		}
	}
}

var dialect = &sqlstore.Dialect{
	SchemaVersion:  sqlstore.SchemaVersion(migrationFiles()),
	Now:            `CAST(unixepoch('subsec') * 1000000 AS INTEGER)`,
	RandomBelow:    `CAST((random() / 18446744073709551616.0 + 0.5) * ? AS INTEGER)`,
	ReadBy:         readBy,
	KeepExisting:   func(key string) string { return `ON CONFLICT (` + key + `) DO NOTHING` },
	Upsert:         func(key string) string { return `ON CONFLICT (` + key + `) DO UPDATE SET` },
	Inserted:       func(column string) string { return `excluded.` + column },
	AfterIncrement: ` + 1`,
	SelfCheck:      `PRAGMA integrity_check`,
	Damaged:        unreadable,
	Trouble:        trouble,
	Again:          busy,
	OneWriter:      true,
}

// trouble explains what SQLite says.
func trouble(err error) sqlstore.Trouble {
	var sqliteErr *sqlite.Error
	if !errors.As(err, &sqliteErr) {
		return sqlstore.Trouble{}
	}
	switch sqliteErr.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return sqlstore.Trouble{Reason: "another process holds the database for too long"}
	case sqlite3.SQLITE_FULL:
		return sqlstore.Trouble{Reason: "the disk that the database is on is full", Writing: true}
	case sqlite3.SQLITE_READONLY:
		return sqlstore.Trouble{Reason: "the file of the database cannot be written to", Writing: true}
	case sqlite3.SQLITE_IOERR:
		return sqlstore.Trouble{Reason: "the disk that the database is on does not work, or is full", Writing: true}
	case sqlite3.SQLITE_CANTOPEN:
		return sqlstore.Trouble{Reason: "the file of the database cannot be opened"}
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return sqlstore.Trouble{Reason: "the file of the database is damaged"}
	}
	return sqlstore.Trouble{}
}

// busy reports whether another process held the database for longer than the busy time-out.
func busy(err error) bool {
	var sqliteErr *sqlite.Error
	if !errors.As(err, &sqliteErr) {
		return false
	}
	switch sqliteErr.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return true
	}
	return false
}

func migrationFiles() fs.FS {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded above
	}
	return files
}

// readBy advises to read by an index. The primary key, which is the table itself, cannot be asked for.
func readBy(index string) string {
	if index == sqlstore.Primary {
		return ""
	}
	return ` INDEXED BY ` + index
}
