package storagetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var happeningTests = []test{
	{"HappeningsInOrder", happeningsInOrder},
	{"HappeningsOfEnrolling", happeningsOfEnrolling},
	{"HappeningsOfLeaving", happeningsOfLeaving},
	{"HappeningsOfSync", happeningsOfSync},
	{"HappeningsOfSyncWaitForNobody", happeningsOfSyncWaitForNobody},
	{"HappeningsSelected", happeningsSelected},
	{"HappeningsPruned", happeningsPruned},
	{"HappeningsWhileCancelled", happeningsWhileCancelled},
	{"HappeningsOfManyWriters", happeningsOfManyWriters},
	{"Deliveries", deliveries},
	{"DeliveriesThatPruningOvertakes", deliveriesThatPruningOvertakes},
}

// advanceLog has all that has happened told, and returns how many happenings that were.
func (w *world) advanceLog() (appended int) {
	w.Helper()
	for range 10_000 {
		n, more, err := w.store.AdvanceHappenings(w.ctx, 7)
		require.NoError(w, err)
		appended += n
		if !more {
			return appended
		}
	}
	require.Fail(w, "the log does not come to an end")
	return 0
}

func (w *world) happenings(query storage.HappeningQuery) *storage.HappeningPage {
	w.Helper()
	page, err := w.store.Happenings(w.ctx, query)
	require.NoError(w, err)
	return page
}

// log tells what the whole log holds behind an id, page by page: kinds and enrollments.
func (w *world) log(after int64) (log []string) {
	w.Helper()
	for {
		page := w.happenings(storage.HappeningQuery{After: after, Limit: 3})
		for i, h := range page.Happenings {
			if after != storage.FromOldest {
				require.Equal(w, after+int64(i)+1, h.ID)
			}
			log = append(log, string(h.Kind)+" "+h.EnrollmentID)
		}
		if page.Next == page.LastID {
			return log
		}
		after = page.Next
	}
}

// requireGone checks that the log cannot be read behind an id, and where it begins and ends.
func (w *world) requireGone(after, oldest, last int64) {
	w.Helper()
	_, err := w.store.Happenings(w.ctx, storage.HappeningQuery{After: after, Limit: 1})
	var gone *storage.HappeningsGoneError
	require.ErrorAs(w, err, &gone)
	require.Equal(w, &storage.HappeningsGoneError{After: after, OldestID: oldest, LastID: last}, gone)
}

// enrolls has enrollments enroll.
func (w *world) enrolls(ids ...string) {
	w.Helper()
	for _, id := range ids {
		event := w.tokenUpdated(1, 0)
		event.ID = id
		w.apply(event)
	}
}

func happeningsInOrder(w *world) {
	for _, after := range []int64{storage.FromOldest, 0} {
		page := w.happenings(storage.HappeningQuery{After: after, Limit: 1})
		require.Equal(w, &storage.HappeningPage{}, page)
	}
	w.requireGone(1, 1, 0)
	require.Zero(w, w.advanceLog())
	w.enrolls("a", "b", "c")
	require.Empty(w, w.log(0), "nothing has its place yet")
	require.Equal(w, 3, w.advanceLog())
	require.Zero(w, w.advanceLog())
	w.enrolls("d")
	require.Equal(w, 1, w.advanceLog())

	all := []string{"enrollment.enrolled a", "enrollment.enrolled b", "enrollment.enrolled c", "enrollment.enrolled d"}
	require.Equal(w, all, w.log(storage.FromOldest))
	for after := range all {
		require.Equal(w, all[after:], w.log(int64(after)))
	}
	require.Empty(w, w.log(4))
	w.requireGone(5, 1, 4)

	page := w.happenings(storage.HappeningQuery{After: 1, Limit: 2})
	require.Equal(w, &storage.HappeningPage{Next: 3, LastID: 4, Happenings: []storage.Happening{
		{ID: 2, At: w.clock.Now(), Kind: storage.HappenedEnrolled, EnrollmentID: "b", Detail: []byte(`{"type":"Device"}`)},
		{ID: 3, At: w.clock.Now(), Kind: storage.HappenedEnrolled, EnrollmentID: "c", Detail: []byte(`{"type":"Device"}`)},
	}}, page)
	w.store = w.open(w.options())
	require.Equal(w, all, w.log(0), "after a restart")
	require.Zero(w, w.count(`SELECT COUNT(*) FROM event_outbox`))
}

