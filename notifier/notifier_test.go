package notifier_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/storage"
)

// TestStartAndStop runs alone, to see goroutines that are left behind.
func TestStartAndStop(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newWorld(t, newSQLite(t))
	defer w.close()
	w.fill("set", "a")
	w.start()
	for range 3 {
		w.notifier.Start() // it runs already
	}
	var many sync.WaitGroup
	for i := range 8 {
		many.Go(func() {
			for range 20 {
				w.notifier.Wake()
				if i%2 == 0 {
					w.notifier.Start()
				} else {
					w.notifier.Stop()
				}
			}
		})
	}
	for i := range 40 {
		w.assign("set", fmt.Sprint("e", i))
	}
	many.Wait()

	w.notifier.Stop()
	w.notifier.Stop()
	w.notifier.Wake()
	w.clock.advance(time.Hour) // past the leases of requests that were cut off
	w.notifier.Start()
	w.settle()
	told := w.mdm.told()
	for i := range 40 {
		id := fmt.Sprint("e", i)
		require.NotEmpty(t, told[id], "nobody is lost by stopping")
		require.Equal(t, w.compose(id).Token, w.enrollment(id).CommandToken)
		require.Empty(t, w.enrollment(id).LastError)
	}
}

func TestStopBeforeStart(t *testing.T) {
	t.Parallel()
	n := notifier.New(notifier.Config{})
	n.Stop()
	n.Wake()
	n.Stop()
}

func TestTenEditsCostOneCommand(t *testing.T) {
	eachStore(t, func(w *world) {
		w.delay = 500 * time.Millisecond
		w.close()
		w.openStore()
		w.start()
		devices := []string{"e1", "e2", "e3"}
		w.fill("set", "a")
		w.assign("set", devices...)
		for i := range 10 {
			require.True(w, w.put("a", fmt.Sprint("edit ", i), change))
			w.settle()
		}
		require.Empty(w, w.mdm.take(), "they wait for more edits")
		w.clock.advance(time.Second)
		w.settle()
		calls := w.mdm.take()
		require.Len(w, calls, 1, "who should have the same is told together")
		require.ElementsMatch(w, devices, calls[0].ids)
		require.Equal(w, w.compose("e1").Tokens(), calls[0].command.Data)
		for _, id := range devices {
			e := w.enrollment(id)
			require.Equal(w, calls[0].command.UUID, e.CommandUUID)
			require.Equal(w, w.compose(id).Token, e.CommandToken)
			require.Equal(w, e.CommandToken, e.DesiredToken)
			require.Equal(w, 1, e.Sends)
			require.WithinRange(w, e.NotifyAt, e.CommandSentAt.Add(6*time.Hour), e.CommandSentAt.Add(7*time.Hour))
		}
	})
}

func TestNobodyIsToldWithoutNeed(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("one", "a", "b")
		w.fill("two", "b", "c")
		w.assign("one", "both", "first")
		w.assign("two", "both")
		w.sync("both", "first")

		// An edit that is undone before anybody is told of it.
		w.put("a", "second", change)
		w.put("a", "first", change)
		// A change of sets that changes nothing for who has both.
		w.remove("two", "b")
		// A set that holds nothing, also for somebody who never had anything.
		w.assign("empty", "first", "new")
		w.start()
		w.settle()
		require.Empty(w, w.mdm.take())
		for _, id := range []string{"both", "first", "new"} {
			require.Zero(w, w.enrollment(id).NotifyAt, id)
			require.Equal(w, w.compose(id).Token, w.enrollment(id).DesiredToken, id)
		}

		// The same text in another order is no change, and one more change is.
		require.False(w, w.put("a", "first", change))
		w.put("a", "third", change)
		w.settle()
		told := w.mdm.told()
		require.Len(w, told, 2)
		require.Len(w, told["both"], 1)
		require.Len(w, told["first"], 1)
	})
}

func TestHeldChanges(t *testing.T) {
	eachStore(t, func(w *world) {
		devices := []string{"e1", "e2"}
		w.fill("set", "a")
		w.assign("set", devices...)
		w.sync(devices...)
		w.start()
		w.settle() // a change that is still on its way to devices would take a held one with it
		first := w.compose("e1").Token

		w.put("a", "held", held)
		w.settle()
		require.Empty(w, w.mdm.take())
		for _, id := range devices {
			e := w.enrollment(id)
			require.True(w, e.Held)
			require.Zero(w, e.NotifyAt)
			require.Equal(w, first, e.SyncedToken)
			require.Equal(w, w.compose(id).Token, e.DesiredToken, "it is known what is desired")
			require.NotEqual(w, first, e.DesiredToken)
		}
		w.clock.advance(30 * 24 * time.Hour)
		w.settle()
		require.Empty(w, w.mdm.take(), "time releases nothing")

		// A notifying change of the same enrollment releases it, even one that changes nothing.
		w.assign("empty", "e1")
		w.settle()
		told := w.mdm.told()
		require.Len(w, told, 1)
		require.Equal(w, w.compose("e1").Tokens(), told["e1"][0].Data)
		require.False(w, w.enrollment("e1").Held)

		// So does a notification.
		require.NoError(w, w.store.Notify(w.Context(), storage.NotifyTargets{Enrollments: []string{"e2"}}, change))
		w.settle()
		told = w.mdm.told()
		require.Len(w, told, 1)
		require.Len(w, told["e2"], 1)

		// A held change that is undone leaves nothing behind.
		w.sync(devices...)
		w.put("a", "held again", held)
		w.settle()
		w.put("a", "held", held)
		w.settle()
		require.Empty(w, w.mdm.take())
		require.False(w, w.enrollment("e1").Held)
	})
}

