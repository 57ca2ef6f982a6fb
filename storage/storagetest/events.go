package storagetest

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var eventTests = []test{
	{"EventsOfEnrolling", eventsOfEnrolling},
	{"EventsOfEnrollingAgain", eventsOfEnrollingAgain},
	{"EventsOfNewPushTokens", eventsOfNewPushTokens},
	{"EventVoidsWhatWasBefore", eventVoidsWhatWasBefore},
	{"EventLeavesWhatCameAfter", eventLeavesWhatCameAfter},
	{"EventOfDeviceReachesItsChannels", eventOfDeviceReachesItsChannels},
	{"EventThatIsLateAfterEarlierOnes", eventThatIsLateAfterEarlierOnes},
	{"EventDropsLeases", eventDropsLeases},
	{"EnrollSets", enrollSets},
	{"CheckOut", checkOut},
	{"CheckOutThatIsLate", checkOutThatIsLate},
	{"MarkOfWhoHasLeft", markOfWhoHasLeft},
	{"CommandResults", commandResults},
	{"CommandResultsOfOthers", commandResultsOfOthers},
	{"CommandResultsBeforeTheAnswer", commandResultsBeforeTheAnswer},
	{"ResultsOfManyCommands", resultsOfManyCommands},
	{"EventsOfAnyForm", eventsOfAnyForm},
}

// grace is how long the completion of an enrollment is waited for.
const grace = time.Minute

func (w *world) applyWith(event storage.Event, options storage.EventOptions) (marked bool) {
	w.Helper()
	marked, err := w.store.ApplyEvent(w.ctx, event, options)
	require.NoError(w, err)
	return marked
}

func (w *world) apply(event storage.Event) (marked bool) {
	w.Helper()
	return w.applyWith(event, storage.EventOptions{})
}

// The events of an enrollment "e" that happen now, or so long ago.

func (w *world) ago(ago time.Duration) time.Time { return w.clock.Now().Add(-ago) }

func (w *world) authenticated(ago time.Duration) storage.Event {
	return storage.Event{Kind: storage.EventAuthenticate, ID: "e", Type: "Device", At: w.ago(ago)}
}

func (w *world) tokenUpdated(tally int, ago time.Duration) storage.Event {
	return storage.Event{Kind: storage.EventTokenUpdate, ID: "e", Type: "Device", Tally: tally, At: w.ago(ago)}
}

func (w *world) checkedOut(ago time.Duration) storage.Event {
	return storage.Event{Kind: storage.EventCheckOut, ID: "e", Type: "Device", At: w.ago(ago)}
}

const reportOfAll = `{"StatusItems":{"n":1,"management":{"declarations":{"assets":[
	{"identifier":"a","server-token":"1","active":true,"valid":"valid"}]}}},"Errors":[{"StatusItem":"x"}]}`

// synchronize brings an enrollment with the set "base" to where it holds what it should have and has said so.
func (w *world) synchronize(id string) {
	w.Helper()
	w.assign(id, "base")
	w.notify(storage.NotifyTargets{Enrollments: []string{id}})
	w.settle()
	e := w.enrollment(id)
	status := w.received(id, reportOfAll)
	status.Device.Epoch = e.Epoch
	require.NoError(w, w.store.PutStatus(w.ctx, status))
	require.Len(w, w.values(id), 1)
	require.NotEmpty(w, w.enrollment(id).SyncedToken)
	require.False(w, w.enrollment(id).OutOfSync)
	w.clock.Advance(time.Second)
}

// requireVoid checks that nothing is known of what an enrollment holds, was told and said.
func (w *world) requireVoid(id string) {
	w.Helper()
	e := w.enrollment(id)
	require.Empty(w, e.SyncedToken+e.FetchedToken+e.AskedToken+e.CommandUUID+e.CommandToken+e.CommandOutcome+e.CommandError)
	for _, at := range []time.Time{e.SyncedAt, e.FetchedAt, e.AskedAt, e.CommandSentAt, e.CommandAcknowledgedAt} {
		require.Zero(w, at)
	}
	require.Zero(w, e.Sends)
	require.Empty(w, w.values(id))
	require.Empty(w, w.declarationStatuses(id))
	errors, err := w.store.StatusErrors(w.ctx, id, 0, 10)
	require.NoError(w, err)
	require.Empty(w, errors)
}

