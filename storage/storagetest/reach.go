package storagetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var reachTests = []test{
	{"ReachOfMergedFanouts", reachOfMergedFanouts},
	{"ReachThroughSeveralSets", reachThroughSeveralSets},
	{"ReachOfMoreThanAPage", reachOfMoreThanAPage},
}

// reachOfMergedFanouts: changes whose fan-outs merge have reached the same enrollments, and each is told so.
func reachOfMergedFanouts(w *world) {
	members := []string{"a", "b", "c"}
	w.assignAll("s", members...)
	w.fill("s", "d")
	w.settle()
	reach := func(changeID string) *storage.Reach {
		w.Helper()
		found := w.changes(storage.ChangeQuery{ChangeID: changeID})
		require.Len(w, found, 1)
		return found[0].Reach
	}
	put := func(changeID string) {
		w.Helper()
		_, err := w.store.PutDeclaration(w.ctx, configuration("d", changeID), storage.ChangeOptions{ChangeID: changeID, By: "key"})
		require.NoError(w, err)
	}
	for _, changeID := range []string{"one", "two", "three"} {
		put(changeID)
		require.Equal(w, waits(0), reach(changeID))
	}
	w.advance(2)
	put("four")
	w.assign("d", "s")
	require.Equal(w, waits(0), reach("one"), "it is told when it is over")
	w.clock.Advance(time.Second)
	require.True(w, w.advance(3).Done)
	for _, changeID := range []string{"one", "two", "three"} {
		require.Equal(w, reached(4), reach(changeID))
	}
	require.Equal(w, waits(0), reach("four"), "this one came when the other ran")
	w.drain()
	require.Equal(w, reached(4), reach("four"))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM change_fanouts`))
}

// reachThroughSeveralSets: a change is finished when the last of its fan-outs is.
func reachThroughSeveralSets(w *world) {
	w.put(configuration("d", "first"))
	for i := range 230 {
		w.add(fmt.Sprintf("s%03d", i), "d")
	}
	w.assignAll("s007", "a", "b")
	w.assignAll("s229", "b", "c", "e")
	w.settle()
	w.clock.Advance(time.Second)
	w.put(configuration("d", "second"))
	require.Equal(w, 230, w.count(`SELECT COUNT(*) FROM change_fanouts`))
	steps := 0
	for page := w.advance(100); page != nil; page = w.advance(100) {
		steps++
		require.Equal(w, steps == 230, w.newest(1)[0].Reach.Finished)
	}
	require.Equal(w, 230, steps)
	require.Equal(w, reached(5), w.newest(1)[0].Reach, "b counts twice")

	require.NoError(w, w.store.Notify(w.ctx, storage.NotifyTargets{
		Enrollments: []string{"a", "new"}, Sets: []string{"s007", "none"}, Declarations: []string{"d"},
	}, change))
	require.Equal(w, waits(2), w.newest(1)[0].Reach)
	w.drain()
	require.Equal(w, reached(7), w.newest(1)[0].Reach)
}

// reachOfMoreThanAPage: however many changes merge, a step tells a bounded number of them, and the next fan-out waits.
func reachOfMoreThanAPage(w *world) {
	const changes = 450
	w.fill("s", "d")
	w.assign("e", "s")
	w.settle()
	before := w.seqs("e")[0]
	for range changes {
		w.touch("d")
	}
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM fanouts`))
	page := w.advance(10)
	require.Equal(w, &storage.FanoutPage{Set: "s", ChangeID: "change", Marked: 1, Reached: 1}, page)
	finished := func() int {
		return w.count(`SELECT COUNT(*) FROM changes WHERE action = 'declaration.touch' AND waiting = 0`)
	}
	require.Less(w, finished(), changes)
	require.Positive(w, finished())
	w.touch("d")
	w.clock.Advance(time.Second)
	var steps []storage.FanoutPage
	for page := w.advance(10); page != nil; page = w.advance(10) {
		steps = append(steps, *page)
	}
	require.Equal(w, []storage.FanoutPage{
		{Set: "s", ChangeID: "change", Reached: 1}, {Set: "s", ChangeID: "change", Reached: 1, Done: true},
		{Set: "s", ChangeID: "change", Marked: 1, Reached: 1, Done: true},
	}, steps)
	require.Equal(w, changes+1, finished())
	require.Equal(w, before+2, w.seqs("e")[0], "one mark a fan-out")
	for _, change := range w.changes(storage.ChangeQuery{Action: storage.ActionTouchDeclaration, Limit: 100}) {
		require.Equal(w, reached(1), change.Reach)
	}
}