// happeningsOfEnrolling checks that each enrolling is told once, whatever becomes of the events that tell it.
func happeningsOfEnrolling(w *world) {
	told := int64(0)
	requireTold := func(times int, why string) {
		w.Helper()
		w.advanceLog()
		var enrolled int
		for _, line := range w.log(told) {
			if line == "enrollment.enrolled e" {
				enrolled++
			}
		}
		require.Equal(w, times, enrolled, why)
		told = w.happenings(storage.HappeningQuery{After: storage.FromOldest, Limit: 1}).LastID
	}
	begins, completes := w.authenticated(2*time.Second), w.tokenUpdated(1, time.Second)
	w.apply(begins)
	requireTold(0, "it has only begun")
	w.apply(completes)
	requireTold(1, "it is complete")
	w.apply(completes)
	w.apply(begins)
	w.apply(w.tokenUpdated(2, 0))
	requireTold(0, "repetitions and a new push token")

	w.clock.Advance(time.Hour)
	w.apply(w.tokenUpdated(1, 0))
	w.apply(w.authenticated(time.Second))
	requireTold(1, "again, in the wrong order")

	w.clock.Advance(time.Hour)
	w.apply(w.authenticated(0))
	w.clock.Advance(time.Minute)
	w.apply(w.tokenUpdated(3, 0))
	w.apply(w.tokenUpdated(4, 0))
	requireTold(1, "again, with a first token that was lost")

	w.clock.Advance(time.Hour)
	w.apply(w.checkedOut(0))
	w.clock.Advance(time.Hour)
	back := storage.DeviceUpdate{ID: "e", Epoch: w.enrollment("e").Epoch, Back: true}
	w.update(back)
	requireTold(1, "it had not left")
	w.update(back)
	requireTold(0, "two requests found that it had left")
}

func happeningsOfLeaving(w *world) {
	w.enrolls("e")
	channel := w.tokenUpdated(1, 0)
	channel.ID, channel.Type, channel.ParentID = "e:u", "User", "e"
	w.apply(channel)
	require.Equal(w, 2, w.advanceLog())
	require.JSONEq(w, `{"type":"User","parent_id":"e"}`,
		string(w.happenings(storage.HappeningQuery{After: 1, Limit: 1}).Happenings[0].Detail))
	w.clock.Advance(time.Second)
	left := w.checkedOut(0)
	w.apply(left)
	w.apply(left)
	w.clock.Advance(time.Second)
	w.apply(w.checkedOut(0))
	w.advanceLog()
	require.Equal(w, []string{"enrollment.left e", "enrollment.left e:u"}, w.log(2))
	w.clock.Advance(time.Second)
	w.enrolls("e")
	w.clock.Advance(time.Second)
	w.apply(w.checkedOut(0))
	w.advanceLog()
	require.Equal(w, []string{"enrollment.enrolled e", "enrollment.left e"}, w.log(4), "its channel had not come back")
}

// fallsOutOfSync has enrollments no more hold what they should, and getsInSync what they need to.
func (w *world) fallsOutOfSync(ids ...string) {
	w.Helper()
	for _, id := range ids {
		w.update(storage.DeviceUpdate{ID: id, Create: true, DesiredToken: "wanted", LostSync: true, CheckAfter: time.Hour})
	}
}

func (w *world) getsInSync(ids ...string) {
	w.Helper()
	for _, id := range ids {
		w.update(storage.DeviceUpdate{ID: id, SyncedToken: "wanted"})
	}
}

