package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var spentTests = []test{
	{"CommandIsSpent", commandIsSpent},
	{"CommandIsSpentWhenDeviceFinishes", commandIsSpentWhenDeviceFinishes},
	{"PostponedIsOutOfSync", postponedIsOutOfSync},
	{"RefusedCommandMakesDue", refusedCommandMakesDue},
	{"PushesBeforeEnrollingDoNotCount", pushesBeforeEnrollingDoNotCount},
	{"FailedPushOfWhoIsInSync", failedPushOfWhoIsInSync},
	{"SlowRequestAfterAMark", slowRequestAfterAMark},
	{"LateEventKeepsWhatWasRepeated", lateEventKeepsWhatWasRepeated},
	{"LateEventTakesProblemsAlong", lateEventTakesProblemsAlong},
}

// send has "e" told of a token.
func (w *world) send(token, pushError string) {
	w.Helper()
	w.notify(storage.NotifyTargets{Enrollments: []string{"e"}})
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.finalise(lease, storage.Outcome{
		Kind: storage.OutcomeSent, IDs: []string{"e"}, DesiredToken: token, CommandUUID: "of " + token, Error: pushError,
		After: time.Hour,
	})
}

// commandIsSpent checks that a command for a token counts for nothing once the device is found in sync with another one:
// should the first be desired again, the device has to be told again.
func commandIsSpent(w *world) {
	w.assign("e", "s")
	for _, kind := range []storage.OutcomeKind{storage.OutcomeInSync, storage.OutcomeSynced} {
		w.send("b", "")
		w.update(storage.DeviceUpdate{ID: "e", FetchedToken: "a"})
		w.update(storage.DeviceUpdate{ID: "e", SeenFetched: "a", SyncedToken: "x", AskedToken: "a"})
		w.update(storage.DeviceUpdate{ID: "e", SeenFetched: "a", SyncedToken: "a"})
		w.update(storage.DeviceUpdate{ID: "e", AskedToken: "a"})
		w.send("b", "")
		for _, c := range []struct{ desired, left string }{{"b", "b"}, {"a", ""}} {
			w.notify(storage.NotifyTargets{Enrollments: []string{"e"}})
			require.Equal(w, []string{"e"}, w.claim(lease))
			if kind == storage.OutcomeInSync && c.desired == "b" {
				c.desired = "nobody has it" // then it is not in sync, and nothing is spent
			}
			if kind == storage.OutcomeSynced && c.desired == "b" {
				w.update(storage.DeviceUpdate{ID: "e", AskedToken: "a"})
			}
			w.finalise(lease, storage.Outcome{Kind: kind, IDs: []string{"e"}, DesiredToken: c.desired})
			require.Equal(w, c.left, w.enrollment("e").CommandToken, "outcome %d, desired %s", kind, c.desired)
			require.Equal(w, "of b", w.enrollment("e").CommandUUID, "its result still counts")
		}
	}
}

func commandIsSpentWhenDeviceFinishes(w *world) {
	w.assign("e", "s")
	w.send("b", "")
	w.update(storage.DeviceUpdate{ID: "e", FetchedToken: "b"})
	w.update(storage.DeviceUpdate{ID: "e", SeenFetched: "b", SyncedToken: "b"})
	require.Equal(w, "b", w.enrollment("e").CommandToken)
	w.update(storage.DeviceUpdate{ID: "e", FetchedToken: "c"})
	require.Equal(w, "b", w.enrollment("e").CommandToken)
	w.update(storage.DeviceUpdate{ID: "e", SeenFetched: "late", SyncedToken: "c"})
	require.Equal(w, "b", w.enrollment("e").CommandToken, "a late request")
	w.update(storage.DeviceUpdate{ID: "e", SeenFetched: "c", SyncedToken: "c"})
	require.Empty(w, w.enrollment("e").CommandToken)
}

