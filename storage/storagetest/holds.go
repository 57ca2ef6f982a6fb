package storagetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// Held is what nonotify makes of an enrollment: it should have something else, and is not told.
var holdTests = []test{
	{"HeldChangeOfOneInSync", heldChangeOfOneInSync},
	{"HeldChangeOfOneThatIsDue", heldChangeOfOneThatIsDue},
	{"HeldIsReleased", heldIsReleased},
	{"HeldFanout", heldFanout},
}

func (w *world) assignHeld(enrollment, set string) {
	w.Helper()
	changed, err := w.store.PutEnrollmentSet(w.ctx, enrollment, set, held)
	require.NoError(w, err)
	require.True(w, changed)
}

func heldChangeOfOneInSync(w *world) {
	w.assign("e", "s")
	w.settle()
	w.assignHeld("e", "t")
	e := w.enrollment("e")
	require.True(w, e.Held)
	require.True(w, e.NotifyAt.Equal(w.clock.Now()), "it is looked at, to write down what is desired")
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeHeld, IDs: []string{"e"}, DesiredToken: "t"})
	e = w.enrollment("e")
	require.True(w, e.Held)
	require.Zero(w, e.NotifyAt)
	require.Equal(w, "t", e.DesiredToken)

	// A held change of one who is held already.
	w.assignHeld("e", "u")
	e = w.enrollment("e")
	require.True(w, e.Held)
	require.False(w, e.NotifyAt.IsZero())
	w.claim(lease)
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{"e"}, DesiredToken: e.SyncedToken})
	e = w.enrollment("e")
	require.False(w, e.Held, "who is in sync is not held")
	require.Zero(w, e.NotifyAt)
}

func heldChangeOfOneThatIsDue(w *world) {
	w.assign("e", "s")
	before := w.enrollment("e")
	w.clock.Advance(time.Second)
	w.assignHeld("e", "t")
	e := w.enrollment("e")
	require.False(w, e.Held, "who waits to be told stays so")
	require.Equal(w, before.NotifyAt, e.NotifyAt)
	require.Equal(w, before.NotifySeq+1, e.NotifySeq)

	// The time of the check after a command stays too.
	w.claim(lease)
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{"e"}, After: time.Hour})
	before = w.enrollment("e")
	w.assignHeld("e", "u")
	e = w.enrollment("e")
	require.False(w, e.Held)
	require.Equal(w, before.NotifyAt, e.NotifyAt)
}

func heldIsReleased(w *world) {
	w.put(configuration("d", "x"))
	for name, release := range map[string]func(id, set string){
		"a change of its sets": func(id, _ string) { w.assign(id, "more") },
		"a set taken away":     func(id, set string) { w.unassign(id, set) },
		"a change of a set":    func(_, set string) { w.add(set, "d"); w.drain() },
		"a notification":       func(id, _ string) { w.notify(storage.NotifyTargets{Enrollments: []string{id}}) },
		"a notification of a set": func(_, set string) {
			w.notify(storage.NotifyTargets{Sets: []string{set}})
			w.drain()
		},
		"a notification that was asked not to notify": func(id, _ string) {
			require.NoError(w, w.store.Notify(w.ctx, storage.NotifyTargets{Enrollments: []string{id}}, held))
		},
		"the device itself": func(id, _ string) {
			w.update(storage.DeviceUpdate{ID: id, NotifySeq: w.enrollment(id).NotifySeq, Check: storage.CheckClear})
		},
	} {
		id, set := "enrollment of "+name, "set of "+name
		w.assignHeld(id, set)
		require.True(w, w.enrollment(id).Held, name)
		require.Equal(w, []string{id}, w.claim(lease), name)
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeHeld, IDs: []string{id}})
		w.clock.Advance(time.Second)
		release(id, set)
		e := w.enrollment(id)
		require.False(w, e.Held, name)
		if name == "the device itself" {
			require.Zero(w, e.NotifyAt)
			continue
		}
		require.True(w, e.NotifyAt.Equal(w.clock.Now()), name)
		w.settle()
	}

	// A release while it is claimed, and about to be held.
	w.assignHeld("e", "s")
	w.claim(lease)
	w.assign("e", "t")
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeHeld, IDs: []string{"e"}})
	require.False(w, w.enrollment("e").Held)
	require.Equal(w, []string{"e"}, w.claim(lease))
}

func heldFanout(w *world) {
	w.put(configuration("d", "x"))
	for _, id := range []string{"due", "in sync"} {
		w.assign(id, "s")
	}
	w.settle()
	w.assign("due", "t")
	_, err := w.store.PutSetDeclaration(w.ctx, "s", "d", held)
	require.NoError(w, err)
	w.drain()
	require.True(w, w.enrollment("in sync").Held)
	require.False(w, w.enrollment("due").Held)
	require.ElementsMatch(w, []string{"due", "in sync"}, w.claim(lease))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeHeld, IDs: []string{"due", "in sync"}})

	// Of a change that tells and one that does not, in either order, there is one fan-out, and it tells.
	for i, options := range [][]storage.ChangeOptions{{change, held}, {held, change}} {
		_, err := w.store.DeleteEnrollmentSets(w.ctx, "due", held)
		require.NoError(w, err)
		w.assignHeld("due", "s")
		w.settle()
		w.assignHeld("due", "u")
		for j, o := range options {
			_, err := w.store.PutDeclaration(w.ctx, configuration("d", string(rune('a'+2*i+j))), o)
			require.NoError(w, err)
		}
		require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM fanouts`))
		w.drain()
		require.False(w, w.enrollment("due").Held)
		require.False(w, w.enrollment("in sync").Held)
	}
	// Two that do not tell.
	w.settle()
	for _, text := range []string{"y", "z"} {
		_, err := w.store.PutDeclaration(w.ctx, configuration("d", text), held)
		require.NoError(w, err)
	}
	w.drain()
	require.True(w, w.enrollment("in sync").Held)
}
