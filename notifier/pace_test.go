package notifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// fleet is a queue of enrollments that should all have the same, in memory, so that its clock can be a fake one. It is
// the compositor and the MDM too.
type fleet struct {
	mu       sync.Mutex
	due      []fleetMark // in the order in which it is to be claimed
	leased   map[string]bool
	attempts map[string]int
	sent     map[string][]time.Time
	requests []time.Time
	probes   int
	enqueue  func(ids []string) (map[string]Result, error) // nil: takes everything
	drained  chan struct{}
	total    int
	distinct bool // each should have something else
}

type fleetMark struct {
	id     string
	urgent bool
	at     time.Time
}

func newFleet(enrollments int) *fleet {
	f := &fleet{
		leased: map[string]bool{}, attempts: map[string]int{}, sent: map[string][]time.Time{},
		drained: make(chan struct{}), total: enrollments,
	}
	for i := range enrollments {
		f.due = append(f.due, fleetMark{id: fmt.Sprintf("e%04d", i), at: time.Now()})
	}
	return f
}

func (f *fleet) start(config Config) *Notifier {
	config.Queue, config.Compositor, config.MDM, config.Logger = f, f, f, slog.New(slog.DiscardHandler)
	n := New(config)
	n.Start()
	return n
}

func (f *fleet) markUrgent(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total++
	f.due = append(f.due, fleetMark{id, true, time.Now()})
}

func (f *fleet) AdvanceFanout(context.Context, int) (*storage.FanoutPage, error) { return nil, nil }

func (f *fleet) Collect(context.Context, time.Duration, int) (bool, error) { return false, nil }

func (f *fleet) Claim(_ context.Context, _ storage.Lease, limit int) ([]storage.Claimed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortStableFunc(f.due, func(a, b fleetMark) int {
		if a.urgent != b.urgent {
			if a.urgent {
				return -1
			}
			return 1
		}
		return a.at.Compare(b.at)
	})
	var claimed []storage.Claimed
	var rest []fleetMark
	for _, m := range f.due {
		if len(claimed) == limit || m.at.After(time.Now()) {
			rest = append(rest, m)
			continue
		}
		f.leased[m.id] = true
		claimed = append(claimed, storage.Claimed{Enrollment: storage.Enrollment{
			ID: m.id, Now: time.Now(), Attempts: f.attempts[m.id],
		}})
	}
	f.due = rest
	return claimed, nil
}

func (f *fleet) Finalise(_ context.Context, _ storage.Lease, outcomes []storage.Outcome) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, outcome := range outcomes {
		for _, id := range outcome.IDs {
			delete(f.leased, id)
			switch outcome.Kind {
			case storage.OutcomeSent:
				f.sent[id] = append(f.sent[id], time.Now())
				continue
			case storage.OutcomeFailed:
				f.attempts[id]++
			}
			f.due = append(f.due, fleetMark{id: id, at: time.Now().Add(outcome.After)})
		}
	}
	if len(f.sent) == f.total {
		select {
		case <-f.drained:
		default:
			close(f.drained)
		}
	}
	return nil
}

func (f *fleet) Compose(_ context.Context, id string, _ storage.Vector) (*storage.Composition, error) {
	token := "token"
	if f.distinct {
		token = id
	}
	return &storage.Composition{Composition: &ddm.Composition{Token: token, Items: []ddm.Item{{Identifier: "a"}}}}, nil
}

func (f *fleet) Enqueue(_ context.Context, ids []string, _ Command) (map[string]Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, time.Now())
	if f.enqueue != nil {
		return f.enqueue(ids)
	}
	results := map[string]Result{}
	for _, id := range ids {
		results[id] = Result{}
	}
	return results, nil
}

func (f *fleet) Push(ctx context.Context, ids []string) (map[string]Result, error) {
	return f.Enqueue(ctx, ids, Command{})
}

func (f *fleet) Probe(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probes++
	return nil
}

func (f *fleet) requireAllSentOnce(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Len(t, f.sent, f.total)
	for id, times := range f.sent {
		require.Len(t, times, 1, id)
	}
}

// TestRate: so many in a second, and whoever is urgent overtakes them.
func TestRate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ rate, enrollments int }{{100, 1000}, {1, 10}, {3, 30}, {7, 70}, {500, 5000}} {
		t.Run(fmt.Sprint(test.rate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(test.enrollments)
				start := time.Now()
				n := f.start(Config{Rate: test.rate})
				defer n.Stop()
				time.Sleep(4 * time.Second) // of the fake clock
				f.markUrgent("urgent")
				marked := time.Now()
				n.Wake()
				<-f.drained
				require.InDelta(t, 10*time.Second, time.Since(start), float64(time.Second))
				f.requireAllSentOnce(t)
				require.LessOrEqual(t, f.sent["urgent"][0].Sub(marked), time.Second)

				// In no second are there more, but for what was saved up before the first.
				count := map[int]int{}
				for _, times := range f.sent {
					count[int(times[0].Sub(start)/time.Second)]++
				}
				for second, number := range count {
					require.LessOrEqual(t, number, test.rate+max(1, test.rate/5), second)
				}
			})
		})
	}
}

// TestWithoutRate: it is as fast as the MDM answers.
func TestWithoutRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(2000)
		start := time.Now()
		n := f.start(Config{})
		defer n.Stop()
		<-f.drained
		require.Less(t, time.Since(start), time.Second)
		require.Len(t, f.requests, 20)
		f.requireAllSentOnce(t)
	})
}