// happeningsOfSync checks that who falls out of sync, or comes into it, is told of once it is looked at: changes that were
// undone until then are not.
func happeningsOfSync(w *world) {
	w.enrolls("e")
	require.Equal(w, 1, w.advanceLog())
	began := w.clock.Now()
	e := w.enrollment("e")
	w.update(storage.DeviceUpdate{
		ID: "e", Epoch: e.Epoch, NotifySeq: e.NotifySeq, DesiredToken: "wanted", LostSync: true,
	})
	w.fallsOutOfSync("flaps", "never")
	w.getsInSync("flaps")
	w.clock.Advance(time.Minute)
	require.Equal(w, 2, w.advanceLog())
	require.Zero(w, w.advanceLog(), "nothing is told twice")
	page := w.happenings(storage.HappeningQuery{After: 1, Limit: 10})
	require.Equal(w, []storage.Happening{
		{ID: 2, At: began, Kind: storage.HappenedOutOfSync, EnrollmentID: "e", Detail: []byte(`{"desired_token":"wanted"}`)},
		{ID: 3, At: began, Kind: storage.HappenedOutOfSync, EnrollmentID: "never", Detail: []byte(`{"desired_token":"wanted"}`)},
	}, page.Happenings)

	synced := w.clock.Now()
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, SyncedToken: "wanted"})
	require.Equal(w, 1, w.advanceLog())
	page = w.happenings(storage.HappeningQuery{After: 3, Limit: 10})
	require.Equal(w, []storage.Happening{
		{ID: 4, At: synced, Kind: storage.HappenedInSync, EnrollmentID: "e", Detail: []byte(`{"token":"wanted"}`)},
	}, page.Happenings)
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, LostSync: true})
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, SyncedToken: "wanted"})
	require.Zero(w, w.advanceLog(), "a flap")

	// Who leaves is told of as leaving only, whatever was to be told of it, until it is back.
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, LostSync: true})
	w.clock.Advance(time.Second)
	w.apply(w.checkedOut(0))
	w.advanceLog()
	require.Equal(w, []string{"enrollment.left e"}, w.log(4))
	w.clock.Advance(time.Second)
	w.enrolls("e")
	e = w.enrollment("e")
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, NotifySeq: e.NotifySeq, DesiredToken: "wanted", LostSync: true})
	w.advanceLog()
	require.Equal(w, []string{"enrollment.enrolled e"}, w.log(5), "that it was out of sync is known")
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, SyncedToken: "wanted"})
	w.advanceLog()
	require.Equal(w, []string{"enrollment.in-sync e"}, w.log(6))

	// Many, and what was noted before comes before.
	var ids []string
	for i := range 500 {
		ids = append(ids, fmt.Sprintf("m%03d", i))
	}
	w.fallsOutOfSync(ids...)
	w.clock.Advance(time.Second)
	w.enrolls("m000")
	require.Equal(w, 501, w.advanceLog())
	log := w.log(7)
	require.Equal(w, "enrollment.enrolled m000", log[0])
	for i, id := range ids {
		require.Equal(w, "enrollment.out-of-sync "+id, log[1+i])
	}
	require.Zero(w, w.count(`SELECT COUNT(*) FROM enrollments WHERE sync_news IS NOT NULL`))
}

// happeningsOfSyncWaitForNobody checks that an enrollment which somebody holds keeps nobody else's news, nor the log, from
// advancing, and is told of later.
func happeningsOfSyncWaitForNobody(w *world) {
	w.fallsOutOfSync("a", "b", "c")
	if !w.database.Shared {
		require.Equal(w, 3, w.advanceLog()) // there, writers take turns
		return
	}
	release := w.hold(`SELECT id FROM enrollments WHERE id = ?`, "b")
	defer release()
	require.Equal(w, 2, w.advanceLog())
	require.Equal(w, []string{"enrollment.out-of-sync a", "enrollment.out-of-sync c"}, w.log(0))
	release()
	require.Equal(w, 1, w.advanceLog())
	require.Equal(w, []string{"enrollment.out-of-sync b"}, w.log(2))

	// Of servers that work at it at once, one does.
	w.enrolls("d")
	release = w.hold(`SELECT id FROM event_log WHERE id = ?`, 1)
	defer release()
	require.Zero(w, w.advanceLog())
	release()
	require.Equal(w, 1, w.advanceLog())
}

