package notifier_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/storage"
)

// hear has the MDM's events of enrollments be seen.
func (w *world) hear(ids ...string) {
	w.Helper()
	for _, id := range ids {
		_, err := w.store.ApplyEvent(w.Context(), storage.Event{
			Kind: storage.EventCommand, ID: id, At: w.clock.Now(), CommandUUID: "another", Status: "Idle",
		}, storage.EventOptions{})
		require.NoError(w, err)
	}
}

// answer is what a device made of its last command.
func (w *world) answer(id, status string) {
	w.Helper()
	_, err := w.store.ApplyEvent(w.Context(), storage.Event{
		Kind: storage.EventCommand, ID: id, At: w.clock.Now(), CommandUUID: w.enrollment(id).CommandUUID, Status: status,
	}, storage.EventOptions{})
	require.NoError(w, err)
}

// unwoken is what an MDM answers that cannot wake anybody.
func unwoken(ids []string) map[string]notifier.Result {
	results := map[string]notifier.Result{}
	for _, id := range ids {
		results[id] = notifier.Result{PushError: "push failed for " + id}
	}
	return results
}

// TestUnwokenAreOnlyPushed: what is queued is not queued again because the device could not be woken.
func TestUnwokenAreOnlyPushed(t *testing.T) {
	eachStore(t, func(w *world) {
		w.mdm.setScript(func(_ context.Context, c call) (map[string]notifier.Result, error) { return unwoken(c.ids), nil })
		w.mdm.setPushing(func(_ context.Context, ids []string) (map[string]notifier.Result, error) { return unwoken(ids), nil })
		w.fill("set", "a")
		w.assign("set", "e", "f")
		w.drain()
		w.start()
		w.settle()
		require.Len(w, w.mdm.take(), 1)
		require.Empty(w, w.mdm.takePushes())

		average := 5 * time.Second
		for failures := 1; failures <= 5; failures++ {
			e := w.enrollment("e")
			require.Equal(w, failures, e.PushFailures)
			require.Equal(w, "push failed for e", e.LastError)
			require.Zero(w, e.Attempts, "the command is queued")
			require.Equal(w, 1, e.Sends)
			require.WithinRange(w, e.NotifyAt, e.Now.Add(average/2), e.Now.Add(average*3/2+time.Millisecond))
			w.clock.advance(average*3/2 + time.Second)
			w.settle()
			average *= 2
			pushed := map[string]int{}
			for _, ids := range w.mdm.takePushes() {
				for _, id := range ids {
					pushed[id]++
				}
			}
			require.Equal(w, map[string]int{"e": 1, "f": 1}, pushed)
		}
		require.NotZero(w, w.mdm.takeProbes(), "that nobody can be woken may mean that the MDM is down")
		w.mdm.setPushing(nil)
		w.clock.advance(time.Hour)
		w.settle()
		require.NotEmpty(w, w.mdm.takePushes())
		require.Empty(w, w.mdm.take(), "nothing was queued twice")
		e := w.enrollment("e")
		require.Zero(w, e.PushFailures)
		require.Empty(w, e.LastError)
		require.Equal(w, e.Now.Add(6*time.Hour), e.NotifyAt)
	})
}

// TestUnacknowledgedAreOnlyPushed: where events are seen, there is never more than one command in the MDM's queue.
func TestUnacknowledgedAreOnlyPushed(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.assign("set", "e")
		w.hear("e")
		w.start()
		w.settle()
		require.Len(w, w.mdm.take(), 1)
		pushes := 0
		for hours := 1; hours < 24; hours++ {
			w.clock.advance(time.Hour)
			w.put("a", "edit "+time.Duration(hours).String(), change)
			w.settle()
			pushes += len(w.mdm.takePushes())
			require.Empty(w, w.mdm.take(), "after %d hours", hours)
		}
		require.Equal(w, 3, pushes, "at the check interval, however often it changes")
		w.clock.advance(time.Hour)
		w.settle()
		calls := w.mdm.take()
		require.Len(w, calls, 1, "after a day it may be lost")
		require.Equal(w, w.compose("e").Tokens(), calls[0].command.Data)

		w.answer("e", "NotNow")
		w.clock.advance(7 * time.Hour)
		w.settle()
		require.Empty(w, w.mdm.take())
		require.Equal(w, [][]string{{"e"}}, w.mdm.takePushes())

		// It comes, and something else is desired by then: that is a command again.
		w.answer("e", "Acknowledged")
		w.put("a", "last", change)
		w.settle()
		require.Len(w, w.mdm.take(), 1)
		require.Empty(w, w.mdm.takePushes())

		// It refuses, which takes the command out of the queue.
		w.answer("e", "Error")
		w.clock.advance(7 * time.Hour)
		w.settle()
		require.Len(w, w.mdm.take(), 1)
		require.Empty(w, w.mdm.takePushes())
	})
}

// TestPushingFailsAsAWhole: then the MDM may not work.
func TestPushingFailsAsAWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	w.mdm.setScript(func(_ context.Context, c call) (map[string]notifier.Result, error) { return unwoken(c.ids), nil })
	w.mdm.setPushing(func(_ context.Context, ids []string) (map[string]notifier.Result, error) { return unwoken(ids), nil })
	w.mdm.setProbing(func(context.Context) error { return errors.New("its database is down") })
	w.fill("set", "a")
	w.assignMany("set", 20)
	w.drain()
	w.start()
	w.settle()
	require.Len(t, w.mdm.take(), 1)
	require.False(t, w.notifier.Breaker().Open, "the command was queued, so it works")
	for range 10 {
		w.clock.advance(10 * time.Second)
		w.settle()
	}
	require.True(t, w.notifier.Breaker().Open)
	require.Empty(t, w.mdm.take())
	require.LessOrEqual(t, len(w.mdm.takePushes()), 12)

	w.mdm.setProbing(nil)
	w.mdm.setPushing(nil)
	w.clock.advance(time.Hour)
	w.settle()
	require.False(t, w.notifier.Breaker().Open)
	require.Empty(t, w.mdm.take())
	for _, ids := range w.mdm.takePushes() {
		for _, id := range ids {
			require.Zero(t, w.enrollment(id).PushFailures)
		}
	}
}