func TestNotifyTellsWhoIsInSync(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.assign("set", "e1", "e2")
		w.sync("e1", "e2")
		w.start()
		w.settle()
		require.Empty(w, w.mdm.take())
		for i := range 2 {
			require.NoError(w, w.store.Notify(w.Context(), storage.NotifyTargets{Declarations: []string{"a"}}, change))
			w.settle()
			told := w.mdm.told()
			require.Len(w, told["e1"], 1)
			require.Len(w, told["e2"], 1)
			require.Equal(w, i == 0, told["e1"][0].Data != nil, "a further command for a token has the device ask")
		}
	})
}

func TestRepeatedUntilInSync(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.assign("set", "e")
		w.start()
		w.settle()
		first := w.mdm.take()
		require.Len(w, first, 1)
		require.Equal(w, w.compose("e").Tokens(), first[0].command.Data)

		w.clock.advance(6*time.Hour - time.Second)
		w.settle()
		require.Empty(w, w.mdm.take())

		uuids := map[string]bool{first[0].command.UUID: true}
		for i, interval := range []time.Duration{6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour} {
			w.clock.advance(interval + interval/10)
			w.settle()
			calls := w.mdm.take()
			require.Len(w, calls, 1)
			require.Nil(w, calls[0].command.Data, "the device has to ask")
			require.False(w, uuids[calls[0].command.UUID])
			uuids[calls[0].command.UUID] = true
			e := w.enrollment("e")
			require.Equal(w, i+2, e.Sends)
			check := min(2*interval, 24*time.Hour) // it is looked at daily, and told more rarely
			require.WithinRange(w, e.NotifyAt, e.Now.Add(check), e.Now.Add(check+check/10))
		}

		// A new token begins anew.
		w.put("a", "second", change)
		w.settle()
		calls := w.mdm.take()
		require.Len(w, calls, 1)
		require.Equal(w, w.compose("e").Tokens(), calls[0].command.Data)
		require.Equal(w, 1, w.enrollment("e").Sends)

		w.sync("e")
		w.clock.advance(30 * 24 * time.Hour)
		w.settle()
		require.Empty(w, w.mdm.take())
	})
}

// during has the MDM call a function in the middle of the next request.
func (m *scriptedMDM) during(once func()) {
	m.setScript(func(_ context.Context, c call) (map[string]notifier.Result, error) {
		m.setScript(nil)
		once()
		return taken(c.ids), nil
	})
}

func TestMarkedDuringTheSend(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.fill("other", "b")
		w.start()

		w.mdm.during(func() { w.assign("empty", "e") })
		w.assign("set", "e")
		w.settle()
		require.Len(w, w.mdm.take(), 1, "it was looked at again, and has been told")
		e := w.enrollment("e")
		require.Equal(w, 1, e.Sends)
		require.Equal(w, e.CommandSentAt.Add(6*time.Hour), e.NotifyAt)

		w.mdm.during(func() { w.assign("other", "e") })
		w.put("a", "second", change)
		w.settle()
		calls := w.mdm.take()
		require.Len(w, calls, 2)
		require.Equal(w, w.compose("e").Tokens(), calls[1].command.Data)
		require.NotEqual(w, calls[0].command.Data, calls[1].command.Data)
		require.NotEqual(w, calls[0].command.UUID, calls[1].command.UUID)
		require.Equal(w, w.compose("e").Token, w.enrollment("e").CommandToken)

		// A notification during the send is for a command of its own.
		w.mdm.during(func() {
			require.NoError(w, w.store.Notify(w.Context(), storage.NotifyTargets{Enrollments: []string{"e"}}, change))
		})
		w.put("a", "third", change)
		w.settle()
		require.Len(w, w.mdm.take(), 2)
		require.False(w, w.enrollment("e").Forced)
	})
}

// TestWithoutMDM: changes are followed as far as the queue.
func TestWithoutMDM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	w.fill("set", "a")
	w.assign("set", "e")
	w.sync("e")
	w.put("a", "second", change)
	w.queue = newWatchedQueue(w.store)
	w.notifier = notifier.New(notifier.Config{Queue: w.queue, Logger: discard})
	w.notifier.Start()
	require.True(t, w.queue.wait(&w.queue.fanouts, w.notifier.Wake, nil))
	require.NotZero(t, w.enrollment("e").NotifyAt)
	w.stop()

	w.start()
	w.settle()
	require.Len(t, w.mdm.take(), 1)
}

func TestBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	w.fill("set", "a")
	w.fill("other", "b")
	for i := range 25 {
		w.assign("set", fmt.Sprintf("e%02d", i))
	}
	w.assign("other", "f1", "f2")
	w.start(func(c *notifier.Config) { c.Batch = 10 })
	w.settle()
	sizes := map[int]int{}
	told := map[string]int{}
	for _, c := range w.mdm.take() {
		sizes[len(c.ids)]++
		for _, id := range c.ids {
			told[id]++
			require.Equal(t, w.compose(id).Tokens(), c.command.Data)
		}
	}
	require.Len(t, told, 27)
	for id, times := range told {
		require.Equal(t, 1, times, id)
	}
	for size := range sizes {
		require.LessOrEqual(t, size, 10)
	}
}