func happeningsSelected(w *world) {
	options := w.options()
	options.MaxLooked = 5
	w.store = w.open(options)
	for range 6 {
		w.clock.Advance(time.Second)
		w.enrolls("a", "b")
	}
	w.clock.Advance(time.Second)
	left := w.checkedOut(0)
	left.ID = "b"
	w.apply(left)
	require.Equal(w, 13, w.advanceLog())
	ids := func(query storage.HappeningQuery) (ids []int64) {
		for pages := 0; ; pages++ {
			page := w.happenings(query)
			for _, h := range page.Happenings {
				ids = append(ids, h.ID)
			}
			if page.Next == page.LastID {
				return ids
			}
			require.Less(w, pages, 20)
			require.Greater(w, page.Next, query.After)
			query.After = page.Next
		}
	}
	require.Equal(w, []int64{2, 4, 6, 8, 10, 12, 13}, ids(storage.HappeningQuery{EnrollmentID: "b", Limit: 2}))
	require.Equal(w, []int64{13}, ids(storage.HappeningQuery{Kinds: []storage.HappeningKind{storage.HappenedLeft}, Limit: 100}))
	require.Equal(w, []int64{6, 8, 10, 12, 13}, ids(storage.HappeningQuery{
		After: 5, EnrollmentID: "b", Limit: 1, Kinds: []storage.HappeningKind{storage.HappenedLeft, storage.HappenedEnrolled},
	}))
	require.Empty(w, ids(storage.HappeningQuery{EnrollmentID: "unknown", Limit: 1}))
	require.Equal(w, &storage.HappeningPage{Next: 5, LastID: 13},
		w.happenings(storage.HappeningQuery{EnrollmentID: "unknown", Limit: 1}), "it has looked at so many only")
}

// happeningsPruned checks that the log is bounded, and that nobody who missed something reads on without knowing.
func happeningsPruned(w *world) {
	options := w.options()
	options.KeepEvents = 10
	w.store = w.open(options)
	enroll := func(count int) {
		for range count {
			w.clock.Advance(time.Second)
			w.enrolls("e")
		}
		w.advanceLog()
	}
	enroll(10)
	require.Len(w, w.log(0), 10)
	enroll(1)
	require.Len(w, w.log(1), 10)
	w.requireGone(0, 2, 11)
	require.Len(w, w.log(storage.FromOldest), 10)
	enroll(50)
	require.Equal(w, 10, w.count(`SELECT COUNT(*) FROM events`))
	w.requireGone(50, 52, 61)
	require.Len(w, w.log(51), 10)

	// A smaller bound holds at once, although nothing happens.
	options.KeepEvents = 1
	w.store = w.open(options)
	require.Zero(w, w.advanceLog())
	w.requireGone(59, 61, 61)
	require.Len(w, w.log(60), 1)
	require.Empty(w, w.log(61))
	_, err := w.store.Happenings(w.ctx, storage.HappeningQuery{After: 3, Limit: 1, EnrollmentID: "unknown"})
	require.ErrorContains(w, err, "61")
}

// happeningsWhileCancelled cuts off the advancing of the log at any moment: nothing is lost, and nothing told twice.
func happeningsWhileCancelled(w *world) {
	const rounds, each = 25, 20
	for round := range rounds {
		var ids []string
		for i := range each {
			ids = append(ids, fmt.Sprintf("r%02d-%02d", round, i))
		}
		w.enrolls(ids[:each/2]...)
		w.fallsOutOfSync(ids[each/2:]...)
		ctx, cancel := context.WithTimeout(w.ctx, time.Duration(rand.IntN(3000))*time.Microsecond) // #nosec G404 -- a pause is no secret
		_, _, err := w.store.AdvanceHappenings(ctx, 2*each)
		cancel()
		if err != nil {
			require.ErrorIs(w, err, context.DeadlineExceeded)
		}
	}
	w.advanceLog()
	log := w.log(0)
	seen := map[string]bool{}
	for _, line := range log {
		require.False(w, seen[line], line)
		seen[line] = true
	}
	require.Len(w, log, rounds*each)
}

