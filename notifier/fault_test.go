package notifier_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

func failing(text string) func(context.Context, call) (map[string]notifier.Result, error) {
	return func(context.Context, call) (map[string]notifier.Result, error) { return nil, errors.New(text) }
}

func TestFailuresBackOffAndSurviveRestarts(t *testing.T) {
	eachStore(t, func(w *world) {
		w.mdm.setScript(func(context.Context, call) (map[string]notifier.Result, error) {
			return nil, &notifier.RefusedError{Text: "no such id"}
		})
		w.fill("set", "a")
		w.assign("set", "e")
		w.drain()
		w.start()
		w.settle()
		average := 5 * time.Second
		for attempt := 1; attempt <= 3; attempt++ {
			require.Len(w, w.mdm.take(), 1)
			e := w.enrollment("e")
			require.Equal(w, attempt, e.Attempts)
			require.Equal(w, "no such id", e.LastError)
			require.WithinRange(w, e.NotifyAt, e.Now.Add(average/2), e.Now.Add(average*3/2+time.Millisecond))
			require.Zero(w, e.CommandSentAt)
			require.Equal(w, w.compose("e").Token, e.DesiredToken)

			w.restart()
			w.settle()
			require.Empty(w, w.mdm.take(), "it is not due")
			again := w.enrollment("e")
			require.Equal(w, e, again)
			if attempt == 3 {
				w.mdm.setScript(nil)
			}
			w.clock.advance(average*3/2 + time.Second)
			w.settle()
			average *= 2
		}
		calls := w.mdm.take()
		require.Len(w, calls, 1)
		require.NotNil(w, calls[0].command.Data, "what was not taken was not told")
		e := w.enrollment("e")
		require.Zero(w, e.Attempts)
		require.Empty(w, e.LastError)
		require.Equal(w, 1, e.Sends)
	})
}

// TestMDMThatDoesNotWork: that is no fault of the enrollment's, which is tried again as soon after the third time as after
// the first.
func TestMDMThatDoesNotWork(t *testing.T) {
	eachStore(t, func(w *world) {
		w.mdm.setScript(failing("the MDM is down"))
		w.fill("set", "a")
		w.assign("set", "e")
		w.drain()
		w.start()
		w.settle()
		for range 4 {
			require.Len(w, w.mdm.take(), 1)
			e := w.enrollment("e")
			require.Equal(w, 1, e.Attempts)
			require.Equal(w, "the MDM is down", e.LastError)
			require.WithinRange(w, e.NotifyAt, e.Now.Add(2500*time.Millisecond), e.Now.Add(7501*time.Millisecond))
			w.clock.advance(8 * time.Second)
			w.settle()
		}
	})
}

func TestMDMAnswersByEnrollment(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.assign("set", "good", "refused", "silent", "unwoken")
		w.drain()
		w.mdm.setScript(func(_ context.Context, c call) (map[string]notifier.Result, error) {
			results := taken(c.ids)
			results["refused"] = notifier.Result{CommandError: "no such id", PushError: "no such id"}
			results["unwoken"] = notifier.Result{PushError: "bad push token"}
			delete(results, "silent")
			return results, nil
		})
		w.start()
		w.settle()
		calls := w.mdm.take()
		require.Len(w, calls, 1)
		require.ElementsMatch(w, []string{"good", "refused", "silent", "unwoken"}, calls[0].ids)
		for _, id := range []string{"good", "unwoken"} {
			e := w.enrollment(id)
			require.Equal(w, calls[0].command.UUID, e.CommandUUID, "%s is queued", id)
			require.Zero(w, e.Attempts)
		}
		for _, id := range []string{"refused", "silent"} {
			e := w.enrollment(id)
			require.Empty(w, e.CommandUUID, id)
			require.Equal(w, 1, e.Attempts)
			require.NotEmpty(w, e.LastError)
		}
		require.Equal(w, "no such id", w.enrollment("refused").LastError)

		// Only those that were not queued are told again.
		w.clock.advance(8 * time.Second)
		w.settle()
		for _, c := range w.mdm.take() {
			require.Subset(w, []string{"refused", "silent"}, c.ids)
		}
	})
}

