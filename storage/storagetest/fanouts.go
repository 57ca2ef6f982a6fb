package storagetest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var fanoutTests = []test{
	{"FanoutPages", fanoutPages},
	{"FanoutWaitsForMoreEdits", fanoutWaitsForMoreEdits},
	{"FanoutsMerge", fanoutsMerge},
	{"FanoutsTakeTurns", fanoutsTakeTurns},
	{"FanoutAfterARestart", fanoutAfterARestart},
	{"FanoutAndWhoJoins", fanoutAndWhoJoins},
	{"FanoutsOfSetsWithoutEnrollments", fanoutsOfSetsWithoutEnrollments},
	{"FanoutsByTwo", fanoutsByTwo},
}

// seqs returns how often each enrollment was marked.
func (w *world) seqs(ids ...string) []int64 {
	w.Helper()
	var seqs []int64
	for _, id := range ids {
		seqs = append(seqs, w.enrollment(id).NotifySeq)
	}
	return seqs
}

func (w *world) assignAll(set string, ids ...string) {
	w.Helper()
	for _, id := range ids {
		w.assign(id, set)
	}
}

func fanoutPages(w *world) {
	require.Nil(w, w.advance(3))
	members := []string{"a", "b", "c", "d", "e", "f"}
	w.assignAll("s", members...)
	w.assign("other", "t")
	w.settle()
	before := w.seqs(members...)
	w.fill("s", "d")
	for _, wanted := range []storage.FanoutPage{
		{Set: "s", ChangeID: "change", Marked: 4, Reached: 4},
		{Set: "s", ChangeID: "change", Marked: 2, Reached: 6, Done: true},
	} {
		require.Equal(w, &wanted, w.advance(4))
	}
	require.Nil(w, w.advance(4))
	for i, seq := range w.seqs(members...) {
		require.Equal(w, before[i]+1, seq)
		require.True(w, w.enrollment(members[i]).NotifyAt.Equal(w.clock.Now()))
	}
	require.Zero(w, w.enrollment("other").NotifyAt)

	// As many as fit into pages: the last page is empty.
	w.touch("d")
	var reached []int64
	for page := w.advance(3); page != nil; page = w.advance(3) {
		reached = append(reached, page.Reached)
	}
	require.Equal(w, []int64{3, 6, 6}, reached)
	for i, seq := range w.seqs(members...) {
		require.Equal(w, before[i]+2, seq)
	}
	// A mark makes nobody wait longer.
	at := w.enrollment("a").NotifyAt
	w.clock.Advance(time.Second)
	w.touch("d")
	w.drain()
	require.Equal(w, at, w.enrollment("a").NotifyAt)
}

func fanoutWaitsForMoreEdits(w *world) {
	w.store = w.open(sqlstore.Options{NotifyDelay: 2 * time.Second, Clock: w.clock.Now})
	w.assign("e", "s")
	w.fill("s", "d") // now
	w.clock.Advance(time.Second)
	w.touch("d")
	require.Nil(w, w.advance(10))
	w.clock.Advance(time.Second)
	require.NotNil(w, w.advance(10), "more edits do not put it off for ever")
	require.True(w, w.enrollment("e").NotifyAt.Equal(w.clock.Now()))
	require.Nil(w, w.advance(10), "ten edits, one fan-out")
}

func fanoutsMerge(w *world) {
	members := []string{"a", "b", "c"}
	w.assignAll("s", members...)
	w.fill("s", "d")
	w.settle()
	before := w.seqs(members...)
	put := func(text, changeID string) {
		_, err := w.store.PutDeclaration(w.ctx, configuration("d", text), storage.ChangeOptions{ChangeID: changeID})
		require.NoError(w, err)
	}
	put("1", "one")
	put("2", "two")
	put("3", "three")
	page := w.advance(2)
	require.Equal(w, &storage.FanoutPage{Set: "s", ChangeID: "three", Marked: 2, Reached: 2}, page)

	// One runs: more changes make one that waits for it.
	put("4", "four")
	put("5", "five")
	require.Equal(w, 2, w.count(`SELECT COUNT(*) FROM fanouts`))
	w.clock.Advance(time.Second)
	require.Equal(w, &storage.FanoutPage{Set: "s", ChangeID: "three", Marked: 1, Reached: 3, Done: true}, w.advance(2))
	require.Equal(w, &storage.FanoutPage{Set: "s", ChangeID: "five", Marked: 2, Reached: 2}, w.advance(2))
	require.Equal(w, &storage.FanoutPage{Set: "s", ChangeID: "five", Marked: 1, Reached: 3, Done: true}, w.advance(2))
	require.Nil(w, w.advance(2))
	for i, seq := range w.seqs(members...) {
		require.Equal(w, before[i]+2, seq, "five changes, two marks")
	}
}