// happeningsOfManyWriters has many writers on two stores note 10,000 happenings, while both stores advance the log and
// readers resume at places of their own: each sees every one behind its place, once, and all in the same order.
func happeningsOfManyWriters(w *world) {
	const devices, channels, writers, readers = 400, 24, 16, 4
	const total = devices * (channels + 1)
	stores := []storage.Store{w.store, w.store}
	if w.database.Shared {
		stores[1] = w.open(w.options())
	}
	for device := range devices {
		rows := ""
		for channel := range channels {
			rows += fmt.Sprintf(",('d%03d:%02d', 'd%03d', 0)", device, channel, device)
		}
		_, err := w.database.SQL.ExecContext(w.ctx, fmt.Sprintf(
			`INSERT INTO enrollments (id, parent_id, created_at) VALUES ('d%03d', '', 0)`, device)+rows)
		require.NoError(w, err)
	}

	var mu sync.Mutex
	var failures []error
	check := func(err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, err)
		}
	}
	over, end := context.WithCancel(w.ctx)
	defer end()
	var writing, advancing, reading sync.WaitGroup
	for writer := range writers {
		writing.Go(func() {
			for device := writer; device < devices; device += writers {
				// With it leave its channels: one transaction notes many, among those of others.
				_, err := stores[writer%2].ApplyEvent(w.ctx, storage.Event{
					Kind: storage.EventCheckOut, ID: fmt.Sprintf("d%03d", device), At: w.clock.Now(),
				}, storage.EventOptions{})
				check(err)
			}
		})
	}
	for i := range 2 {
		advancing.Go(func() {
			poll := time.NewTicker(5 * time.Millisecond)
			defer poll.Stop()
			for over.Err() == nil {
				_, more, err := stores[i].AdvanceHappenings(w.ctx, 50+100*i)
				check(err)
				if !more {
					<-poll.C
				}
			}
		})
	}
	logs := make([][]storage.Happening, readers)
	for reader := range readers {
		reading.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(reader))) // #nosec G404 G115 -- the same in each run
			after, restarts := int64(0), 0
			poll := time.NewTicker(5 * time.Millisecond)
			defer poll.Stop()
			for after < total && w.ctx.Err() == nil {
				page, err := stores[random.IntN(2)].Happenings(w.ctx,
					storage.HappeningQuery{After: after, Limit: 1 + random.IntN(200)})
				if err != nil {
					check(err)
					return
				}
				logs[reader] = append(logs[reader][:after], page.Happenings...)
				after = page.Next
				if len(page.Happenings) == 0 {
					<-poll.C
				} else if restarts < 30 && random.IntN(3) == 0 {
					restarts++
					after = random.Int64N(after + 1) // it had only noted this one
				}
			}
		})
	}
	writing.Wait()
	reading.Wait()
	end()
	advancing.Wait()
	require.NoError(w, errors.Join(failures...))
	seen := map[string]bool{}
	for i, h := range logs[0] {
		require.Equal(w, int64(i+1), h.ID)
		require.Equal(w, storage.HappenedLeft, h.Kind)
		require.False(w, seen[h.EnrollmentID], h.EnrollmentID)
		seen[h.EnrollmentID] = true
	}
	require.Len(w, logs[0], total)
	for _, log := range logs[1:] {
		require.Equal(w, logs[0], log)
	}
	require.Zero(w, w.advanceLog())
}

