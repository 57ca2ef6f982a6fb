package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// A database that hangs must not take the server with it: whoever waits for it is let go after a time, and there are never
// more than so many who wait.
const (
	// maxInside is how many operations that somebody waits for may be under way at once. It is far more than connections,
	// and few enough to keep in memory what they hold.
	maxInside = 2048
	// backgroundPatience is how much longer than one that somebody waits for an operation may take that nobody waits for.
	backgroundPatience = 3
)

// Trouble is what is wrong with a database, by an error of its driver.
type Trouble struct {
	// Reason is for everybody; empty: the error means no trouble.
	Reason string
	// Writing says that nothing can be written, while reading may go on.
	Writing bool
	// Lost says that the connection is gone, which may be because its user's time was up.
	Lost bool
}

// guard bounds what is asked of a database in time and number, refuses at once while the database is known to be away, and
// explains what drivers say.
type guard struct {
	dialect *Dialect
	timeout time.Duration // 0: none
	most    int64

	inside  atomic.Int64
	refused atomic.Int64
	// away says why the database cannot be worked with, and unwritable why nothing can be written; nil: it can.
	away, unwritable atomic.Pointer[storage.NotReadyError]
}

// visit is one operation under way.
type visit struct {
	guard  *guard
	ctx    context.Context
	cancel context.CancelFunc
}

// enter begins an operation. Its context ends when its time is up; the caller must call leave unless there is an error.
func (g *guard) enter(ctx context.Context, u urgency) (visit, error) {
	if err := ctx.Err(); err != nil {
		return visit{}, err
	}
	if away := g.away.Load(); away != nil {
		g.refused.Add(1)
		return visit{}, away
	}
	if g.inside.Add(1) > g.most && u == foreground {
		g.inside.Add(-1)
		g.refused.Add(1)
		return visit{}, &storage.NotReadyError{Reason: "too much waits for the database already"}
	}
	v := visit{guard: g, ctx: ctx}
	if timeout := g.timeout; timeout > 0 {
		if u == background {
			timeout *= backgroundPatience
		}
		v.ctx, v.cancel = context.WithTimeout(ctx, timeout)
	}
	return v, nil
}

// leave ends an operation, and explains its error.
func (v visit) leave(err error) error {
	v.guard.inside.Add(-1)
	if err != nil {
		err = v.guard.explain(v.ctx, err)
	}
	if v.cancel != nil {
		v.cancel()
	}
	return err
}

// during does the operation and leaves, after a panic too: the server goes on after one.
func (v visit) during(do func() error) (err error) {
	defer func() { err = v.leave(err) }()
	return do()
}

// explain makes of a driver's error one that says what is wrong, if it is the database's fault and not the caller's.
func (g *guard) explain(ctx context.Context, err error) error {
	var known *storage.NotReadyError
	if errors.Is(err, sql.ErrNoRows) || errors.As(err, &known) {
		return err
	}
	ended := ctx.Err()
	if ended != nil && !errors.Is(err, ended) {
		err = errors.Join(ended, err) // drivers have words of their own for it
	}
	trouble := g.dialect.Trouble(err)
	switch {
	case errors.Is(ended, context.Canceled):
		return err // the caller went away, and the connection may have gone with it
	case ended != nil && (trouble.Reason == "" || trouble.Lost):
		return &storage.NotReadyError{Reason: "the database takes too long to answer", Err: err}
	case trouble.Reason != "":
		return &storage.NotReadyError{Reason: trouble.Reason, Err: err}
	}
	return err
}

// failed notes that a transaction failed, if that means that nothing can be written, and reports so. It is noted until Look
// has written something: a transaction that had nothing to write succeeds on a full disk too.
func (g *guard) failed(err error) bool {
	trouble := g.dialect.Trouble(err)
	if trouble.Writing {
		g.unwritable.Store(&storage.NotReadyError{Reason: trouble.Reason, Err: err})
	}
	return trouble.Writing
}

// pool is a handle of a database for those who read without a transaction.
type pool struct {
	*guard
	db *sql.DB
}

// QueryContext is for queryRows, which is guarded: rows are read under the context of the query.
func (p pool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.db.QueryContext(ctx, query, args...)
}

// QueryRowContext returns what must be scanned.
func (p pool) QueryRowContext(ctx context.Context, query string, args ...any) scanner {
	v, err := p.enter(ctx, foreground)
	if err != nil {
		return failedRow{err}
	}
	return guardedRow{p.db.QueryRowContext(v.ctx, query, args...), v}
}

// scanner is a row, or the error that there is instead.
type scanner interface{ Scan(into ...any) error }

type guardedRow struct {
	row   *sql.Row
	visit visit
}

func (r guardedRow) Scan(into ...any) error { return r.visit.leave(r.row.Scan(into...)) }

type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }
