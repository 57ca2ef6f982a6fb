package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Where only one transaction can write at a time, those that somebody waits for share one where they come together, each in
// a savepoint of its own: the disk is waited for once, and nobody is answered before it has answered.
const (
	// A shared transaction ends when it has so many members, or is so old.
	maxMembers   = 64
	maxSharedAge = 10 * time.Millisecond
	// sharedPatience is how long a member waits before it ends the transaction itself: whoever was to go on with it may have
	// gone away instead.
	sharedPatience = 20 * time.Millisecond
)

// errSharedLost is what members get whose shared transaction was rolled back for another one's sake.
var errSharedLost = errors.New("the transaction was shared and is rolled back")

// shared is a shared transaction. Whoever has the turn may use it.
type shared struct {
	raw     *sql.Tx
	began   time.Time
	members int
	// touchedDeclarations and touchedSets are those of its members.
	touchedDeclarations, touchedSets []string
	done                             chan struct{} // closed when it has ended
	err                              error         // after that
}

// inShared runs fn in the shared transaction, and returns when that is committed. The caller has the turn, and has it no more
// afterwards.
func (s *Store) inShared(ctx context.Context, fn func(*tx) error) error {
	g, err := s.shared, error(nil)
	alone := g == nil
	if alone {
		g, err = s.beginShared(ctx)
	} else {
		_, err = g.raw.ExecContext(context.WithoutCancel(ctx), `SAVEPOINT member`)
	}
	switch {
	case err != nil && alone:
		s.turns.release()
		return err
	case err != nil:
		s.loseShared(g)
		s.turns.release()
		return errors.Join(errSharedLost, err)
	}
	// A statement that is cut off would take the others' work with it.
	t := &tx{ctx: context.WithoutCancel(ctx), raw: g.raw, store: s, dialect: s.dialect, now: s.now()}
	panics := true
	defer func() {
		if panics {
			s.loseShared(g)
			s.turns.release()
		}
	}()
	failed := fn(t)
	panics = false
	if alone && failed != nil {
		err := g.raw.Rollback()
		s.turns.release()
		return errors.Join(failed, err)
	}
	if !alone {
		if err := endSavepoint(t, failed != nil); err != nil {
			s.loseShared(g)
			s.turns.release()
			return errors.Join(failed, errSharedLost, err)
		}
	}
	if failed == nil {
		g.members++
		g.touchedDeclarations = append(g.touchedDeclarations, t.touchedDeclarations...)
		g.touchedSets = append(g.touchedSets, t.touchedSets...)
	}
	if s.shared = g; g.members >= maxMembers || time.Since(g.began) >= maxSharedAge || !s.turns.awaited() {
		s.endShared()
	}
	s.turns.release()
	if failed != nil {
		return failed
	}
	return s.awaitShared(g)
}

// beginShared begins a transaction that ends with nobody's context, but is not begun when the caller's has ended.
func (s *Store) beginShared(ctx context.Context) (*shared, error) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	detach := context.AfterFunc(ctx, cancel)
	raw, err := s.write.BeginTx(lasting, nil)
	if err == nil && !detach() {
		err = errors.Join(ctx.Err(), raw.Rollback())
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &shared{raw: raw, began: time.Now(), done: make(chan struct{})}, nil
}

func endSavepoint(t *tx, failed bool) error {
	if failed {
		if _, err := t.raw.ExecContext(t.ctx, `ROLLBACK TO member`); err != nil {
			return err
		}
	}
	_, err := t.raw.ExecContext(t.ctx, `RELEASE member`)
	return err
}

// endShared commits the shared transaction, if there is one. The caller has the turn.
func (s *Store) endShared() {
	g := s.shared
	if g == nil {
		return
	}
	s.shared = nil
	g.err = g.raw.Commit()
	// A commit that fails may have happened all the same.
	s.touched.declarations(g.touchedDeclarations)
	s.touched.sets(g.touchedSets)
	close(g.done)
}

// loseShared rolls the shared transaction back: the database has, or nobody knows what is in it.
func (s *Store) loseShared(g *shared) {
	s.shared = nil
	g.err = errSharedLost
	if err := g.raw.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		g.err = errors.Join(errSharedLost, err)
	}
	close(g.done)
}

// awaitShared waits until a shared transaction has ended, and ends it if nobody else does.
func (s *Store) awaitShared(g *shared) error {
	timer := time.NewTimer(sharedPatience)
	defer timer.Stop()
	select {
	case <-g.done:
		return g.err
	case <-timer.C:
	}
	if err := s.turns.take(context.Background(), foreground); err != nil {
		return err
	}
	if s.shared == g {
		s.endShared()
	}
	s.turns.release()
	<-g.done
	return g.err
}
