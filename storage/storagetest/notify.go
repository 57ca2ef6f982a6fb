package storagetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var notifyTests = []test{
	{"NotifyTargets", notifyTargets},
	{"NotifyUnmatched", notifyUnmatched},
	{"NotifyForces", notifyForces},
	{"NotifyOnceOverManySets", notifyOnceOverManySets},
	{"NotifyAndAChangeTogether", notifyAndAChangeTogether},
	{"NotifyMany", notifyMany},
}

func (w *world) sent(id string) {
	w.Helper()
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{id}, After: time.Hour})
}

func notifyTargets(w *world) {
	w.fill("by set", "c")
	w.fill("by declaration", "d")
	w.add("by declaration too", "d")
	w.fill("other", "o")
	for _, set := range []string{"by set", "by declaration", "by declaration too", "other"} {
		w.assign("has "+set, set)
	}
	w.settle()
	for _, step := range []struct {
		targets storage.NotifyTargets
		wanted  []string
	}{
		{storage.NotifyTargets{}, nil},
		{storage.NotifyTargets{Sets: []string{"unknown"}, Declarations: []string{"unknown"}}, nil},
		{storage.NotifyTargets{Sets: []string{"by set", "by set"}}, []string{"has by set"}},
		{storage.NotifyTargets{Declarations: []string{"d", "d"}}, []string{"has by declaration", "has by declaration too"}},
		{storage.NotifyTargets{Enrollments: []string{"has other", "has other"}}, []string{"has other"}},
		{
			storage.NotifyTargets{
				Enrollments: []string{"has other", "has by set", "new"}, Sets: []string{"by set"}, Declarations: []string{"d"},
			},
			[]string{"has by declaration", "has by declaration too", "has by set", "has other", "new"},
		},
	} {
		w.notify(step.targets)
		w.drain()
		claimed := w.claimed(lease, 100)
		require.Equal(w, step.wanted, ids(claimed))
		for _, c := range claimed {
			require.True(w, c.Enrollment.Forced, "told even if in sync")
			w.sent(c.Enrollment.ID)
			require.False(w, w.enrollment(c.Enrollment.ID).Forced)
		}
		w.clock.Advance(time.Second)
	}
	require.True(w, w.enrollment("new").Known, "an unknown enrollment gets a row")
	require.Zero(w, w.count(`SELECT COUNT(*) FROM enrollment_sets WHERE enrollment_id = 'new'`))
}

func notifyUnmatched(w *world) {
	w.fill("filled", "d")
	w.assign("e", "had")
	w.assign("f", "filled")
	w.assign("f", "had")
	unmatched := func(targets storage.NotifyTargets) storage.NotifyTargets {
		w.Helper()
		unmatched, err := w.store.Unmatched(w.ctx, targets)
		require.NoError(w, err)
		return unmatched
	}
	targets := storage.NotifyTargets{
		Declarations: []string{"z", "d", "a", "z", "D"}, Sets: []string{"z", "had", "filled", "a", "Had", "z"},
		Enrollments: []string{"z", "e", "a", "E", "z", "f"},
	}
	require.Equal(w, storage.NotifyTargets{
		Declarations: []string{"D", "a", "z"}, Sets: []string{"Had", "a", "z"}, Enrollments: []string{"E", "a", "z"},
	}, unmatched(targets))
	require.Zero(w, unmatched(storage.NotifyTargets{}))
	w.unassign("e", "had")
	w.unassign("f", "had")
	require.Equal(w, []string{"had"}, unmatched(storage.NotifyTargets{Sets: []string{"had", "filled"}}).Sets)
	w.notify(targets)
	require.Empty(w, unmatched(targets).Enrollments, "they are known now")

	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprintf("n%04d", i))
	}
	require.Equal(w, storage.NotifyTargets{Declarations: many, Sets: many, Enrollments: many}, unmatched(storage.NotifyTargets{
		Declarations: append([]string{"d"}, many...), Sets: append([]string{"filled"}, many...),
		Enrollments: append([]string{"f"}, many...),
	}))
}

