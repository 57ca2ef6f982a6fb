package storagetest

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var clockTests = []test{
	{"ClockThatGoesOn", clockThatGoesOn},
	{"ClockSetBack", clockSetBack},
	{"ClockSetBackAmongMany", clockSetBackAmongMany},
	{"ClockSetBackTwice", clockSetBackTwice},
	{"ClockSetBackAfterCounting", clockSetBackAfterCounting},
	{"ClockSetBackWhileDevicesReport", clockSetBackWhileDevicesReport},
	{"ClockSetBackBeforeReenrolling", clockSetBackBeforeReenrolling},
	{"ClockSetForward", clockSetForward},
	{"ClockOfNoTime", clockOfNoTime},
}

const day = 24 * time.Hour

// keepClock keeps the clock until there is no more to put back, and returns by how much it was set back.
func (w *world) keepClock() (back time.Duration) {
	w.Helper()
	for range 1000 {
		found, more, err := w.store.KeepClock(w.ctx)
		require.NoError(w, err)
		back += found
		if !more {
			return back
		}
	}
	require.Fail(w, "putting times back does not end")
	return 0
}

// exerciseClock sets the clock back and forth again.
func (w *world) exerciseClock() {
	w.Helper()
	w.keepClock()
	w.clock.Advance(-time.Hour)
	require.Equal(w, time.Hour, w.keepClock())
	w.clock.Advance(time.Hour)
	w.keepClock()
}

// lateStore is a store whose marks wait for more edits.
func (w *world) lateStore() storage.Store {
	return w.open(sqlstore.Options{NotifyDelay: time.Second, Clock: w.clock.Now})
}

// clockThatGoesOn checks that nothing is put back while the clock goes on, or back by little.
func clockThatGoesOn(w *world) {
	w.assign("e", "s")
	w.claim(lease)
	before := w.enrollment("e")
	for _, by := range []time.Duration{0, time.Second, time.Minute, -4 * time.Second, 0, day, time.Microsecond} {
		w.clock.Advance(by)
		require.Zero(w, w.keepClock(), by)
	}
	after := w.enrollment("e")
	after.Now = before.Now
	require.Equal(w, before, after)
}

// clockSetBack checks that whoever wrote times while the clock was a day ahead, and went away, keeps nobody waiting for a
// day: neither by a lease, nor by a mark, a fan-out, or what a device is thought to have done.
func clockSetBack(w *world) {
	w.fill("s", "d")
	for _, id := range []string{"claimed", "told", "asked", "fetched", "seen"} {
		w.assign(id, "s")
	}
	w.settle()
	require.Zero(w, w.keepClock())

	w.clock.Advance(day)
	require.Zero(w, w.keepClock())
	late := w.lateStore()
	_, err := late.PutDeclaration(w.ctx, configuration("d", "second"), change)
	require.NoError(w, err, "a fan-out that waits for a second")
	_, err = late.PutEnrollmentSet(w.ctx, "marked", "s", change)
	require.NoError(w, err, "a mark that waits for a second")
	w.assign("claimed", "other")
	require.Equal(w, []string{"claimed"}, w.claim(storage.Lease{ID: 7, Duration: time.Minute}))
	taken, err := w.store.TakeDelivery(w.ctx, storage.Lease{ID: 7, Duration: time.Minute}, 1)
	require.NoError(w, err)
	require.Nil(w, taken)
	for id, update := range map[string]storage.DeviceUpdate{
		"asked":   {AskedToken: "t", Check: storage.CheckPostpone, CheckAfter: storage.AskGrace},
		"fetched": {FetchedToken: "t", Check: storage.CheckPostpone, CheckAfter: storage.FetchGrace},
		"seen":    {},
	} {
		e := w.enrollment(id)
		update.ID, update.Epoch, update.NotifySeq = id, e.Epoch, e.NotifySeq
		w.update(update)
	}
	w.assign("told", "other")
	w.claim(lease)
	w.finalise(lease, storage.Outcome{
		Kind: storage.OutcomeSent, IDs: []string{"told"}, DesiredToken: "t", CommandUUID: "u", After: 6 * time.Hour,
	})

	w.clock.Advance(time.Minute - day)
	require.InDelta(w, day, w.keepClock(), float64(2*time.Minute))
	now := w.clock.Now()
	for id, latest := range map[string]time.Duration{
		"claimed": 0, "marked": 0, "told": 6 * time.Hour, "asked": storage.AskGrace, "fetched": storage.FetchGrace,
	} {
		e := w.enrollment(id)
		require.False(w, e.NotifyAt.IsZero(), id)
		require.LessOrEqual(w, e.NotifyAt.Sub(now), latest+time.Second, id)
		for what, at := range map[string]time.Time{
			"created": e.CreatedAt, "seen": e.LastSeen, "sent": e.CommandSentAt, "asked": e.AskedAt, "fetched": e.FetchedAt,
			"synced": e.SyncedAt, "lease": e.LeaseUntil, "sync": e.SyncChangedAt, "acknowledged": e.CommandAcknowledgedAt,
		} {
			require.False(w, at.After(now), "%s of %s", what, id)
		}
	}
	told := w.enrollment("told")
	require.InDelta(w, 6*time.Hour, told.NotifyAt.Sub(told.CommandSentAt), float64(3*time.Minute), "in their order")
	require.WithinDuration(w, now, w.enrollment("seen").LastSeen, 2*time.Minute)
	w.clock.Advance(2 * time.Second)
	require.Subset(w, w.claim(storage.Lease{ID: 8, Duration: time.Minute}), []string{"claimed", "marked"})
	require.NotNil(w, w.advance(10), "the fan-out is due")
	require.Zero(w, w.count(`SELECT COUNT(*) FROM event_log WHERE lease_until > ?`, now.Add(time.Minute).UnixMicro()))
	w.requireSound()
	require.Zero(w, w.keepClock(), "once is enough")
}

