package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// Ready reports whether the database answers, has the schema that this server works with, or a later one (servers of the
// next version may have migrated it already), and could be written to when that was last tried. Otherwise it returns
// *storage.NotReadyError. The caller bounds how long it may take.
func (s *Store) Ready(ctx context.Context) error {
	if away := s.guard.away.Load(); away != nil {
		return away
	}
	if err := s.answersAll(ctx); err != nil {
		return err
	}
	if unwritable := s.guard.unwritable.Load(); unwritable != nil {
		return unwritable
	}
	return nil
}

// missesAway is how often in a row the database must not answer for it to be away: then nobody waits for it.
const missesAway = 2

// Look asks the database whether it works, and returns what Ready does. While it is not there, all that is asked of it is
// refused at once, until Look finds it there again; so it must be called again and again, by one goroutine. The caller bounds
// how long it may take.
func (s *Store) Look(ctx context.Context) error {
	err := s.answers(ctx)
	var notReady *storage.NotReadyError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return err // nobody knows
	case errors.As(err, &notReady):
		if s.misses++; s.misses >= missesAway {
			s.guard.away.Store(notReady)
		}
		return err
	}
	s.misses = 0
	s.guard.away.Store(nil)
	if s.guard.unwritable.Load() == nil {
		return nil
	}
	// It is tried with something that is written whatever it was.
	err = s.inTx(ctx, background, "trying to write", func(t *tx) error {
		_, err := t.exec(`UPDATE clock SET tried = tried + 1 WHERE id = 1`)
		return err
	})
	if err == nil {
		s.guard.unwritable.Store(nil)
	}
	return err
}

// readyTimeout bounds how long one question of Ready waits for the database, whoever waits for its answer.
const readyTimeout = 5 * time.Second

// answersAll is answers for any number of callers at once, who share one question: so many of them take no connection that
// Look needs.
func (s *Store) answersAll(ctx context.Context) error {
	shared := s.asking.DoChan("", func() (any, error) {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
		defer cancel()
		return nil, s.answers(bounded)
	})
	select {
	case <-ctx.Done():
		return &storage.NotReadyError{Reason: unreachable, Err: ctx.Err()}
	case answer := <-shared:
		return answer.Err
	}
}

// unreachable is said of a database that does not answer.
const unreachable = "the database cannot be reached"

// answers reports whether the database answers and has the schema that this server works with.
func (s *Store) answers(ctx context.Context) error {
	if err := s.probe.PingContext(ctx); err != nil {
		return &storage.NotReadyError{Reason: unreachable, Err: err}
	}
	// What is read must come from the database's files: it can lose them and still answer a ping.
	var version sql.NullInt64
	if err := s.probe.QueryRowContext(ctx, `SELECT MAX(version_id) FROM goose_db_version`).Scan(&version); err != nil {
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