// dueIn checks in how long an enrollment is due.
func (w *world) dueIn(id string, in time.Duration) {
	w.Helper()
	require.Equal(w, in, w.enrollment(id).NotifyAt.Sub(w.clock.Now()))
}

// eventsOfEnrolling checks a first enrollment, whatever comes of its events and in whatever order.
func eventsOfEnrolling(w *world) {
	for i, story := range []struct {
		name string
		tell func(event func(storage.Event) bool)
		due  time.Duration
	}{
		{"both", func(event func(storage.Event) bool) {
			require.True(w, event(w.authenticated(2*time.Second)))
			require.True(w, event(w.tokenUpdated(1, time.Second)))
		}, 0},
		{"both, without a tally", func(event func(storage.Event) bool) {
			require.True(w, event(w.authenticated(2*time.Second)))
			require.True(w, event(w.tokenUpdated(0, time.Second)))
		}, 0},
		{"the second overtakes", func(event func(storage.Event) bool) {
			require.True(w, event(w.tokenUpdated(1, time.Second)))
			require.False(w, event(w.authenticated(2*time.Second)))
		}, 0},
		{"the second overtakes, and a third is counted already", func(event func(storage.Event) bool) {
			require.True(w, event(w.tokenUpdated(2, 2*time.Second)))
			require.False(w, event(w.authenticated(3*time.Second)))
			require.False(w, event(w.tokenUpdated(2, time.Second)))
		}, 0},
		{"only the first", func(event func(storage.Event) bool) { require.True(w, event(w.authenticated(0))) }, grace},
		{"only the second", func(event func(storage.Event) bool) { require.True(w, event(w.tokenUpdated(1, 0))) }, 0},
		{"only the second, without a tally", func(event func(storage.Event) bool) {
			require.True(w, event(w.tokenUpdated(0, 0)))
		}, 0},
		{"repeated", func(event func(storage.Event) bool) {
			// To the nanosecond, as an MDM tells.
			first, second := w.authenticated(2*time.Second-789), w.tokenUpdated(1, time.Second-789)
			require.True(w, event(first))
			require.False(w, event(first))
			require.True(w, event(second))
			require.False(w, event(second))
			require.False(w, event(first))
			require.False(w, event(second))
		}, 0},
	} {
		w.clock.Advance(time.Hour)
		id := fmt.Sprintf("e%d", i)
		w.Log(story.name)
		story.tell(func(event storage.Event) bool {
			event.ID = id
			return w.apply(event)
		})
		e := w.enrollment(id)
		require.True(w, e.Known)
		require.Equal(w, "Device", e.Type)
		require.Equal(w, w.clock.Now(), e.WebhookAt)
		require.Positive(w, e.NotifySeq)
		w.dueIn(id, story.due)
		w.requireVoid(id)
	}
}

