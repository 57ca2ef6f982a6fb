package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var overviewTests = []test{
	{"ListFilters", listFilters},
	{"ListShows", listShows},
	{"ListOfWhoLostSyncSinceTheClaim", listOfWhoLostSyncSinceTheClaim},
	{"ListPages", listPages},
	{"ListPagesOfMany", listPagesOfMany},
	{"QueueNumbers", queueNumbers},
	{"QueueNumbersStopAtABound", queueNumbersStopAtABound},
}

var yes, no = true, false

// list reads all pages of a list.
func (w *world) list(store storage.Store, filter storage.EnrollmentFilter, limit int) (list []storage.Listed) {
	w.Helper()
	page := storage.Page{Limit: limit}
	for range 1000 {
		more, next, err := store.ListEnrollments(w.ctx, filter, page)
		require.NoError(w, err)
		require.LessOrEqual(w, len(more), limit)
		list = append(list, more...)
		if next == "" {
			return list
		}
		require.Greater(w, next, page.After)
		page.After = next
	}
	require.Fail(w, "the list does not end")
	return nil
}

func listed(list []storage.Listed) []string {
	ids := []string{}
	for _, l := range list {
		ids = append(ids, l.Enrollment.ID)
	}
	return ids
}

// overview asks everything that can be asked of many.
func (w *world) overview(page storage.Page) {
	w.Helper()
	for _, filter := range []storage.EnrollmentFilter{
		{}, {InSync: &yes}, {InSync: &no}, {Failing: &yes}, {Failing: &no}, {Left: &yes}, {Set: "s0000"}, {Type: "Device"},
		{SeenBefore: w.clock.Now()}, {SeenAfter: w.clock.Now()},
		{Set: "s0000", InSync: &no, Failing: &yes, Left: &no, Type: "User", SeenBefore: w.clock.Now(), SeenAfter: w.clock.Now()},
	} {
		_, _, err := w.store.ListEnrollments(w.ctx, filter, page)
		require.NoError(w, err)
	}
	_, err := w.store.QueueNumbers(w.ctx)
	require.NoError(w, err)
	_, err = w.store.HappeningNumbers(w.ctx)
	require.NoError(w, err)
	_, _, err = w.store.CountEnrollments(w.ctx, page.After, 50)
	require.NoError(w, err)
}

// leave has an enrollment check out.
func (w *world) leave(id string) {
	w.Helper()
	w.clock.Advance(time.Second)
	_, err := w.store.ApplyEvent(w.ctx, storage.Event{
		Kind: storage.EventCheckOut, ID: id, At: w.clock.Now(),
	}, storage.EventOptions{})
	require.NoError(w, err)
}

func listFilters(w *world) {
	start := w.clock.Now()
	w.fill("s", "d")
	w.fill("t", "e")
	for _, id := range []string{"a synced", "b told", "c failing", "d gone"} {
		w.assign(id, "s")
	}
	w.assign("b told", "t")
	w.drain()
	w.claim(lease)
	token := w.compose("a synced").Token
	w.finalise(lease,
		storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{"a synced", "b told", "d gone"}, DesiredToken: token},
		storage.Outcome{Kind: storage.OutcomeFailed, IDs: []string{"c failing"}, DesiredToken: token, Error: "down"})
	w.update(storage.DeviceUpdate{ID: "a synced", Type: "Device", SyncedToken: token, Check: storage.CheckClear})
	w.clock.Advance(time.Hour)
	w.update(storage.DeviceUpdate{ID: "b told", Type: "User", ParentID: "a synced"})
	w.leave("d gone")
	w.assign("e new", "t")

	for _, c := range []struct {
		filter storage.EnrollmentFilter
		wanted string
	}{
		{storage.EnrollmentFilter{}, "a synced, b told, c failing, d gone, e new"},
		{storage.EnrollmentFilter{InSync: &yes}, "a synced, e new"},
		{storage.EnrollmentFilter{InSync: &no}, "b told, c failing, d gone"},
		{storage.EnrollmentFilter{Failing: &yes}, "c failing"},
		{storage.EnrollmentFilter{Failing: &no}, "a synced, b told, d gone, e new"},
		{storage.EnrollmentFilter{Left: &yes}, "d gone"},
		{storage.EnrollmentFilter{Left: &no}, "a synced, b told, c failing, e new"},
		{storage.EnrollmentFilter{Set: "t"}, "b told, e new"},
		{storage.EnrollmentFilter{Set: "T"}, ""},
		{storage.EnrollmentFilter{Type: "Device"}, "a synced"},
		{storage.EnrollmentFilter{Type: "device"}, ""},
		// Who was never seen was seen before everything, and after nothing.
		{storage.EnrollmentFilter{SeenBefore: start}, "c failing, d gone, e new"},
		{storage.EnrollmentFilter{SeenBefore: start.Add(time.Microsecond)}, "a synced, c failing, d gone, e new"},
		{storage.EnrollmentFilter{SeenBefore: start.Add(24 * time.Hour)}, "a synced, b told, c failing, d gone, e new"},
		{storage.EnrollmentFilter{SeenAfter: start.Add(-time.Microsecond)}, "a synced, b told"},
		{storage.EnrollmentFilter{SeenAfter: start}, "b told"},
		{storage.EnrollmentFilter{SeenAfter: start.Add(24 * time.Hour)}, ""},
		{storage.EnrollmentFilter{SeenAfter: start, SeenBefore: start.Add(24 * time.Hour)}, "b told"},
		{storage.EnrollmentFilter{Set: "s", InSync: &no, Left: &no}, "b told, c failing"},
		{storage.EnrollmentFilter{Set: "s", InSync: &no, Failing: &yes}, "c failing"},
		{storage.EnrollmentFilter{Set: "t", Failing: &yes}, ""},
		{storage.EnrollmentFilter{Set: "s", Type: "User", Failing: &no}, "b told"},
	} {
		for _, limit := range []int{1, 2, 100} {
			got := strings.Join(listed(w.list(w.store, c.filter, limit)), ", ")
			require.Equal(w, c.wanted, got, "%+v, %d a page", c.filter, limit)
		}
	}
}

