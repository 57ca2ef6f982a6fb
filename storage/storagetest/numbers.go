package storagetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var numberTests = []test{
	{"CountEnrollments", countEnrollments},
	{"HappeningNumbers", happeningNumbers},
	{"FanoutThatWaits", fanoutThatWaits},
}

// census counts all enrollments, so many at a time, and returns in how many pages.
func (w *world) census(limit int) (all storage.FleetCount, pages int) {
	w.Helper()
	for after := ""; ; {
		count, next, err := w.store.CountEnrollments(w.ctx, after, limit)
		require.NoError(w, err)
		all.Add(count)
		if pages++; next == "" {
			return all, pages
		}
		require.Greater(w, next, after)
		after = next
	}
}

func countEnrollments(w *world) {
	count, pages := w.census(10)
	require.Zero(w, count)
	require.Equal(w, 1, pages)

	w.fill("s", "d")
	w.drain()
	for i := range 7 {
		w.assign(fmt.Sprint("e", i), "s")
	}
	desired := ids(w.claimed(lease, 100))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSynced, IDs: desired[:3], DesiredToken: "t"},
		storage.Outcome{Kind: storage.OutcomeHeld, IDs: desired[3:], DesiredToken: "t"})
	w.leave(desired[0])
	w.leave(desired[6])
	for limit, wanted := range map[int]int{1: 8, 3: 3, 7: 2, 8: 1} {
		count, pages := w.census(limit)
		require.Equal(w, storage.FleetCount{InSync: 2, OutOfSync: 3, Left: 2}, count, limit)
		require.Equal(w, wanted, pages, limit)
	}
}

func (w *world) happeningNumbers(store storage.Store) storage.HappeningNumbers {
	w.Helper()
	numbers, err := store.HappeningNumbers(w.ctx)
	require.NoError(w, err)
	return numbers
}

func happeningNumbers(w *world) {
	require.Equal(w, storage.HappeningNumbers{OldestID: 1}, w.happeningNumbers(w.store))
	options := w.options()
	options.MaxCounted = 2
	bounded := w.open(options)

	w.enrolls("a", "b", "c")
	numbers := w.happeningNumbers(w.store)
	require.GreaterOrEqual(w, numbers.Waiting, 3)
	require.Zero(w, numbers.LastID)
	require.Equal(w, 2, w.happeningNumbers(bounded).Waiting)

	appended := w.advanceLog()
	require.Equal(w, storage.HappeningNumbers{OldestID: 1, LastID: int64(appended)}, w.happeningNumbers(w.store))
	_, err := w.store.TakeDelivery(w.ctx, lease, 10)
	require.NoError(w, err)
	require.Equal(w, storage.HappeningNumbers{
		OldestID: 1, LastID: int64(appended), DeliveredID: int64(appended), Delivers: true,
	}, w.happeningNumbers(w.store))
}

func fanoutThatWaits(w *world) {
	w.fill("s", "d")
	w.drain()
	require.Zero(w, w.numbers(w.store).OldestFanout)
	for i := range 5 {
		w.assign(fmt.Sprint("e", i), "s")
	}
	changed := w.clock.Now()
	w.put(configuration("d", "second"))
	w.clock.Advance(time.Minute)
	require.Equal(w, changed, w.numbers(w.store).OldestFanout)
	require.NotNil(w, w.advance(2))
	require.Equal(w, w.clock.Now(), w.numbers(w.store).OldestFanout, "it has had a turn")
	w.drain()
	require.Zero(w, w.numbers(w.store).OldestFanout)
}