func deliveries(w *world) {
	mine, other := storage.Lease{ID: 1, Duration: time.Minute}, storage.Lease{ID: 2, Duration: time.Minute}
	take := func(lease storage.Lease, limit int) *storage.Delivery {
		w.Helper()
		delivery, err := w.store.TakeDelivery(w.ctx, lease, limit)
		require.NoError(w, err)
		return delivery
	}
	requireTaken := func(delivery *storage.Delivery, ids ...int64) {
		w.Helper()
		require.NotNil(w, delivery)
		var got []int64
		for _, h := range delivery.Happenings {
			got = append(got, h.ID)
		}
		require.Equal(w, ids, got)
		require.Zero(w, delivery.Lost)
	}
	w.enrolls("a", "b")
	w.advanceLog()
	require.Nil(w, take(mine, 10), "deliveries begin at the end")
	w.enrolls("c", "d", "e")
	w.advanceLog()
	require.Nil(w, take(other, 10), "it is somebody else's")
	requireTaken(take(mine, 2), 3, 4)
	requireTaken(take(mine, 2), 3, 4) // as long as it is not noted
	held, err := w.store.Delivered(w.ctx, mine, 4)
	require.NoError(w, err)
	require.True(w, held)
	requireTaken(take(mine, 2), 5)

	// One who does not renew it loses it, and does not note anything any more.
	w.clock.Advance(40 * time.Second)
	held, err = w.store.HoldDelivery(w.ctx, mine)
	require.NoError(w, err)
	require.True(w, held)
	w.clock.Advance(40 * time.Second)
	require.Nil(w, take(other, 10))
	w.clock.Advance(time.Minute)
	requireTaken(take(other, 10), 5)
	for _, change := range []func() (bool, error){
		func() (bool, error) { return w.store.Delivered(w.ctx, mine, 5) },
		func() (bool, error) { return w.store.HoldDelivery(w.ctx, mine) },
	} {
		held, err := change()
		require.NoError(w, err)
		require.False(w, held)
	}
	require.NoError(w, w.store.GiveUpDelivery(w.ctx, mine))
	require.Nil(w, take(mine, 10), "it gave up what it did not have")
	require.NoError(w, w.store.GiveUpDelivery(w.ctx, other))
	requireTaken(take(mine, 10), 5)
	held, err = w.store.Delivered(w.ctx, mine, 5)
	require.NoError(w, err)
	require.True(w, held)
	require.Nil(w, take(mine, 10))
	w.store = w.open(w.options())
	require.Nil(w, take(mine, 10), "it is noted")
	w.enrolls("f")
	w.advanceLog()
	requireTaken(take(mine, 10), 6)
}

// deliveriesThatPruningOvertakes checks that deliveries go on where the log begins, and say how many are missing.
func deliveriesThatPruningOvertakes(w *world) {
	options := sqlstore.Options{NotifyDelay: -1, Clock: w.clock.Now, KeepEvents: 3}
	w.store = w.open(options)
	lease := storage.Lease{ID: 1, Duration: time.Minute}
	delivery, err := w.store.TakeDelivery(w.ctx, lease, 2)
	require.NoError(w, err)
	require.Nil(w, delivery)
	w.enrolls("a", "b", "c", "d", "e")
	w.advanceLog()
	for range 2 {
		delivery, err = w.store.TakeDelivery(w.ctx, lease, 2)
		require.NoError(w, err)
		require.Equal(w, int64(2), delivery.Lost)
		require.Equal(w, int64(3), delivery.Happenings[0].ID)
	}
	_, err = w.store.Delivered(w.ctx, lease, 4)
	require.NoError(w, err)
	delivery, err = w.store.TakeDelivery(w.ctx, lease, 2)
	require.NoError(w, err)
	require.Zero(w, delivery.Lost)
	require.Len(w, delivery.Happenings, 1)
}

// exerciseHappenings is the part of Exercise that is about the log.
func (w *world) exerciseHappenings() {
	w.fallsOutOfSync("e0001", "e0002")
	w.enrolls("e0011", "e0012")
	for range 3 {
		_, _, err := w.store.AdvanceHappenings(w.ctx, 300)
		require.NoError(w, err)
	}
	last := w.happenings(storage.HappeningQuery{After: storage.FromOldest, Limit: 1}).LastID
	w.happenings(storage.HappeningQuery{After: last - 1, Limit: 10})
	w.happenings(storage.HappeningQuery{After: last - 2, Limit: 10, EnrollmentID: "e0001"})
	w.happenings(storage.HappeningQuery{
		After: last - 2, Limit: 10, EnrollmentID: "e0001", Kinds: []storage.HappeningKind{storage.HappenedLeft},
	})
	lease := storage.Lease{ID: 1, Duration: time.Minute}
	for range 2 {
		_, err := w.store.TakeDelivery(w.ctx, lease, 10)
		require.NoError(w, err)
		w.enrolls("e0013")
		w.clock.Advance(time.Second)
		_, _, err = w.store.AdvanceHappenings(w.ctx, 10)
		require.NoError(w, err)
	}
	_, err := w.store.HoldDelivery(w.ctx, lease)
	require.NoError(w, err)
	_, err = w.store.Delivered(w.ctx, lease, last)
	require.NoError(w, err)
	require.NoError(w, w.store.GiveUpDelivery(w.ctx, lease))
}
