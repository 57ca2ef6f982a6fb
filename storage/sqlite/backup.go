package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/decree-ddm/decree/storage/sqlstore"
)

// ErrInUse is what Restore returns when a server, or anything else, has the database open.
var ErrInUse = errors.New("a server, or something else, has the database open")

// Backup writes the database in the file at path, as it is at one moment, to a new file, while a server may go on with its
// work. The file is there only when it is whole and on the disk.
func Backup(ctx context.Context, path, to string) (err error) {
	if err := absent(to); err != nil {
		return err
	}
	partial, err := copyDatabase(ctx, path, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(partial)) }()
	return place(partial, to)
}

// copyDatabase copies a database to a new file beside the one at that path, and returns its name.
func copyDatabase(ctx context.Context, path, beside string) (partial string, err error) {
	if err := requireFileName(beside); err != nil {
		return "", err
	}
	db, err := openExisting(path, url.Values{"_pragma": {"busy_timeout(10000)"}})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// An empty or another file would become an empty database.
	if _, err := sqlstore.ReadSchemaVersion(ctx, db); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	file, err := os.CreateTemp(filepath.Dir(beside), "."+filepath.Base(beside)+".partial-*") // of mode 0600
	if err != nil {
		return "", err
	}
	name := file.Name() // which partial is not any more when an error is returned
	defer func() {
		if err != nil {
			err = errors.Join(err, removeAll(name))
		}
	}()
	// One transaction that reads, so that the server's go on; SQLite's own backup would begin anew at each of them.
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, name); err != nil {
		return "", errors.Join(fmt.Errorf("copying %s: %w", path, err), file.Close())
	}
	return name, errors.Join(file.Sync(), file.Close())
}

// place gives a file its final name, unless something has that name.
func place(partial, name string) error {
	err := os.Link(partial, name)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		// There are file systems without links.
		if err = absent(name); err == nil {
			err = os.Rename(partial, name)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return absent(name)
	}
	return errors.Join(err, syncDirectory(filepath.Dir(name)))
}

func absent(name string) error {
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("there is a file %s already", name), err)
	}
	return nil
}

// removeAll removes a database's file and its companions, those that there are.
func removeAll(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, removeCompanions(path))
}

func removeCompanions(path string) error {
	var errs []error
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func syncDirectory(name string) error {
	directory, err := os.Open(name) // #nosec G304 -- the directory of the operator's database
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// RestoreOptions of Restore.
type RestoreOptions struct {
	// Force has a database that holds something, or that cannot be read, be replaced.
	Force bool
	// Check looks at the copy of the backup before it takes the database's place; an error of its keeps things as they are.
	Check func(ctx context.Context, store *sqlstore.Store) error
	// ChangeID names the restore in the log of changes.
	ChangeID string
}

// Restore puts a backup in the place of the database in the file at path, at once or not at all. It returns ErrInUse while
// something has that open.
func Restore(ctx context.Context, backup, path string, options RestoreOptions) (err error) {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	held, err := hold(ctx, path, options.Force)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.release()) }()
	partial, err := copyDatabase(ctx, backup, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(partial)) }()
	if err := prepare(ctx, partial, options); err != nil {
		return err
	}
	if err := giveTo(partial, path); err != nil {
		return err
	}
	// Without them the old database is whole, and with them the new one would not be.
	if err := removeCompanions(path); err != nil {
		return err
	}
	if held == nil {
		return place(partial, path)
	}
	return errors.Join(os.Rename(partial, path), syncDirectory(filepath.Dir(path)))
}

// prepare makes of the copy of a backup a database for a server to start with.
func prepare(ctx context.Context, partial string, options RestoreOptions) error {
	if err := requireKnown(ctx, partial); err != nil {
		return fmt.Errorf("the backup: %w", err)
	}
	store, err := Open(ctx, partial, sqlstore.Options{})
	if err != nil {
		return fmt.Errorf("the backup: %w", err)
	}
	if err = options.Check(ctx, store); err == nil {
		err = store.Restored(ctx, options.ChangeID)
	}
	if err = errors.Join(err, store.Close()); err != nil {
		return err
	}
	file, err := os.Open(partial) // #nosec G304 -- beside the operator's database
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// requireKnown returns an error if a database is one of a later program's.
func requireKnown(ctx context.Context, path string) (err error) {
	db, err := openExisting(path, url.Values{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	version, err := sqlstore.ReadSchemaVersion(ctx, db)
	if err == nil && version > dialect.SchemaVersion {
		err = fmt.Errorf("its schema has version %d, and this program knows those up to %d", version, dialect.SchemaVersion)
	}
	return err
}

// giveTo makes a file belong to whom the database at path belongs, or else its directory, if that takes doing: a server can
// have a user of its own, and root restore.
func giveTo(partial, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Stat(filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Chown(partial, int(owner.Uid), int(owner.Gid))
}

// holder keeps everybody else from a database.
type holder struct{ db *sql.DB }

// hold takes a database for itself alone, and what its -wal has is in its file then. Nil means that there is none.
func hold(ctx context.Context, path string, force bool) (held *holder, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	// The setting comes before the first access: then a connection in WAL mode, which every server has, is in the way.
	db, err := openExisting(path, url.Values{"_pragma": {"busy_timeout(1000)", "locking_mode(EXCLUSIVE)"}})
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	for _, statement := range []string{`PRAGMA journal_mode = DELETE`, `BEGIN EXCLUSIVE`} {
		if _, err = db.ExecContext(ctx, statement); err != nil {
			break
		}
	}
	switch {
	case busy(err):
		err = ErrInUse
	case force && unreadable(err):
		err = nil // nobody who has it open can work
	case force:
	case err == nil:
		err = requireEmpty(ctx, db, path)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &holder{db}, nil
}

// unreadable reports whether a file is no database, or a damaged one.
func unreadable(err error) bool {
	var sqliteErr *sqlite.Error
	if !errors.As(err, &sqliteErr) {
		return false
	}
	code := sqliteErr.Code() & 0xff
	return code == sqlite3.SQLITE_NOTADB || code == sqlite3.SQLITE_CORRUPT
}

func (h *holder) release() error {
	if h == nil {
		return nil
	}
	return h.db.Close()
}

// ErrNotEmpty is what Restore returns when the database holds something, and it is not forced.
var ErrNotEmpty = errors.New("the database holds something")

// requireEmpty returns an error if somebody could miss what a database holds, or if it cannot be read.
func requireEmpty(ctx context.Context, db *sql.DB, path string) error {
	var tables int
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM sqlite_master`).Scan(&tables); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if tables == 0 {
		return nil
	}
	// What was deleted can be brought back, and who did it is known, as long as these are there.
	for _, table := range []string{"declarations", "sets", "enrollments", "declaration_versions", "changes"} {
		var rows int
		if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM `+table+` LIMIT 1)`).Scan(&rows); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if rows > 0 {
			return fmt.Errorf("%s: %w", path, ErrNotEmpty)
		}
	}
	return nil
}
