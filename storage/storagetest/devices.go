package storagetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var deviceTests = []test{
	{"DeviceRequests", deviceRequests},
	{"DeviceChecks", deviceChecks},
	{"DeviceOfAnEarlierEnrollment", deviceOfAnEarlierEnrollment},
	{"DeviceIsNotUrgentAfterACheck", deviceIsNotUrgentAfterACheck},
}

// deviceRequests checks what each field writes, and that it writes nothing else.
func deviceRequests(w *world) {
	now := w.clock.Now
	w.update(storage.DeviceUpdate{ID: "e", DesiredToken: "t", FetchedToken: "t"})
	require.False(w, w.enrollment("e").Known, "no row unless one is asked for")
	w.update(storage.DeviceUpdate{ID: "e", Create: true})
	e := w.enrollment("e")
	require.Equal(w, &storage.Enrollment{ID: "e", Known: true, CreatedAt: now(), LastSeen: now(), Now: now()}, e)

	for i, c := range []struct {
		update storage.DeviceUpdate
		wanted func()
	}{
		{storage.DeviceUpdate{Create: true}, func() {}},
		{storage.DeviceUpdate{Type: "User", ParentID: "parent"}, func() { e.Type, e.ParentID = "User", "parent" }},
		{storage.DeviceUpdate{}, func() {}},
		{storage.DeviceUpdate{DesiredToken: "t", AskedToken: "t"}, func() {
			e.DesiredToken, e.AskedToken, e.AskedAt = "t", "t", now()
		}},
		{storage.DeviceUpdate{FetchedToken: "t"}, func() {
			e.FetchedToken, e.FetchedAt = "t", now()
			e.AskedToken, e.AskedAt = "", time.Time{}
		}},
		{storage.DeviceUpdate{AskedToken: "t"}, func() { e.AskedToken, e.AskedAt = "t", now() }},
		{storage.DeviceUpdate{SyncedToken: "t", SeenFetched: "t"}, func() {
			e.SyncedToken, e.SyncedAt, e.SyncChangedAt = "t", now(), now()
			e.AskedToken, e.AskedAt = "", time.Time{}
		}},
		{storage.DeviceUpdate{LostSync: true, FetchedToken: "u"}, func() {
			e.SyncedToken, e.SyncedAt = "", time.Time{}
			e.OutOfSync, e.SyncChangedAt = true, now()
			e.FetchedToken, e.FetchedAt = "u", now()
		}},
	} {
		w.clock.Advance(time.Second)
		c.update.ID = "e"
		w.update(c.update)
		c.wanted()
		e.LastSeen, e.Now = now(), now()
		require.Equal(w, e, w.enrollment("e"), "step %d", i)
	}

	w.assign("e", "s")
	w.claim(lease)
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{"e"}, DesiredToken: "t", CommandUUID: "u"})
	require.Zero(w, w.enrollment("e").CommandAcknowledgedAt)
	w.clock.Advance(time.Second)
	w.update(storage.DeviceUpdate{ID: "e", Acknowledged: true})
	first := w.clock.Now()
	require.True(w, w.enrollment("e").CommandAcknowledgedAt.Equal(first))
	w.clock.Advance(time.Second)
	w.update(storage.DeviceUpdate{ID: "e", Acknowledged: true})
	require.True(w, w.enrollment("e").CommandAcknowledgedAt.Equal(first), "the first time counts")

	e = w.enrollment("e")
	require.False(w, e.InSync("t", false), "it lost that")
	require.False(w, e.InSync("nothing", true), "it was told something")
}