// TestStrangeErrors: the texts come from another server, and must not keep what became of a batch from being written.
func TestStrangeErrors(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.assign("set", "e", "f")
		w.drain()
		w.mdm.setScript(failing("first"))
		w.start()
		for _, text := range []string{
			strings.Repeat("é€😀", 100_000), "\xff\xfe not UTF-8 \xc3", strings.Repeat("\xf0\x9f\x98", 5000), "\x00\x01", "",
		} {
			w.mdm.setScript(failing(text))
			w.settle()
			require.NotEmpty(w, w.mdm.take())
			for _, id := range []string{"e", "f"} {
				e := w.enrollment(id)
				require.NotZero(w, e.Attempts)
				require.LessOrEqual(w, len(e.LastError), 2000)
				require.True(w, utf8.ValidString(e.LastError))
			}
			w.clock.advance(2 * time.Hour)
		}
	})
}

// TestOneBadBatch: what fails for one token does not keep others waiting, and each of its members backs off for itself.
func TestOneBadBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	w.fill("bad", "a")
	w.fill("good", "b")
	w.assign("bad", "b1", "b2")
	w.assign("good", "g1", "g2")
	w.drain()
	w.mdm.setScript(func(ctx context.Context, c call) (map[string]notifier.Result, error) {
		if strings.HasPrefix(c.ids[0], "b") {
			return nil, errors.New("this batch fails")
		}
		return taken(c.ids), nil
	})
	w.start()
	w.settle()
	require.NotZero(t, w.enrollment("g1").CommandSentAt)
	require.NotZero(t, w.enrollment("g2").CommandSentAt)
	require.Equal(t, 1, w.enrollment("b1").Attempts)
	require.Equal(t, 1, w.enrollment("b2").Attempts)
}

// TestMDMHangs: requests of the MDM that hang keep only themselves waiting, and Stop ends them. That is no failure.
func TestMDMHangs(t *testing.T) {
	eachStore(t, func(w *world) {
		hanging := make(chan struct{}, 10)
		w.mdm.setScript(func(ctx context.Context, c call) (map[string]notifier.Result, error) {
			if strings.HasPrefix(c.ids[0], "hang") {
				hanging <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return taken(c.ids), nil
		})
		for i := range 3 {
			w.fill(fmt.Sprint("hang", i), fmt.Sprint("hang", i))
			w.assign(fmt.Sprint("hang", i), fmt.Sprint("hang", i))
		}
		w.start(func(c *notifier.Config) { c.Workers = 4 })
		for range 3 {
			<-hanging
		}
		// One worker is left, for everybody else.
		for i := range 5 {
			set := fmt.Sprint("set", i)
			w.fill(set, set)
			w.assign(set, set)
			w.eventually(func() bool { return !w.enrollment(set).CommandSentAt.IsZero() })
		}
		w.stop()
		for i := range 3 {
			e := w.enrollment(fmt.Sprint("hang", i))
			require.Zero(w, e.Attempts, "to be stopped is no failure")
			require.Empty(w, e.LastError)
			require.Zero(w, e.CommandSentAt)
		}
		w.mdm.setScript(nil)
		w.mdm.take()
		w.restart()
		w.settle()
		require.Len(w, w.mdm.told(), 3, "they were given back, and no lease has to end first")
	})
}

// TestMoreBatchesThanWorkers: all workers hang while batches wait for one.
func TestMoreBatchesThanWorkers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	hanging := make(chan struct{}, 10)
	w.mdm.setScript(func(ctx context.Context, c call) (map[string]notifier.Result, error) {
		hanging <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for i := range 6 {
		w.fill(fmt.Sprint("set", i), fmt.Sprint("set", i))
		w.assign(fmt.Sprint("set", i), fmt.Sprint("e", i))
	}
	w.start(func(c *notifier.Config) { c.Workers = 2 })
	<-hanging
	<-hanging
	w.stop()
	require.Len(t, w.mdm.take(), 2)
	w.mdm.setScript(nil)
	w.restart()
	w.settle()
	require.Len(t, w.mdm.told(), 6)
}

// eventually waits until a condition holds, which is looked at after each change of the queue.
func (w *world) eventually(condition func() bool) {
	w.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		w.notifier.Wake()
		select {
		case <-tick.C:
		case <-deadline:
			require.Fail(w, "waited too long")
		}
	}
}

// mortalQueue loses what became of sends from some time on, like a notifier that dies between claim and finalise.
type mortalQueue struct {
	notifier.Queue
	mu   sync.Mutex
	dead bool
}

func (q *mortalQueue) die() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dead = true
}