// postponedIsOutOfSync checks that who was looked at and is left alone for a while is known to be out of sync.
func postponedIsOutOfSync(w *world) {
	w.assign("e", "s")
	w.update(storage.DeviceUpdate{ID: "e", SyncedToken: "a"})
	for _, c := range []struct {
		after     time.Duration
		desired   string
		outOfSync bool
	}{{0, "b", false}, {time.Hour, "a", false}, {time.Hour, "b", true}} {
		w.notify(storage.NotifyTargets{Enrollments: []string{"e"}})
		w.claim(lease)
		w.finalise(lease, storage.Outcome{
			Kind: storage.OutcomePostponed, IDs: []string{"e"}, DesiredToken: c.desired, After: c.after,
		})
		require.Equal(w, c.outOfSync, w.enrollment("e").OutOfSync, "%+v", c)
	}
}

// refusedCommandMakesDue checks that who waits for a device to come for a command is not left to wait when the device
// refuses it.
func refusedCommandMakesDue(w *world) {
	w.assign("e", "s")
	w.send("a", "")
	later := w.enrollment("e").NotifyAt
	w.apply(result("of a", "Error", "no"))
	require.Equal(w, later, w.enrollment("e").NotifyAt, "it is told again in its time")
	w.send("b", "")
	w.notify(storage.NotifyTargets{Enrollments: []string{"e"}})
	w.claim(lease)
	w.finalise(lease, storage.Outcome{
		Kind: storage.OutcomePostponed, IDs: []string{"e"}, DesiredToken: "c", After: time.Hour,
	})
	w.apply(result("of b", "NotNow", ""))
	require.Empty(w, w.claim(lease))
	w.apply(result("of b", "CommandFormatError", strings.Repeat("x", 10)))
	require.Equal(w, []string{"e"}, w.claim(lease))
}

// pushesBeforeEnrollingDoNotCount checks that a device is woken when its enrollment is complete, also when that was tried
// before: it was with the push token of the enrollment before.
func pushesBeforeEnrollingDoNotCount(w *world) {
	w.apply(w.authenticated(0))
	w.assign("e", "s")
	w.clock.Advance(grace)
	w.send("a", "no such push token")
	e := w.enrollment("e")
	require.NotZero(w, e.PushedAt)
	require.NotZero(w, e.PushFailures)
	w.clock.Advance(time.Second)
	require.True(w, w.apply(w.tokenUpdated(1, 0)))
	e = w.enrollment("e")
	require.Zero(w, e.PushedAt)
	require.Zero(w, e.PushFailures)
	require.Equal(w, "of a", e.CommandUUID, "the command is in the MDM's queue")
	w.send("a", "")
	w.clock.Advance(time.Second)
	require.False(w, w.apply(w.tokenUpdated(2, 0)))
	require.NotZero(w, w.enrollment("e").PushedAt, "a new push token is no enrollment")
}

// failedPushOfWhoIsInSync checks that who was told although in sync and could not be woken stays due.
func failedPushOfWhoIsInSync(w *world) {
	w.assign("e", "s")
	w.update(storage.DeviceUpdate{ID: "e", SyncedToken: "a"})
	w.send("a", "asleep")
	w.dueIn("e", time.Hour)
	for _, c := range []struct {
		kind storage.OutcomeKind
		text string
		due  bool
	}{{storage.OutcomePostponed, "", true}, {storage.OutcomePushed, "still", true}, {storage.OutcomePushed, "", false}} {
		w.clock.Advance(time.Hour)
		require.Equal(w, []string{"e"}, w.claim(lease))
		w.finalise(lease, storage.Outcome{
			Kind: c.kind, IDs: []string{"e"}, DesiredToken: "a", Error: c.text, After: time.Hour,
		})
		require.Equal(w, c.due, !w.enrollment("e").NotifyAt.IsZero(), "%+v", c)
		require.False(w, w.enrollment("e").OutOfSync)
	}
}