func fanoutsTakeTurns(w *world) {
	w.assignAll("long", "a", "b", "c", "d", "e")
	w.assignAll("other", "v", "w", "x")
	w.settle()
	w.fill("long", "d")
	w.clock.Advance(time.Second)
	w.fill("other", "e")
	var order []string
	for range 10 {
		w.clock.Advance(time.Second)
		page := w.advance(1)
		require.NotNil(w, page)
		order = append(order, page.Set)
		if len(order) == 3 {
			w.touch("d") // it joins at the end, and waits for the one that runs
		}
	}
	require.Equal(w, []string{"long", "other", "long", "other", "long", "other", "long", "other"}, order[:8])
	w.drain()
	require.Equal(w, slices.Repeat([]int64{3}, 5), w.seqs("a", "b", "c", "d", "e"))
}

func fanoutAfterARestart(w *world) {
	w.assignAll("s", "a", "b", "c")
	w.settle()
	before := w.seqs("a", "b", "c")
	w.fill("s", "d")
	require.Equal(w, "s", w.advance(1).Set)
	w.store = w.open(w.options())
	require.Equal(w, &storage.FanoutPage{Set: "s", ChangeID: "change", Marked: 1, Reached: 2}, w.advance(1),
		"it goes on where it was")
	w.drain()
	for i, seq := range w.seqs("a", "b", "c") {
		require.Equal(w, before[i]+1, seq)
	}
}

func fanoutAndWhoJoins(w *world) {
	w.assignAll("s", "b", "c", "d")
	w.settle()
	w.fill("s", "x")
	require.NotNil(w, w.advance(2)) // b and c
	w.assign("a", "s")              // behind
	w.assign("e", "s")              // before it
	w.unassign("c", "s")
	w.unassign("d", "s")
	w.drain()
	require.Equal(w, []string{"a", "b", "c", "d", "e"}, w.claim(lease), "marked by whom, does not matter")
	require.EqualValues(w, 1, w.enrollment("a").NotifySeq)
	require.EqualValues(w, 2, w.enrollment("e").NotifySeq)
}

func fanoutsOfSetsWithoutEnrollments(w *world) {
	w.fill("s", "d")
	require.Equal(w, &storage.FanoutPage{Set: "s", ChangeID: "change", Done: true}, w.advance(10))
	require.Nil(w, w.advance(10))
	w.notify(storage.NotifyTargets{Sets: []string{"unknown"}})
	require.Equal(w, &storage.FanoutPage{Set: "unknown", ChangeID: "change", Done: true}, w.advance(10))
	require.Nil(w, w.advance(10))
}

// fanoutsByTwo has two stores advance the same fan-outs, while more changes come.
func fanoutsByTwo(w *world) {
	const sets, members, changes = 4, 20, 5
	stores := []storage.Store{w.store, w.store}
	if w.database.Shared {
		stores[1] = w.open(w.options())
	}
	w.put(configuration("d", "0"))
	var enrollments []string
	for i := range members {
		enrollments = append(enrollments, fmt.Sprintf("e%02d", i))
	}
	for i := range sets {
		w.add(fmt.Sprint(i), "d")
		w.assignAll(fmt.Sprint(i), enrollments[i:]...)
	}
	w.settle()
	before := w.seqs(enrollments...)

	var changing, advancing sync.WaitGroup
	failures := make(chan error, 100)
	changed := make(chan struct{})
	changing.Go(func() {
		for i := range changes {
			if _, err := w.store.PutDeclaration(w.ctx, configuration("d", fmt.Sprint(i+1)), change); err != nil {
				failures <- err
			}
		}
	})
	for _, store := range stores {
		advancing.Go(func() {
			last := false
			for {
				page, err := store.AdvanceFanout(w.ctx, 3)
				switch {
				case err != nil:
					failures <- err
					return
				case page == nil && last:
					return
				case page == nil:
					// Nothing is due, or the other has it: go on until the changes are over, and once more.
					select {
					case <-changed:
						last = true
					default:
					}
				}
			}
		})
	}
	changing.Wait()
	close(changed)
	advancing.Wait()
	close(failures)
	for err := range failures {
		require.NoError(w, err)
	}
	for i, seq := range w.seqs(enrollments...) {
		marks := seq - before[i]
		inSets := int64(min(i+1, sets))
		require.GreaterOrEqual(w, marks, inSets, "%s was marked for each of its sets", enrollments[i])
		require.LessOrEqual(w, marks, inSets*changes)
	}
	require.Len(w, w.claim(lease), members)
}