// clockSetBackAmongMany checks that all are reached, page by page, and those left alone whose times are right.
func clockSetBackAmongMany(w *world) {
	const many = 450
	var enrollments []string
	for i := range many {
		enrollments = append(enrollments, fmt.Sprintf("e%03d", i))
	}
	w.keepClock()
	w.clock.Advance(day)
	w.keepClock()
	w.notify(storage.NotifyTargets{Enrollments: enrollments})
	w.clock.Advance(-day)
	require.Empty(w, w.claim(lease))
	back, more, err := w.store.KeepClock(w.ctx)
	require.NoError(w, err)
	require.Equal(w, day, back)
	require.True(w, more)
	w.notify(storage.NotifyTargets{Enrollments: []string{"right"}})
	right := w.enrollment("right")

	// Another process goes on where one has died.
	other := w.open(w.options())
	_, more, err = other.KeepClock(w.ctx)
	require.NoError(w, err)
	require.True(w, more)
	require.Zero(w, w.keepClock())
	require.Equal(w, right, w.enrollment("right"))
	require.Len(w, w.claim(lease), many+1)
}

// clockSetBackTwice checks that one that is set back again while times are put back begins anew.
func clockSetBackTwice(w *world) {
	w.clock.Advance(2 * day)
	w.keepClock()
	w.assign("e", "s")
	w.clock.Advance(-day)
	back, more, err := w.store.KeepClock(w.ctx)
	require.NoError(w, err)
	require.Equal(w, day, back)
	require.True(w, more)
	w.clock.Advance(-day)
	require.Equal(w, day, w.keepClock())
	require.Equal(w, []string{"e"}, w.claim(lease))
	require.False(w, w.enrollment("e").CreatedAt.After(w.clock.Now()))
}

// clockSetBackAfterCounting checks that numbers which were counted while the clock was ahead get old as others do.
func clockSetBackAfterCounting(w *world) {
	w.fill("s", "d")
	w.keepClock()
	w.clock.Advance(day)
	w.keepClock()
	counted, _, err := w.store.CountDeclaration(w.ctx, "d", nil, 0, func(context.Context) error { return nil })
	require.NoError(w, err)
	require.Equal(w, []string{"d"}, counted)
	w.clock.Advance(-day)
	w.keepClock()
	w.clock.Advance(2 * time.Hour)
	stale, err := w.store.StaleSummaries(w.ctx, time.Hour, 10)
	require.NoError(w, err)
	require.Equal(w, []string{"d"}, stale)
}

// clockSetBackWhileDevicesReport checks that what happens while times are put back keeps its own, which can be a little after
// what the one who puts them back takes for now.
func clockSetBackWhileDevicesReport(w *world) {
	w.assign("e", "s")
	w.settle()
	w.keepClock()
	w.clock.Advance(day)
	w.keepClock()
	w.clock.Advance(-day)
	_, more, err := w.store.KeepClock(w.ctx)
	require.NoError(w, err)
	require.True(w, more)
	w.clock.Advance(time.Second)
	e := w.enrollment("e")
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, NotifySeq: e.NotifySeq})
	seen := w.enrollment("e").LastSeen
	require.Equal(w, w.clock.Now(), seen)
	w.clock.Advance(-time.Second)
	require.Zero(w, w.keepClock())
	require.Equal(w, seen, w.enrollment("e").LastSeen)
}

// clockSetBackBeforeReenrolling checks that what was received while the clock was ahead is void when its device enrolls
// again, although it seems to have come later.
func clockSetBackBeforeReenrolling(w *world) {
	w.fill("base", "d")
	w.keepClock()
	w.clock.Advance(day)
	w.keepClock()
	w.apply(w.authenticated(0))
	w.apply(w.tokenUpdated(1, 0))
	w.synchronize("e")
	w.clock.Advance(time.Hour - day)
	w.keepClock()
	w.clock.Advance(time.Minute)
	require.True(w, w.apply(w.authenticated(0)))
	w.clock.Advance(time.Second)
	require.True(w, w.apply(w.tokenUpdated(1, 0)))
	e := w.enrollment("e")
	require.Empty(w, e.SyncedToken)
	require.Empty(w, e.FetchedToken)
	require.True(w, e.OutOfSync)
	require.False(w, e.NotifyAt.After(w.clock.Now()))
	require.Empty(w, w.values("e"))
	require.Empty(w, w.declarationStatuses("e"))
	w.requireSound()
}

// clockSetForward checks that what was claimed is free soon, and nothing is lost.
func clockSetForward(w *world) {
	w.keepClock()
	w.assign("e", "s")
	require.Len(w, w.claim(lease), 1)
	w.clock.Advance(day)
	require.Zero(w, w.keepClock())
	require.Len(w, w.claim(storage.Lease{ID: 2, Duration: time.Minute}), 1)
}

// clockOfNoTime checks that nothing is put back by decades because a machine has not been told the time yet.
func clockOfNoTime(w *world) {
	w.keepClock()
	w.assign("e", "s")
	before := w.enrollment("e")
	since := w.clock.Now().Sub(time.Unix(0, 0))
	w.clock.Advance(-since)
	require.Zero(w, w.keepClock())
	w.clock.Advance(since)
	require.Equal(w, before, w.enrollment("e"))
}