// TestUrgentAmongMany: who is urgent overtakes a fan-out also where each request is for one enrollment.
func TestUrgentAmongMany(t *testing.T) {
	t.Parallel()
	for _, distinct := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(2000)
			f.distinct = distinct
			f.enqueue = func(ids []string) (map[string]Result, error) {
				f.mu.Unlock()
				time.Sleep(100 * time.Millisecond) // of the fake clock
				f.mu.Lock()
				results := map[string]Result{}
				for _, id := range ids {
					results[id] = Result{}
				}
				return results, nil
			}
			start := time.Now()
			n := f.start(Config{})
			defer n.Stop()
			var marked []time.Time
			for i := range 3 {
				time.Sleep(100 * time.Millisecond) // of the fake clock
				f.markUrgent(fmt.Sprint("urgent", i))
				marked = append(marked, time.Now())
			}
			if distinct { // the first claim was a large one, since nothing was known yet
				time.Sleep(20 * time.Second)
				f.markUrgent("urgent")
				marked = append(marked, time.Now())
			}
			<-f.drained
			f.requireAllSentOnce(t)
			if !distinct {
				require.Less(t, time.Since(start), 2*time.Second)
				require.LessOrEqual(t, len(f.requests), 30)
				return
			}
			require.Less(t, time.Since(start), 55*time.Second, "all workers are busy all the time")
			require.LessOrEqual(t, f.sent["urgent"][0].Sub(marked[3]), time.Second)
		})
	}
}

// TestOutage: while the MDM is down it is asked rarely, and everybody is told when it is back.
func TestOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(2000)
		for i := range 2000 { // and it comes back to a backlog that has failed before
			f.attempts[fmt.Sprintf("e%04d", i)] = i % 3
		}
		begin := time.Now().Add(500 * time.Millisecond)
		end := begin.Add(time.Minute)
		f.enqueue = func(ids []string) (map[string]Result, error) {
			if now := time.Now(); now.After(begin) && now.Before(end) {
				return nil, errors.New("connection refused")
			}
			results := map[string]Result{}
			for _, id := range ids {
				results[id] = Result{}
			}
			return results, nil
		}
		n := f.start(Config{Rate: 1000})
		defer n.Stop()
		<-f.drained
		f.requireAllSentOnce(t)
		down := 0
		for _, at := range f.requests {
			if at.After(begin) && at.Before(end) {
				down++
			}
		}
		require.LessOrEqual(t, down, 3+6, "three until it is known, and then after 1, 2, 4, 8, 16 and 32 seconds")
		require.Less(t, time.Since(end), 2*time.Minute)
		require.False(t, n.Breaker().Open)
	})
}

// TestLoneTry: an MDM that hangs is tried by one request at a time.
func TestLoneTry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(2000)
		m := &hangingMDM{start: time.Now()}
		n := New(Config{Queue: f, Compositor: f, MDM: m, Logger: slog.New(slog.DiscardHandler), Batch: 10})
		n.Start()
		defer n.Stop()
		time.Sleep(10 * time.Minute) // of the fake clock
		m.mu.Lock()
		defer m.mu.Unlock()
		require.True(t, n.Breaker().Open)
		require.LessOrEqual(t, m.most, 4)
		require.LessOrEqual(t, m.requests, 20)
		require.Equal(t, 1, m.mostLater)
	})
}

// hangingMDM answers nothing, and counts how many wait for it.
type hangingMDM struct {
	mu              sync.Mutex
	start           time.Time
	requests, now   int
	most, mostLater int
}

func (m *hangingMDM) Enqueue(ctx context.Context, _ []string, _ Command) (map[string]Result, error) {
	return nil, m.Probe(ctx)
}

func (m *hangingMDM) Push(ctx context.Context, _ []string) (map[string]Result, error) {
	return nil, m.Probe(ctx)
}

func (m *hangingMDM) Probe(ctx context.Context) error {
	m.mu.Lock()
	m.requests++
	m.now++
	m.most = max(m.most, m.now)
	if time.Since(m.start) > 2*sendTimeout+second { // those that were begun before it was known have ended
		m.mostLater = max(m.mostLater, m.now)
	}
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now--
	return ctx.Err()
}

// TestLeaseEndsDuringTheSplit: a slow MDM that refuses is not asked any more when the lease is about to end, since others
// take the batch over then.
func TestLeaseEndsDuringTheSplit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(0)
		f.enqueue = func([]string) (map[string]Result, error) {
			f.mu.Unlock()
			time.Sleep(20 * time.Second) // of the fake clock
			f.mu.Lock()
			return nil, &RefusedError{Text: "no such id"}
		}
		n := New(Config{Queue: f, Compositor: f, MDM: f, Logger: slog.New(slog.DiscardHandler)})
		b := &batch{action: send, token: "token"}
		for i := range 100 {
			b.members = append(b.members, enrollment(fmt.Sprint("e", i)))
		}
		start := time.Now()
		outcomes := n.send(t.Context(), b, start.Add(sendWithin))
		require.LessOrEqual(t, time.Since(start), leaseDuration-finaliseTimeout)
		require.Len(t, f.requests, 5, "after 0, 20, 40, 60 and 80 seconds")
		back, failed := 0, 0
		for _, outcome := range outcomes {
			switch outcome.Kind {
			case storage.OutcomePostponed:
				back += len(outcome.IDs)
			case storage.OutcomeUndone: // the last that was refused: its error shows, and it comes back among others
				back += len(outcome.IDs)
				require.Equal(t, "no such id", outcome.Error)
				require.NotZero(t, outcome.Spread)
			default:
				failed += len(outcome.IDs)
			}
		}
		require.Equal(t, 100, back)
		require.Zero(t, failed, "it did not come to one that is alone")
	})
}
