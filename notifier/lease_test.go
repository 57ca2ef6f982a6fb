package notifier

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// manyTokens is a queue of enrollments that each should have something else, and the compositor that says so. What is
// postponed is due again at once.
type manyTokens struct {
	mu      sync.Mutex
	due     []string
	leases  map[string]lease
	sent    map[string]int
	overdue int // outcomes that came after the end of their lease
	drained chan struct{}
	drain   func() // closes drained
}

type lease struct {
	id    int64
	until time.Time
}

func (q *manyTokens) AdvanceFanout(context.Context, int) (*storage.FanoutPage, error) {
	return nil, nil
}

func (q *manyTokens) Collect(context.Context, time.Duration, int) (bool, error) { return false, nil }

func (q *manyTokens) Claim(_ context.Context, l storage.Lease, limit int) ([]storage.Claimed, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, held := range q.leases {
		if time.Now().After(held.until) {
			delete(q.leases, id)
			q.due = append(q.due, id)
		}
	}
	var claimed []storage.Claimed
	for _, id := range q.due[:min(limit, len(q.due))] {
		q.leases[id] = lease{l.ID, time.Now().Add(l.Duration)}
		claimed = append(claimed, storage.Claimed{Enrollment: storage.Enrollment{ID: id, Now: time.Now()}})
	}
	q.due = q.due[len(claimed):]
	return claimed, nil
}

func (q *manyTokens) Finalise(_ context.Context, l storage.Lease, outcomes []storage.Outcome) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, outcome := range outcomes {
		for _, id := range outcome.IDs {
			if held := q.leases[id]; held.id != l.ID || time.Now().After(held.until) {
				q.overdue++
				continue
			}
			delete(q.leases, id)
			switch outcome.Kind {
			case storage.OutcomeSent:
				q.sent[id]++
			case storage.OutcomePostponed:
				q.due = append(q.due, id)
			}
		}
	}
	if len(q.due) == 0 && len(q.leases) == 0 {
		q.drain()
	}
	return nil
}

func (q *manyTokens) Compose(_ context.Context, id string, _ storage.Vector) (*storage.Composition, error) {
	return &storage.Composition{Composition: &ddm.Composition{Token: id, Items: []ddm.Item{{Identifier: id}}}}, nil
}

// slowMDM takes long for each request.
type slowMDM struct{ takes time.Duration }

func (m slowMDM) Enqueue(ctx context.Context, ids []string, _ Command) (map[string]Result, error) {
	select {
	case <-time.After(m.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	results := map[string]Result{}
	for _, id := range ids {
		results[id] = Result{}
	}
	return results, nil
}

func (m slowMDM) Push(ctx context.Context, ids []string) (map[string]Result, error) {
	return m.Enqueue(ctx, ids, Command{})
}

func (m slowMDM) Probe(ctx context.Context) error {
	_, err := m.Enqueue(ctx, nil, Command{})
	return err
}

// TestSlowMDM: a claim can need far more requests than can be made before its lease ends. What cannot is given back in
// time, or else others would take it over and send it too.
func TestSlowMDM(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const enrollments = 300
		q := &manyTokens{leases: map[string]lease{}, sent: map[string]int{}, drained: make(chan struct{})}
		q.drain = sync.OnceFunc(func() { close(q.drained) })
		for i := range enrollments {
			q.due = append(q.due, fmt.Sprint("e", i))
		}
		n := New(Config{
			Queue: q, Compositor: q, MDM: slowMDM{20 * time.Second}, Logger: slog.New(slog.DiscardHandler),
		})
		n.Start()
		<-q.drained
		n.Stop()
		require.Zero(t, q.overdue)
		require.Len(t, q.sent, enrollments)
		for id, times := range q.sent {
			require.Equal(t, 1, times, id)
		}
	})
}

// TestRequestsAreBounded: a request that the MDM does not answer ends, and is a failure.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := New(Config{MDM: slowMDM{time.Hour}, Logger: slog.New(slog.DiscardHandler)})
		start := time.Now()
		outcomes := n.send(t.Context(), &batch{action: send, token: "token", members: []*storage.Enrollment{enrollment("e")}},
			start.Add(sendWithin))
		require.Equal(t, sendTimeout, time.Since(start))
		require.Len(t, outcomes, 1)
		require.Equal(t, storage.OutcomeUndone, outcomes[0].Kind)
		require.Equal(t, []string{"e"}, outcomes[0].IDs)
		require.Equal(t, "token", outcomes[0].DesiredToken)
		require.NotEmpty(t, outcomes[0].Error)
	})
}

// TestStopWaits: a request that is under way may end, for a while, and what became of it is noted. One that takes longer
// is cut off, and given back.
func TestStopWaits(t *testing.T) {
	t.Parallel()
	for takes, want := range map[time.Duration]time.Duration{
		time.Second: time.Second, 1900 * time.Millisecond: 1900 * time.Millisecond,
		2100 * time.Millisecond: stopGrace, time.Hour: stopGrace,
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &manyTokens{leases: map[string]lease{}, sent: map[string]int{}, due: []string{"e"}, drain: func() {}}
			n := New(Config{Queue: q, Compositor: q, MDM: slowMDM{takes}, Logger: slog.New(slog.DiscardHandler)})
			n.Start()
			synctest.Wait() // for the request to be under way
			start := time.Now()
			n.Stop()
			require.Equal(t, want, time.Since(start))
			require.Empty(t, q.leases)
			require.Zero(t, q.overdue)
			if takes < stopGrace {
				require.Equal(t, map[string]int{"e": 1}, q.sent)
				return
			}
			require.Empty(t, q.sent)
			require.Equal(t, []string{"e"}, q.due)
		})
	}
}