// eventsOfEnrollingAgain checks that a device that was in sync is to be told again, whatever comes of the events.
func eventsOfEnrollingAgain(w *world) {
	w.fill("base", "d")
	for i, story := range []struct {
		name string
		// tell applies events that happened some time ago; synchronized devices were so more than a minute ago.
		tell func(event func(storage.Event) bool)
		due  time.Duration
	}{
		{"both", func(event func(storage.Event) bool) {
			require.True(w, event(w.authenticated(2*time.Second)))
			require.True(w, event(w.tokenUpdated(1, time.Second)))
		}, 0},
		{"the second overtakes", func(event func(storage.Event) bool) {
			require.True(w, event(w.tokenUpdated(1, time.Second)))
			require.False(w, event(w.authenticated(2*time.Second)))
		}, 0},
		{"only the first", func(event func(storage.Event) bool) { require.True(w, event(w.authenticated(0))) }, grace},
		{"only the second", func(event func(storage.Event) bool) { require.True(w, event(w.tokenUpdated(1, 0))) }, 0},
		{"only the second, which is counted as more", func(event func(storage.Event) bool) {
			require.True(w, event(w.tokenUpdated(2, 0)))
		}, 0},
		{"the second overtakes and looks like a new push token", func(event func(storage.Event) bool) {
			require.False(w, event(w.tokenUpdated(3, time.Second)))
			require.True(w, event(w.authenticated(2*time.Second)))
		}, grace},
		{"without a tally", func(event func(storage.Event) bool) {
			require.True(w, event(w.authenticated(2*time.Second)))
			require.True(w, event(w.tokenUpdated(0, time.Second)))
		}, 0},
	} {
		w.Log(story.name)
		id := fmt.Sprintf("e%d", i)
		event := func(event storage.Event) bool {
			event.ID = id
			return w.apply(event)
		}
		event(w.authenticated(0))
		event(w.tokenUpdated(1, 0))
		w.clock.Advance(time.Second)
		event(w.tokenUpdated(2, 0))
		w.clock.Advance(time.Second)
		event(w.tokenUpdated(3, 0))
		w.synchronize(id)
		epoch, seq := w.enrollment(id).Epoch, w.enrollment(id).NotifySeq
		w.clock.Advance(time.Hour)

		story.tell(event)
		w.dueIn(id, story.due)
		w.requireVoid(id)
		e := w.enrollment(id)
		require.Greater(w, e.Epoch, epoch)
		require.Greater(w, e.NotifySeq, seq)
		require.True(w, e.OutOfSync, "it is not known to hold anything")
		require.Equal(w, w.clock.Now(), e.SyncChangedAt)

		w.clock.Advance(grace)
		require.Equal(w, []string{id}, w.claim(lease))
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{id}})
	}
}

// eventsOfNewPushTokens checks that later token updates change nothing.
func eventsOfNewPushTokens(w *world) {
	w.fill("base", "d")
	w.apply(w.authenticated(0))
	w.apply(w.tokenUpdated(1, 0))
	w.synchronize("e")
	w.clock.Advance(time.Hour)
	before := w.enrollment("e")
	same := func(why string) {
		w.Helper()
		before.Now, before.WebhookAt = w.clock.Now(), w.clock.Now()
		require.Equal(w, before, w.enrollment("e"), why)
		require.Len(w, w.values("e"), 1)
	}
	for _, tally := range []int{2, 3, 3, 5} {
		w.clock.Advance(time.Second)
		require.False(w, w.apply(w.tokenUpdated(tally, 0)))
		same("a new push token")
	}
	w.clock.Advance(10 * time.Second)
	require.False(w, w.apply(w.tokenUpdated(7, 0)))
	require.False(w, w.apply(w.tokenUpdated(6, time.Second)))
	same("reordered")
	w.clock.Advance(time.Second)
	require.False(w, w.apply(w.tokenUpdated(7, 0)))
	require.False(w, w.apply(w.tokenUpdated(0, 0)))
	same("without a tally")

	// An enrollment from before events were seen is counted, and left alone.
	w.synchronize("old")
	old := w.tokenUpdated(12, 0)
	old.ID = "old"
	require.False(w, w.apply(old))
	require.NotEmpty(w, w.enrollment("old").SyncedToken)
	w.clock.Advance(time.Second)
	old.Tally, old.At = 3, w.clock.Now()
	require.True(w, w.apply(old), "it enrolled again meanwhile")
	w.requireVoid("old")
}