func notifyForces(w *world) {
	force := func() { w.notify(storage.NotifyTargets{Enrollments: []string{"e"}}) }
	force()
	require.True(w, w.enrollment("e").Forced)
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeFailed, IDs: []string{"e"}, Error: "down"})
	require.True(w, w.enrollment("e").Forced, "it was not told")
	require.Equal(w, []string{"e"}, w.claim(lease))
	force()
	w.sent("e")
	require.True(w, w.enrollment("e").Forced, "the second one came after the claim")
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.sent("e")
	require.False(w, w.enrollment("e").Forced)
	w.assign("e", "s")
	require.False(w, w.enrollment("e").Forced, "a change is no notification")
	force()
	force()
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.sent("e")
	require.False(w, w.enrollment("e").Forced, "two at once are one")
}

func notifyOnceOverManySets(w *world) {
	w.put(configuration("d", "x"))
	for _, set := range []string{"a", "b", "c"} {
		w.add(set, "d")
		w.assign("e", set)
		w.assign("only "+set, set)
	}
	w.settle()
	w.notify(storage.NotifyTargets{Declarations: []string{"d"}, Enrollments: []string{"e"}, Sets: []string{"c"}})
	told := map[string]int{}
	for {
		for _, id := range w.claim(lease) {
			told[id]++
			w.sent(id)
		}
		w.clock.Advance(time.Second)
		if w.advance(1) == nil {
			break
		}
	}
	require.Equal(w, map[string]int{"e": 1, "only a": 1, "only b": 1, "only c": 1}, told)

	w.notify(storage.NotifyTargets{Sets: []string{"a"}})
	w.drain()
	require.Equal(w, []string{"e", "only a"}, w.claim(lease), "another one is another one")
}

// notifyAndAChangeTogether checks that a change which joins a notification's waiting fan-out reaches also those whom the
// notification has reached through another set, and had told, before the change.
func notifyAndAChangeTogether(w *world) {
	w.fill("a", "d")
	w.fill("b", "e")
	w.assign("both", "a")
	w.assign("both", "b")
	w.settle()
	w.notify(storage.NotifyTargets{Sets: []string{"a", "b"}})
	page := w.advance(100)
	require.NotNil(w, page)
	require.Equal(w, 1, page.Marked)
	require.Equal(w, []string{"both"}, w.claim(lease))
	w.sent("both")
	seq := w.enrollment("both").NotifySeq

	identifier := map[string]string{"a": "e", "b": "d"}[page.Set]
	w.put(configuration(identifier, "second"))
	w.drain()
	require.Greater(w, w.enrollment("both").NotifySeq, seq, "the change has reached nobody")
	require.Equal(w, []string{"both"}, w.claim(lease))

	// The other way round: the notification joins the change.
	w.sent("both")
	w.put(configuration(identifier, "third"))
	w.notify(storage.NotifyTargets{Sets: []string{"a", "b"}})
	require.Equal(w, 2, w.count(`SELECT COUNT(*) FROM fanouts`))
	w.drain()
	require.Equal(w, []string{"both"}, w.claim(lease))
	require.True(w, w.enrollment("both").Forced)
}

func notifyMany(w *world) {
	var targets storage.NotifyTargets
	for i := range 450 {
		targets.Enrollments = append(targets.Enrollments, fmt.Sprintf("e%03d", 449-i))
		targets.Sets = append(targets.Sets, fmt.Sprintf("s%03d", 449-i))
	}
	w.notify(targets)
	require.Equal(w, 450, w.count(`SELECT COUNT(*) FROM enrollments WHERE notify_at IS NOT NULL AND force_seq = notify_seq`))
	require.Equal(w, 450, w.count(`SELECT COUNT(*) FROM fanouts`))
	w.drain()
	require.Zero(w, w.count(`SELECT COUNT(*) FROM fanouts`))
}