// listShows checks that a list has what reading one enrollment has.
func listShows(w *world) {
	for i := range 5 {
		w.assign("e", fmt.Sprintf("s%d", 4-i))
	}
	w.notify(storage.NotifyTargets{Enrollments: []string{"without"}})
	w.claim(lease)
	list := w.list(w.store, storage.EnrollmentFilter{}, 100)
	require.Equal(w, []storage.Listed{
		{Enrollment: *w.enrollment("e"), Sets: []string{"s0", "s1", "s2", "s3", "s4"}},
		{Enrollment: *w.enrollment("without")},
	}, list)
	require.True(w, list[0].Enrollment.LeaseUntil.Equal(w.clock.Now().Add(time.Minute)))
	require.Equal(w, list[:1], w.list(w.store, storage.EnrollmentFilter{Set: "s3"}, 1), "with all its sets")
}

// listOfWhoLostSyncSinceTheClaim checks that a device which is served a manifest between a claim and its outcome is not
// taken to be in sync: nobody would look at it again.
func listOfWhoLostSyncSinceTheClaim(w *world) {
	for i, kind := range []storage.OutcomeKind{storage.OutcomeInSync, storage.OutcomeSynced} {
		id := fmt.Sprintf("e%d", i)
		w.assign(id, "s")
		e := w.enrollment(id)
		w.update(storage.DeviceUpdate{ID: id, AskedToken: "t"})
		if kind == storage.OutcomeInSync {
			w.update(storage.DeviceUpdate{ID: id, SyncedToken: "t"})
		}
		w.clock.Advance(time.Second)
		require.Equal(w, []string{id}, w.claim(lease))
		w.clock.Advance(time.Second)
		w.update(storage.DeviceUpdate{
			ID: id, NotifySeq: e.NotifySeq, FetchedToken: "t", LostSync: true,
			Check: storage.CheckPostpone, CheckAfter: storage.FetchGrace,
		})
		check := w.clock.Now().Add(storage.FetchGrace)
		w.finalise(lease, storage.Outcome{Kind: kind, IDs: []string{id}, DesiredToken: "t"})
		e = w.enrollment(id)
		require.True(w, e.OutOfSync, kind)
		require.True(w, e.NotifyAt.Equal(check), "%s", e.NotifyAt)
		require.Contains(w, listed(w.list(w.store, storage.EnrollmentFilter{InSync: &no}, 10)), id)
	}
}

// listPages checks pages that stop at what they may look at.
func listPages(w *world) {
	options := w.options()
	options.MaxLooked = 7
	store := w.open(options)
	var all, odd []string
	for i := range 50 {
		id := fmt.Sprintf("e%02d", i)
		all = append(all, id)
		w.assign(id, "s")
		if i%2 == 1 {
			odd = append(odd, id)
			w.assign(id, "odd")
		}
	}
	claimed := w.claimed(lease, 1000)
	require.Len(w, claimed, 50)
	w.finalise(lease,
		storage.Outcome{Kind: storage.OutcomeFailed, IDs: odd, DesiredToken: "t", Error: "down"},
		storage.Outcome{Kind: storage.OutcomeInSync, IDs: slices.DeleteFunc(slices.Clone(all), func(id string) bool {
			return slices.Contains(odd, id)
		})})
	w.update(storage.DeviceUpdate{ID: "e41", Type: "User"})
	for _, limit := range []int{1, 3, 6, 7, 8, 50, 100} {
		require.Equal(w, all, listed(w.list(store, storage.EnrollmentFilter{}, limit)), limit)
		require.Equal(w, odd, listed(w.list(store, storage.EnrollmentFilter{Set: "odd"}, limit)), limit)
		require.Equal(w, odd, listed(w.list(store, storage.EnrollmentFilter{InSync: &no}, limit)), limit)
		require.Equal(w, odd, listed(w.list(store, storage.EnrollmentFilter{Failing: &yes}, limit)), "more than are sorted")
		require.Equal(w, odd, listed(w.list(w.store, storage.EnrollmentFilter{Failing: &yes}, limit)), limit)
		require.Equal(w, []string{"e41"}, listed(w.list(store, storage.EnrollmentFilter{Type: "User"}, limit)), limit)
	}
	page, next, err := store.ListEnrollments(w.ctx, storage.EnrollmentFilter{Type: "User"}, storage.Page{Limit: 10})
	require.NoError(w, err)
	require.Empty(w, page, "it has looked at seven")
	require.Equal(w, "e06", next)
	_, next, err = w.store.ListEnrollments(w.ctx, storage.EnrollmentFilter{}, storage.Page{Limit: 50})
	require.NoError(w, err)
	require.Empty(w, next, "there are no more")
}