// eventVoidsWhatWasBefore checks what exactly an enrollment changes, and that reports stay to be read.
func eventVoidsWhatWasBefore(w *world) {
	w.fill("base", "d")
	w.synchronize("e")
	w.synchronize("other")
	w.update(storage.DeviceUpdate{ID: "e", AskedToken: "a", FetchedToken: "f", Type: "Device"})
	w.assign("e", "more")
	w.claim(lease)
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeFailed, IDs: []string{"e"}, Error: "no", After: 2 * time.Hour})
	other, otherValues := w.enrollment("other"), w.values("other")
	before := w.enrollment("e")
	w.clock.Advance(time.Second)
	require.True(w, w.apply(w.authenticated(0)))
	w.requireVoid("e")
	now := w.clock.Now()
	wanted := &storage.Enrollment{
		ID: "e", Known: true, Type: "Device", Epoch: before.Epoch + 1, CreatedAt: before.CreatedAt, LastSeen: before.LastSeen,
		WebhookAt: now, NotifyAt: now.Add(grace), NotifySeq: before.NotifySeq + 1, DesiredToken: before.DesiredToken,
		OutOfSync: true, SyncChangedAt: now, Now: now,
	}
	require.Equal(w, wanted, w.enrollment("e"))
	_, err := w.store.StatusReportByIndex(w.ctx, "e", 0)
	require.NoError(w, err, "what it said can still be read")
	sets, err := w.store.EnrollmentSets(w.ctx, "e", all)
	require.NoError(w, err)
	require.Equal(w, []string{"base", "more"}, sets)
	other.Now = now
	require.Equal(w, other, w.enrollment("other"))
	require.Equal(w, otherValues, w.values("other"))

	// What a device began before it enrolled again says nothing any more.
	late := storage.DeviceUpdate{ID: "e", Epoch: before.Epoch, SyncedToken: "t", FetchedToken: "t"}
	w.update(late)
	status := w.received("e", reportOfAll)
	status.Device = late
	require.NoError(w, w.store.PutStatus(w.ctx, status))
	w.requireVoid("e")
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM status_reports WHERE enrollment_id = 'e'`))
	late.Epoch++
	w.update(late)
	require.Equal(w, "t", w.enrollment("e").SyncedToken)
}

// eventLeavesWhatCameAfter checks that an event that is late spares what was received since it happened.
func eventLeavesWhatCameAfter(w *world) {
	w.fill("base", "d")
	for _, kind := range []storage.EventKind{storage.EventAuthenticate, storage.EventTokenUpdate} {
		id := fmt.Sprint("e", kind)
		event := storage.Event{Kind: kind, ID: id, Tally: 1, At: w.clock.Now()}
		w.clock.Advance(time.Second)
		w.synchronize(id)
		w.clock.Advance(time.Second)
		before := w.enrollment(id)
		require.True(w, w.apply(event))
		e := w.enrollment(id)
		require.Greater(w, e.Epoch, before.Epoch)
		require.False(w, e.OutOfSync)
		before.Epoch, before.Now, before.WebhookAt = e.Epoch, e.Now, e.WebhookAt
		before.EnrolledAt, before.NotifyAt, before.NotifySeq = e.EnrolledAt, e.NotifyAt, e.NotifySeq
		require.Equal(w, before, e, "only the mark, which is settled without a command")
		require.Len(w, w.values(id), 1)
		require.Len(w, w.declarationStatuses(id), 1)
		w.clock.Advance(grace)
		require.Equal(w, []string{id}, w.claim(lease))
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{id}, DesiredToken: e.SyncedToken})
		require.Zero(w, w.enrollment(id).NotifyAt)
	}
}

// eventOfDeviceReachesItsChannels checks that user channels, which have no beginning of their own, follow their device.
func eventOfDeviceReachesItsChannels(w *world) {
	w.fill("base", "d")
	for i, begin := range []func() storage.Event{
		func() storage.Event { return w.authenticated(0) },
		func() storage.Event { return w.tokenUpdated(1, 0) },
	} {
		w.clock.Advance(time.Hour)
		user := storage.Event{Kind: storage.EventTokenUpdate, ID: "e:user", ParentID: "e", Type: "User", Tally: 1, At: w.clock.Now()}
		w.apply(user)
		w.synchronize("e")
		w.synchronize("e:user")
		w.synchronize("f:user")
		w.clock.Advance(time.Second)
		epoch := w.enrollment("e:user").Epoch
		require.True(w, w.apply(begin()))
		w.requireVoid("e:user")
		require.Equal(w, epoch+1, w.enrollment("e:user").Epoch)
		w.dueIn("e:user", grace)
		require.NotEmpty(w, w.enrollment("f:user").SyncedToken)
		require.Equal(w, "e", w.enrollment("e:user").ParentID)
		require.Equal(w, "User", w.enrollment("e:user").Type)

		w.clock.Advance(time.Second)
		user.Tally, user.At = 4+i, w.clock.Now()
		require.True(w, w.apply(user), "whatever is counted, it completes")
		w.dueIn("e:user", 0)
		require.Equal(w, epoch+1, w.enrollment("e:user").Epoch, "there is nothing to forget")
		w.clock.Advance(time.Second)
		user.Tally, user.At = 5+i, w.clock.Now()
		require.False(w, w.apply(user))
		w.clock.Advance(grace)
		require.ElementsMatch(w, []string{"e", "e:user"}, w.claim(lease))
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{"e", "e:user"}})
	}
}

// eventThatIsLateAfterEarlierOnes checks a beginning that comes after a completion which seemed to belong to another one.
func eventThatIsLateAfterEarlierOnes(w *world) {
	w.fill("base", "d")
	w.apply(w.authenticated(0))
	w.clock.Advance(time.Second)
	w.synchronize("e") // and the event that it had enrolled was lost
	w.clock.Advance(time.Hour)
	require.True(w, w.apply(w.tokenUpdated(1, time.Second)))
	w.requireVoid("e")
	w.dueIn("e", 0)
	require.False(w, w.apply(w.authenticated(2*time.Second)))

	// The MDM forgets its queue when an enrollment begins.
	w.clock.Advance(time.Hour)
	w.apply(w.authenticated(0))
	w.clock.Advance(time.Second)
	w.claim(lease)
	w.finalise(lease, storage.Outcome{
		Kind: storage.OutcomeSent, IDs: []string{"e"}, DesiredToken: "t", CommandUUID: "u", After: time.Hour,
	})
	w.clock.Advance(10 * time.Second)
	require.True(w, w.apply(w.tokenUpdated(1, time.Second)), "which seems to complete what began before")
	require.Equal(w, "u", w.enrollment("e").CommandUUID)
	require.True(w, w.apply(w.authenticated(2*time.Second)))
	w.requireVoid("e")
	w.dueIn("e", 0)
}

// eventDropsLeases checks that a command that is on its way when the device enrolls again does not count.
func eventDropsLeases(w *world) {
	w.fill("base", "d")
	w.assign("e", "base")
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.clock.Advance(time.Second)
	require.True(w, w.apply(w.authenticated(0)))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{"e"}, DesiredToken: "t", CommandUUID: "u"})
	w.requireVoid("e")
	require.Equal(w, []string{"e"}, w.claim(lease))
}

// eventsOfAnyForm checks that nothing that an event can say keeps it from being applied.
func eventsOfAnyForm(w *world) {
	for _, kind := range []storage.EventKind{
		storage.EventAuthenticate, storage.EventTokenUpdate, storage.EventCheckOut, storage.EventCommand,
	} {
		for i, at := range []time.Time{
			{}, time.Unix(0, 0), w.clock.Now().AddDate(8000, 0, 0), w.ago(-time.Minute), w.ago(100 * 365 * 24 * time.Hour),
		} {
			event := storage.Event{
				Kind: kind, ID: fmt.Sprint(kind, i, strings.Repeat("x", 200)), Type: strings.Repeat("é", 32), At: at,
				ParentID: strings.Repeat("\xff", 255), Tally: math.MaxInt32, CommandUUID: strings.Repeat("u", 500),
				Status: "Error", Error: strings.Repeat("😀\xff\x00", 1000),
			}
			for range 2 {
				w.apply(event)
				event.ParentID = event.ID
			}
		}
	}
}