// slowRequestAfterAMark checks that what a request has composed before the enrollment was marked and settled neither takes
// it out of sync with nothing due, nor into sync.
func slowRequestAfterAMark(w *world) {
	w.assign("e", "s")
	w.update(storage.DeviceUpdate{ID: "e", SyncedToken: "a"})
	before := w.enrollment("e")
	settled := func(outcome storage.OutcomeKind, desired string) {
		w.notify(storage.NotifyTargets{Enrollments: []string{"e"}})
		w.claim(lease)
		w.finalise(lease, storage.Outcome{Kind: outcome, IDs: []string{"e"}, DesiredToken: desired})
	}
	settled(storage.OutcomeInSync, "a")
	require.Zero(w, w.enrollment("e").NotifyAt)
	w.update(storage.DeviceUpdate{
		ID: "e", NotifySeq: before.NotifySeq, DesiredToken: "b", AskedToken: "b",
		Check: storage.CheckPostpone, CheckAfter: time.Minute,
	})
	e := w.enrollment("e")
	require.Equal(w, "a", e.DesiredToken)
	require.NotZero(w, e.NotifyAt, "it is looked at again")

	settled(storage.OutcomeHeld, "c")
	require.True(w, w.enrollment("e").OutOfSync)
	w.update(storage.DeviceUpdate{
		ID: "e", NotifySeq: before.NotifySeq, DesiredToken: "a", SyncedToken: "a", Check: storage.CheckClear,
	})
	e = w.enrollment("e")
	require.Equal(w, "c", e.DesiredToken)
	require.True(w, e.OutOfSync)
	w.update(storage.DeviceUpdate{ID: "e", NotifySeq: before.NotifySeq, SyncedToken: "c"})
	require.False(w, w.enrollment("e").OutOfSync, "it has what it should")
}

// lateEventKeepsWhatWasRepeated checks that an event which comes late takes away what was said before it and not since.
func lateEventKeepsWhatWasRepeated(w *world) {
	w.assign("e", "s")
	w.report("e", `{"StatusItems":{"test":{"old":1,"same":2},"device":{"model":{"identifier":"m"}},
		"management":{"declarations":{"assets":[{"identifier":"a","server-token":"1","active":true,"valid":"invalid"}]}}}}`)
	w.clock.Advance(2 * time.Second)
	w.report("e", `{"StatusItems":{"test":{"same":2},"device":{"model":{"identifier":"m"}},
		"management":{"declarations":{"assets":[{"identifier":"a","server-token":"1","active":true,"valid":"invalid"}]}}}}`)
	w.clock.Advance(time.Second)
	require.True(w, w.apply(w.authenticated(2*time.Second)))
	require.Equal(w, []string{`device.model.identifier "m"`, "test.same 2"}, w.values("e"))
	require.Len(w, w.declarationStatuses("e"), 1)
	require.Equal(w, []string{"declaration a 1 unknown"}, w.problems("e"))
	require.Equal(w, "m", w.facts("e").Model)
	require.Equal(w, []string{"declaration.invalid"}, w.noted(), "told once")
}

// lateEventTakesProblemsAlong checks that where the report that repeated a problem is not kept any more, the problem goes
// with the status of its declaration.
func lateEventTakesProblemsAlong(w *world) {
	w.store = w.open(sqlstore.Options{KeepReports: 1, Clock: w.clock.Now})
	w.assign("e", "s")
	w.report("e", declared(status("a", "1", "invalid", `[]`)))
	w.clock.Advance(2 * time.Second)
	w.report("e", declared(status("a", "1", "invalid", `[]`), status("b", "1", "valid", `[]`)))
	for i := range 20 {
		w.report("e", fmt.Sprintf(`{"StatusItems":{"test":{"n":%d}}}`, i))
	}
	require.Equal(w, []string{"declaration a 1 unknown"}, w.problems("e"))
	w.clock.Advance(time.Second)
	require.True(w, w.apply(w.authenticated(2*time.Second)))
	require.Len(w, w.declarationStatuses("e"), 1)
	require.Empty(w, w.problems("e"))
}