func (q *mortalQueue) Finalise(ctx context.Context, lease storage.Lease, outcomes []storage.Outcome) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead {
		return nil
	}
	return q.Queue.Finalise(ctx, lease, outcomes)
}

func TestTakenOverFromTheDead(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.assign("set", "e1", "e2")
		w.drain()
		mortal := &mortalQueue{Queue: w.store}
		mortal.die()
		w.start(func(c *notifier.Config) { c.Queue = mortal })
		w.settle()
		died := w.mdm.take()
		require.Len(w, died, 1)
		w.stop()

		w.start()
		w.settle()
		require.Empty(w, w.mdm.take(), "nobody knows yet that it is dead")
		w.clock.advance(2*time.Minute - time.Second)
		w.settle()
		require.Empty(w, w.mdm.take())

		w.clock.advance(time.Second)
		w.settle()
		calls := w.mdm.take()
		require.Len(w, calls, 1, "at least once")
		require.ElementsMatch(w, []string{"e1", "e2"}, calls[0].ids)
		require.NotEqual(w, died[0].command.UUID, calls[0].command.UUID, "a CommandUUID may be used once")
		require.Equal(w, 1, w.enrollment("e1").Sends)

		w.clock.advance(time.Minute)
		w.settle()
		require.Empty(w, w.mdm.take(), "and then no more")
	})
}

// TestSeveralNotifiers share the work: everybody is told once.
func TestSeveralNotifiers(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		for i := range 60 {
			w.assign("set", fmt.Sprintf("e%02d", i))
		}
		w.start(func(c *notifier.Config) { c.Batch = 7 })
		second := *w
		var err error
		second.store, err = w.open(sqlstore.Options{NotifyDelay: -1, Clock: w.clock.Now})
		require.NoError(w, err)
		defer second.close()
		second.start(func(c *notifier.Config) { c.Batch = 5 })
		w.settle()
		second.settle()
		w.settle()
		told := w.mdm.told()
		require.Len(w, told, 60)
		for id, commands := range told {
			require.Len(w, commands, 1, id)
		}
	})
}

// brokenCompositor cannot compose for one enrollment.
type brokenCompositor struct{ notifier.Compositor }

func (c brokenCompositor) Compose(
	ctx context.Context, enrollmentID string, vector storage.Vector,
) (*storage.Composition, error) {
	if enrollmentID == "bad" {
		return nil, errors.New("secret details")
	}
	return c.Compositor.Compose(ctx, enrollmentID, vector)
}

func TestComposingFailsForOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	w.fill("set", "a")
	w.assign("set", "bad", "good")
	w.drain()
	w.start(func(c *notifier.Config) { c.Compositor = brokenCompositor{c.Compositor} })
	w.settle()
	require.Equal(t, [][]string{{"good"}}, idsOf(w.mdm.take()))
	e := w.enrollment("bad")
	require.Equal(t, 1, e.Attempts)
	require.NotEmpty(t, e.LastError)
	require.NotContains(t, e.LastError, "secret")
	require.Empty(t, e.DesiredToken)

	w.stop()
	w.clock.advance(8 * time.Second)
	w.start()
	w.settle()
	require.Equal(t, [][]string{{"bad"}}, idsOf(w.mdm.take()))
}

func idsOf(calls []call) (ids [][]string) {
	for _, c := range calls {
		ids = append(ids, c.ids)
	}
	return ids
}
