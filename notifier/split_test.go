package notifier_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
)

// sqlMDM behaves as NanoMDM does on SQL: it queues a command for all of a request or for nobody.
type sqlMDM struct {
	mu      sync.Mutex
	unknown map[string]bool
	broken  bool // its own database is down
	queued  map[string]int
	uuids   map[string]bool
}

func newSQLMDM(w *world, unknown ...string) *sqlMDM {
	m := &sqlMDM{unknown: map[string]bool{}, queued: map[string]int{}, uuids: map[string]bool{}}
	for _, id := range unknown {
		m.unknown[id] = true
	}
	w.mdm.setScript(m.enqueue)
	w.mdm.setProbing(m.probe)
	return m
}

func (m *sqlMDM) change(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *sqlMDM) enqueue(_ context.Context, c call) (map[string]notifier.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return nil, &notifier.RefusedError{Text: "database is down"}
	}
	if m.uuids[c.command.UUID] {
		return nil, errors.New("a CommandUUID was used twice")
	}
	m.uuids[c.command.UUID] = true
	for _, id := range c.ids {
		if m.unknown[id] {
			return nil, &notifier.RefusedError{Text: "violates foreign key constraint"}
		}
	}
	for _, id := range c.ids {
		m.queued[id]++
	}
	return taken(c.ids), nil
}

func (m *sqlMDM) probe(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("its database does not answer")
	}
	return nil
}

// queues returns how often a command was queued for whom.
func (m *sqlMDM) queues() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.queued)
}

// assignMany assigns a set to so many enrollments, and returns them.
func (w *world) assignMany(set string, count int) []string {
	w.Helper()
	ids := make([]string, count)
	for i := range ids {
		ids[i] = fmt.Sprintf("e%03d", i)
	}
	w.assign(set, ids...)
	return ids
}

// TestSplitting: who shares a request with somebody that the MDM does not know is told all the same, and at once.
func TestSplitting(t *testing.T) {
	eachStore(t, func(w *world) {
		culprits := []string{"e013", "e014", "e077"}
		m := newSQLMDM(w, culprits...)
		w.fill("set", "a")
		ids := w.assignMany("set", 100)
		w.drain()
		w.start()
		w.settle()
		// Each culprit costs two requests for each halving at most.
		require.LessOrEqual(w, len(w.mdm.take()), 1+3*2*7)
		require.LessOrEqual(w, w.mdm.takeProbes(), 3)
		queued := m.queues()
		require.Len(w, queued, 97)
		for _, id := range ids {
			e := w.enrollment(id)
			if !m.unknown[id] {
				require.Equal(w, 1, queued[id], id)
				require.Equal(w, 1, e.Sends)
				require.Empty(w, e.LastError)
				continue
			}
			require.Equal(w, 1, e.Attempts, id)
			require.Zero(w, e.CommandSentAt)
			require.Contains(w, e.LastError, "foreign key")
			require.WithinRange(w, e.NotifyAt, e.Now.Add(2*time.Second), e.Now.Add(8*time.Second))
		}
		require.False(w, w.notifier.Breaker().Open)

		// Later they fail alone, and keep nobody waiting.
		w.put("a", "second", change)
		w.settle()
		for _, times := range m.queues() {
			require.Equal(w, 2, times)
		}
		for range 10 {
			w.clock.advance(2 * time.Hour)
			w.settle()
		}
		require.Greater(w, w.enrollment("e077").Attempts, 5)
		m.change(func() { m.unknown = nil })
		w.clock.advance(2 * time.Hour)
		w.settle()
		queued = m.queues()
		for _, id := range culprits {
			require.Equal(w, 1, queued[id])
			require.Empty(w, w.enrollment(id).LastError)
			require.Zero(w, w.enrollment(id).Attempts)
		}
	})
}

