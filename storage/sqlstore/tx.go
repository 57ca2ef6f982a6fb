package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Statements are bounded: no IN list and no INSERT of several rows is longer than this.
const chunkSize = 200

// A transaction that loses against others is tried again so often, at growing intervals up to the longest.
const (
	maxTries     = 20
	firstBackoff = 2 * time.Millisecond
	maxBackoff   = 250 * time.Millisecond
)

// tx is a transaction. Its methods add the operation's context to nothing: callers wrap errors once.
type tx struct {
	ctx     context.Context
	raw     *sql.Tx
	store   *Store
	dialect *Dialect
	now     string // expression for the current time

	// touchedDeclarations and touchedSets are those whose numbers have to be counted again when this is committed.
	touchedDeclarations, touchedSets []string
}

// inTx runs fn in a transaction and commits it when fn returns nil. When the database says that the transaction lost
// against another, it is rolled back and fn runs again: fn must set what it returns to the outside anew.
func (s *Store) inTx(ctx context.Context, u urgency, operation string, fn func(*tx) error) error {
	v, err := s.guard.enter(ctx, u)
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return v.during(func() error { return s.transact(v.ctx, u, operation, fn) })
}

// inTxAt is inTx for what somebody waits for and many may want to do at once to the same rows, which queues names: they come to
// them in turn.
func (s *Store) inTxAt(ctx context.Context, rows []string, operation string, fn func(*tx) error) error {
	v, err := s.guard.enter(ctx, foreground)
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return v.during(func() error {
		if !s.dialect.OneWriter { // where all transactions take turns anyway
			release, err := s.queues.take(v.ctx, rows...)
			if err != nil {
				return fmt.Errorf("%s: %w", operation, err)
			}
			defer release()
		}
		return s.transact(v.ctx, foreground, operation, fn)
	})
}

// transact is inTx for those who have entered.
func (s *Store) transact(ctx context.Context, u urgency, operation string, fn func(*tx) error) error {
	backoff := firstBackoff
	var lost error // by the last try that was lost against others
	for try := 1; ; try++ {
		err := s.tryTx(ctx, u, fn)
		if err == nil {
			return nil
		}
		unwritable := s.guard.failed(err)
		cause := ctx.Err()
		if cause != nil && !errors.Is(err, cause) {
			// Drivers have words of their own for a transaction whose context has ended.
			err = errors.Join(cause, err)
		}
		if cause != nil {
			err = errors.Join(err, lost) // what its time went with
		}
		again := !unwritable && (errors.Is(err, errSharedLost) || s.dialect.Again(err))
		if cause != nil || !again || try == maxTries {
			return fmt.Errorf("%s: %w", operation, err)
		}
		lost = err
		s.counters.retries.Add(1)
		s.options.Logger.DebugContext(ctx, "transaction tried again", "operation", operation, "try", try, "error", err)
		timer := time.NewTimer(time.Duration(rand.Int64N(int64(backoff))) + backoff/2) // #nosec G404 -- a pause is no secret
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w", operation, errors.Join(ctx.Err(), err))
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (s *Store) tryTx(ctx context.Context, u urgency, fn func(*tx) error) (err error) {
	if s.dialect.OneWriter {
		if err := s.turns.take(ctx, u); err != nil {
			return err
		}
		if u == foreground {
			return s.inShared(ctx, fn)
		}
		defer s.turns.release()
		s.endShared()
	} else {
		if u == background {
			if err := take(ctx, s.inBackground); err != nil {
				return err
			}
			defer func() { <-s.inBackground }()
		}
		if err := take(ctx, s.writing); err != nil {
			return err
		}
		defer func() { <-s.writing }()
	}
	raw, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	committed := false
	defer func() {
		if committed {
			return
		}
		// The context of a request that went away has rolled back already.
		if rollbackErr := raw.Rollback(); rollbackErr != nil && !errors.Is(rollbackErr, sql.ErrTxDone) {
			err = errors.Join(err, rollbackErr)
		}
	}()
	t := &tx{ctx: ctx, raw: raw, store: s, dialect: s.dialect, now: s.now()}
	if err := fn(t); err != nil {
		return err
	}
	committed = true
	err = raw.Commit()
	// A commit that fails may have happened all the same.
	s.touched.declarations(t.touchedDeclarations)
	s.touched.sets(t.touchedSets)
	return err
}

// take waits for a place.
func take(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// QueryRowContext returns what must be scanned.
func (t *tx) QueryRowContext(ctx context.Context, query string, args ...any) scanner {
	return t.raw.QueryRowContext(ctx, query, args...)
}

// exec runs a statement and returns how many rows it matched.
func (t *tx) exec(query string, args ...any) (int64, error) {
	result, err := t.raw.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// execPrepared runs a statement, by the one that is prepared for it if there is one.
func (t *tx) execPrepared(prepared *sql.Stmt, query string, args ...any) (sql.Result, error) {
	if prepared == nil {
		return t.raw.ExecContext(t.ctx, query, args...)
	}
	return t.raw.StmtContext(t.ctx, prepared).ExecContext(t.ctx, args...)
}

// exists reports whether a query has a row.
func (t *tx) exists(query string, args ...any) (bool, error) {
	var one int
	err := t.raw.QueryRowContext(t.ctx, query, args...).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// strings returns the one column of a query.
func (t *tx) strings(query string, args ...any) ([]string, error) {
	return queryStrings(t.ctx, t.raw, query, args...)
}

type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func queryStrings(ctx context.Context, q queryer, query string, args ...any) ([]string, error) {
	list := []string{}
	err := queryRows(ctx, q, func(rows *sql.Rows) error {
		var s string
		if err := rows.Scan(&s); err != nil {
			return err
		}
		list = append(list, s)
		return nil
	}, query, args...)
	return list, err
}

// queryRows calls scan for every row.
func queryRows(ctx context.Context, q queryer, scan func(*sql.Rows) error, query string, args ...any) (err error) {
	if guarded, ok := q.(interface {
		enter(context.Context, urgency) (visit, error)
	}); ok {
		v, err := guarded.enter(ctx, foreground)
		if err != nil {
			return err
		}
		return v.during(func() error { return readRows(v.ctx, q, scan, query, args...) })
	}
	return readRows(ctx, q, scan, query, args...)
}

// readRows is queryRows for what is not guarded, or has entered.
func readRows(ctx context.Context, q queryer, scan func(*sql.Rows) error, query string, args ...any) (err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// list returns n placeholders in parentheses.
func list(n int) string {
	if n == 0 {
		return "(NULL)"
	}
	return "(" + strings.Repeat("?,", n-1) + "?)"
}

// rowsOf returns n times a row of width placeholders, for an INSERT.
func rowsOf(n, width int) string {
	row := list(width)
	return strings.Repeat(row+",", n-1) + row
}

// args turns strings into arguments, after others.
func args(before []any, s []string) []any {
	for _, value := range s {
		before = append(before, value)
	}
	return before
}

// nullable turns an empty string into NULL.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// instant scans microseconds since 1970, NULL being the zero time.
type instant struct{ time *time.Time }

func (i instant) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*i.time = time.Time{}
	case int64:
		*i.time = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a time of type %T", value)
	}
	return nil
}

// text scans a string, NULL being the empty one.
type text struct{ string *string }

func (t text) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*t.string = ""
	case []byte:
		*t.string = string(v)
	case string:
		*t.string = v
	default:
		return fmt.Errorf("a text of type %T", value)
	}
	return nil
}
