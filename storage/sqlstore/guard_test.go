package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var (
	errFull   = errors.New("driver: no room")
	errLocked = errors.New("driver: somebody has it")
	errCut    = errors.New("driver: no connection")
)

func newGuard(timeout time.Duration, most int64) *guard {
	return &guard{timeout: timeout, most: most, dialect: &Dialect{Trouble: func(err error) Trouble {
		switch {
		case errors.Is(err, errFull):
			return Trouble{Reason: "full", Writing: true}
		case errors.Is(err, errLocked):
			return Trouble{Reason: "locked"}
		case errors.Is(err, errCut):
			return Trouble{Reason: "cut", Lost: true}
		}
		return Trouble{}
	}}}
}

// reason is what somebody is told of an error, or "" where it is not the database's fault.
func reason(err error) string {
	var notReady *storage.NotReadyError
	if errors.As(err, &notReady) {
		return notReady.Reason
	}
	return ""
}

func TestOnlySoManyWait(t *testing.T) {
	t.Parallel()
	g := newGuard(0, 2)
	first, err := g.enter(t.Context(), foreground)
	require.NoError(t, err)
	second, err := g.enter(t.Context(), foreground)
	require.NoError(t, err)
	_, err = g.enter(t.Context(), foreground)
	require.Contains(t, reason(err), "too much waits")
	nobodyWaits, err := g.enter(t.Context(), background)
	require.NoError(t, err, "the work goes on that nobody waits for")
	require.NoError(t, nobodyWaits.leave(nil))
	require.NoError(t, first.leave(nil))
	third, err := g.enter(t.Context(), foreground)
	require.NoError(t, err)
	require.NoError(t, second.leave(nil))
	require.NoError(t, third.leave(nil))
	require.Zero(t, g.inside.Load())
	require.EqualValues(t, 1, g.refused.Load())
}

func TestNobodyWaitsLongerThan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(10*time.Second, 100)
		for u, longest := range map[urgency]time.Duration{foreground: 10 * time.Second, background: 30 * time.Second} {
			begin := time.Now()
			v, err := g.enter(t.Context(), u)
			require.NoError(t, err)
			<-v.ctx.Done()
			require.Equal(t, longest, time.Since(begin))
			err = v.leave(errCut)
			require.Contains(t, reason(err), "too long", "and not that it is away: it was hung up on")
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
	})
}

func TestNobodyWaitsForADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	g := newGuard(0, 100)
	g.away.Store(&storage.NotReadyError{Reason: "it is away"})
	for _, u := range []urgency{foreground, background} {
		_, err := g.enter(t.Context(), u)
		require.Equal(t, "it is away", reason(err))
	}
	require.Zero(t, g.inside.Load())
	g.away.Store(nil)
	v, err := g.enter(t.Context(), foreground)
	require.NoError(t, err)
	require.NoError(t, v.leave(nil))
}

func TestExplain(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	unknown := errors.New("a mistake of ours")
	for _, test := range []struct {
		name string
		ctx  context.Context
		err  error
		want string
	}{
		{"trouble", t.Context(), errFull, "full"},
		{"a mistake", t.Context(), unknown, ""},
		{"not found", t.Context(), sql.ErrNoRows, ""},
		{"who went away", gone, errCut, ""},
		{"late", late, unknown, "the database takes too long to answer"},
		{"late because of a lock", late, errLocked, "locked"},
	} {
		err := newGuard(0, 1).explain(test.ctx, test.err)
		require.ErrorIs(t, err, test.err, test.name)
		require.Equal(t, test.want, reason(err), test.name)
		if cause := test.ctx.Err(); cause != nil {
			require.ErrorIs(t, err, cause, test.name)
		}
	}
}

func TestUnwritable(t *testing.T) {
	t.Parallel()
	g := newGuard(0, 1)
	require.False(t, g.failed(errLocked))
	require.Nil(t, g.unwritable.Load())
	require.True(t, g.failed(errFull))
	require.Equal(t, "full", g.unwritable.Load().Reason)
}

// TestPanicLeaves: the server goes on after a panic, so that what it held must be free again.
func TestPanicLeaves(t *testing.T) {
	t.Parallel()
	g := newGuard(0, 1)
	for range 2 {
		v, err := g.enter(t.Context(), foreground)
		require.NoError(t, err)
		require.Panics(t, func() { _ = v.during(func() error { panic("a defect") }) })
	}
	require.Zero(t, g.inside.Load())
}