// TestNobodyIsKnown: where the MDM works, everybody is asked for, with bounded cost.
func TestNobodyIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	w.fill("set", "a")
	ids := w.assignMany("set", 64)
	m := newSQLMDM(w, ids...)
	w.drain()
	w.start()
	w.settle()
	require.Empty(t, m.queues())
	require.Len(t, w.mdm.take(), 127, "a halving needs no more")
	require.LessOrEqual(t, w.mdm.takeProbes(), 64)
	require.False(t, w.notifier.Breaker().Open, "it works")
	for _, id := range ids {
		require.Equal(t, 1, w.enrollment(id).Attempts)
	}

	// Somebody else is told.
	w.assign("set", "known")
	w.settle()
	require.Equal(t, map[string]int{"known": 1}, m.queues())
}

// TestMDMThatRefusesEverything is not asked for each enrollment by itself.
func TestMDMThatRefusesEverything(t *testing.T) {
	eachStore(t, func(w *world) {
		m := newSQLMDM(w)
		m.broken = true
		w.fill("set", "a")
		ids := w.assignMany("set", 200)
		w.drain()
		w.start(func(c *notifier.Config) { c.Batch = 20 })
		w.settle()
		// Until it is known to be down, and by those that are under way then.
		require.LessOrEqual(w, len(w.mdm.take()), 3+4)
		require.LessOrEqual(w, w.mdm.takeProbes(), 3+4)
		require.True(w, w.notifier.Breaker().Open)

		for range 10 {
			w.clock.advance(time.Minute)
			w.settle()
		}
		calls := w.mdm.take()
		require.LessOrEqual(w, len(calls), 10, "one a minute")
		for _, c := range calls {
			require.Len(w, c.ids, 1)
		}

		m.change(func() { m.broken = false })
		w.clock.advance(10 * time.Minute)
		w.settle()
		require.False(w, w.notifier.Breaker().Open)
		w.clock.advance(10 * time.Minute)
		w.settle()
		queued := m.queues()
		require.Len(w, queued, len(ids))
		for id, times := range queued {
			require.Equal(w, 1, times, id)
		}
	})
}

// TestBreaksDuringTheSplit: the rest of the batch is given back, and is not asked for one by one.
func TestBreaksDuringTheSplit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	w.fill("set", "a")
	w.assignMany("set", 100)
	w.drain()
	requests := 0
	m := newSQLMDM(w, "e000")
	w.mdm.setScript(func(ctx context.Context, c call) (map[string]notifier.Result, error) {
		if requests++; requests > 2 {
			return nil, errors.New("connection refused")
		}
		return m.enqueue(ctx, c)
	})
	w.start(func(c *notifier.Config) { c.Workers = 1 })
	w.settle()
	calls := w.mdm.take()
	require.Len(t, calls, 4, "two that it answered, one of the halves, and one for the rest")
	require.Len(t, calls[3].ids, 75)
	require.Empty(t, m.queues())

	w.mdm.setScript(m.enqueue)
	w.clock.advance(time.Minute)
	w.settle()
	require.Len(t, m.queues(), 99)
	for id, times := range m.queues() {
		require.Equal(t, 1, times, id)
	}
}

// TestRetryAfter: an MDM that asks to be left alone is.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	w.fill("set", "a")
	w.assignMany("set", 50)
	w.drain()
	w.mdm.setScript(func(context.Context, call) (map[string]notifier.Result, error) {
		return nil, &notifier.BusyError{After: 3 * time.Minute, Text: "429 Too Many Requests"}
	})
	w.start(func(c *notifier.Config) { c.Workers, c.Batch = 1, 10 })
	w.settle()
	require.Len(t, w.mdm.take(), 1)
	require.Equal(t, notifier.BreakerState{
		Open: true, Failures: 3, NextProbe: w.clock.Now().Add(3 * time.Minute),
	}, w.notifier.Breaker())
	w.mdm.setScript(nil)
	w.clock.advance(3*time.Minute - time.Second)
	w.settle()
	require.Empty(t, w.mdm.take())
	w.clock.advance(6 * time.Second) // those whose command was refused are spread over some seconds
	w.settle()
	require.Len(t, w.mdm.told(), 50)
}