// deviceChecks checks that only what was seen is cleared or put off.
func deviceChecks(w *world) {
	for i, c := range []struct {
		name    string
		prepare func(id string)
		stale   bool // the request was answered before the last mark
		done    bool // the check is applied
	}{
		{"marked, and seen", func(id string) { w.assign(id, "s") }, false, true},
		{"marked since", func(id string) { w.assign(id, "s") }, true, false},
		{"held, and seen", func(id string) { w.assignHeld(id, "s") }, false, true},
		{"forced", func(id string) { w.notify(storage.NotifyTargets{Enrollments: []string{id}}) }, false, false},
		{"forced since", func(id string) { w.notify(storage.NotifyTargets{Enrollments: []string{id}}) }, true, false},
		{"forced, and told since", func(id string) {
			w.notify(storage.NotifyTargets{Enrollments: []string{id}})
			require.Equal(w, []string{id}, w.claim(lease))
			w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{id}, After: time.Minute})
		}, false, true},
	} {
		for _, check := range []storage.CheckChange{storage.CheckKeep, storage.CheckClear, storage.CheckPostpone} {
			id := fmt.Sprintf("%d-%d", i, check)
			c.prepare(id)
			before := w.enrollment(id)
			seen := before.NotifySeq
			if c.stale {
				seen--
			}
			w.update(storage.DeviceUpdate{ID: id, NotifySeq: seen, Check: check, CheckAfter: time.Hour, FetchedToken: "t"})
			e := w.enrollment(id)
			require.Equal(w, "t", e.FetchedToken, "what the device did is written in any case")
			require.Equal(w, before.NotifySeq, e.NotifySeq)
			require.Equal(w, before.Forced, e.Forced)
			switch {
			case !c.done || check == storage.CheckKeep:
				require.Equal(w, before.NotifyAt, e.NotifyAt, "%s, %d", c.name, check)
				require.Equal(w, before.Held, e.Held, "%s, %d", c.name, check)
			case check == storage.CheckClear:
				require.Zero(w, e.NotifyAt, c.name)
				require.False(w, e.Held, c.name)
			default:
				require.True(w, e.NotifyAt.Equal(w.clock.Now().Add(time.Hour)), c.name)
			}
			w.settle()
		}
	}

	// What is over is not kept as the last failure.
	w.assign("e", "s")
	w.claim(lease)
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeFailed, IDs: []string{"e"}, Error: "down"})
	w.update(storage.DeviceUpdate{ID: "e", NotifySeq: 1, Check: storage.CheckClear})
	require.Zero(w, w.enrollment("e").Attempts)
	require.Empty(w, w.enrollment("e").LastError)
}

func deviceOfAnEarlierEnrollment(w *world) {
	w.assign("e", "s")
	_, err := w.database.SQL.ExecContext(w.ctx, `UPDATE enrollments SET enroll_epoch = 2 WHERE id = 'e'`)
	require.NoError(w, err)
	before := w.enrollment("e")
	require.EqualValues(w, 2, before.Epoch)
	w.clock.Advance(time.Second)
	for _, epoch := range []int64{0, 1, 3} {
		w.update(storage.DeviceUpdate{
			ID: "e", Epoch: epoch, NotifySeq: 1, Type: "User", ParentID: "p", DesiredToken: "t", AskedToken: "t",
			FetchedToken: "t", SyncedToken: "t", Acknowledged: true, Create: true, Check: storage.CheckClear,
		})
	}
	before.Now = w.clock.Now()
	require.Equal(w, before, w.enrollment("e"), "what it did before it enrolled again says nothing")
	w.update(storage.DeviceUpdate{ID: "e", Epoch: 2, NotifySeq: 1, SyncedToken: "t", Check: storage.CheckClear})
	require.Equal(w, "t", w.enrollment("e").SyncedToken)
	require.Zero(w, w.enrollment("e").NotifyAt)
}

// deviceIsNotUrgentAfterACheck checks that who was urgent once does not overtake others for ever.
func deviceIsNotUrgentAfterACheck(w *world) {
	for _, id := range []string{"cleared", "plain", "postponed"} {
		w.assign(id, "s")
	}
	w.claim(lease)
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{"cleared", "plain", "postponed"}})
	w.assign("cleared", "t")
	w.assign("postponed", "t")
	w.update(storage.DeviceUpdate{ID: "cleared", NotifySeq: 2, Check: storage.CheckClear})
	w.update(storage.DeviceUpdate{ID: "postponed", NotifySeq: 2, Check: storage.CheckPostpone, CheckAfter: time.Hour})
	w.clock.Advance(time.Second)

	w.fill("s", "d")
	for range 3 { // in pages of one: a mass fan-out
		require.NotNil(w, w.advance(1))
		w.clock.Advance(time.Second)
	}
	w.assign("urgent", "u")
	w.clock.Advance(time.Second)
	require.Equal(w, []string{"urgent"}, ids(w.claimed(lease, 1)))
}