// listPagesOfMany is for more enrollments than one statement looks at.
func listPagesOfMany(w *world) {
	var all []string
	for i := range 450 {
		all = append(all, fmt.Sprintf("e%03d", i))
	}
	w.notify(storage.NotifyTargets{Enrollments: all})
	for _, limit := range []int{1000, 450, 449, 200, 199} {
		require.Equal(w, all, listed(w.list(w.store, storage.EnrollmentFilter{}, limit)), limit)
	}
}

func (w *world) numbers(store storage.Store) storage.QueueNumbers {
	w.Helper()
	numbers, err := store.QueueNumbers(w.ctx)
	require.NoError(w, err)
	return numbers
}

func queueNumbers(w *world) {
	start := w.clock.Now()
	require.Equal(w, storage.QueueNumbers{Bound: 10000, Now: start}, w.numbers(w.store))

	w.fill("s", "d")
	w.drain()
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		w.assign(id, "s")
		w.clock.Advance(time.Second)
	}
	require.Equal(w, storage.QueueNumbers{Due: 5, OldestDue: start, Bound: 10000, Now: w.clock.Now()}, w.numbers(w.store))
	require.Len(w, w.claimed(lease, 4), 4)
	numbers := w.numbers(w.store)
	require.Equal(w, 5, numbers.Due)
	require.Equal(w, 4, numbers.Leased)

	fail := func(text string, ids ...string) storage.Outcome {
		return storage.Outcome{Kind: storage.OutcomeFailed, IDs: ids, DesiredToken: "t", Error: text, After: time.Hour}
	}
	w.finalise(lease, fail("unknown id", "a"), fail("down", "b", "c"), storage.Outcome{
		Kind: storage.OutcomeSent, IDs: []string{"d"}, DesiredToken: "t", Error: "not woken", After: time.Hour,
	})
	require.Equal(w, 4, w.numbers(w.store).Failing)
	require.Contains(w, w.numbers(w.store).FailingBy, storage.ErrorCount{Error: "not woken", Count: 1})
	// A device that comes by itself need not be woken.
	w.update(storage.DeviceUpdate{ID: "d", Acknowledged: true})
	require.Empty(w, w.enrollment("d").LastError)
	// A change that waits in two ways is one.
	w.put(configuration("d", "second"))
	require.NotNil(w, w.advance(2))
	w.put(configuration("d", "third"))
	w.add("t", "d")
	require.Equal(w, storage.QueueNumbers{
		Due: 3, Waiting: 2, Failing: 3,
		FailingBy: []storage.ErrorCount{{Error: "down", Count: 2}, {Error: "unknown id", Count: 1}},
		OldestDue: start.Add(4 * time.Second), Fanouts: 2, OldestFanout: w.clock.Now(), Bound: 10000, Now: w.clock.Now(),
	}, w.numbers(w.store))

	w.clock.Advance(time.Hour)
	require.Equal(w, 5, w.numbers(w.store).Due)
	require.Zero(w, w.numbers(w.store).Waiting)
	w.claim(lease)
	require.Equal(w, 5, w.numbers(w.store).Leased)
	w.clock.Advance(time.Minute)
	require.Zero(w, w.numbers(w.store).Leased, "the lease has ended")
}

func queueNumbersStopAtABound(w *world) {
	options := w.options()
	options.MaxCounted = 3
	store := w.open(options)
	w.fill("mass", "d")
	for i := range 5 {
		w.assign(fmt.Sprintf("e%d", i), "mass")
		w.add(fmt.Sprintf("s%d", i), "d")
	}
	numbers := w.numbers(store)
	require.Equal(w, 3, numbers.Bound)
	require.Equal(w, 3, numbers.Due)
	require.Equal(w, 3, numbers.Fanouts)
	claimed := w.claimed(lease, 1000)
	require.Equal(w, 3, w.numbers(store).Leased)
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeFailed, IDs: ids(claimed), Error: "down", After: time.Hour})
	numbers = w.numbers(store)
	require.Equal(w, 3, numbers.Waiting)
	require.Equal(w, 3, numbers.Failing)
	require.Equal(w, []storage.ErrorCount{{Error: "down", Count: 3}}, numbers.FailingBy)
	// Of both priorities together, too.
	w.notify(storage.NotifyTargets{Enrollments: []string{"e1", "e2"}})
	w.clock.Advance(2 * time.Hour)
	require.Equal(w, 3, w.numbers(store).Due)
	require.Equal(w, 5, w.numbers(w.store).Due)
}
