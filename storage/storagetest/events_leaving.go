package storagetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// enrollSets checks who gets sets by enrolling.
func enrollSets(w *world) {
	w.fill("base", "d")
	w.fill("more", "d2")
	options := storage.EventOptions{EnrollSets: []string{"base", "unknown"}}
	sets := func(id string) []string {
		w.Helper()
		sets, err := w.store.EnrollmentSets(w.ctx, id, all)
		require.NoError(w, err)
		return sets
	}
	require.True(w, w.applyWith(w.authenticated(0), options))
	require.Equal(w, []string{"base", "unknown"}, sets("e"))
	require.Len(w, w.vector("e"), 2)
	require.Len(w, w.compose("e").Items, 1)
	w.clock.Advance(time.Second)
	require.True(w, w.applyWith(w.tokenUpdated(1, 0), options))
	require.Equal(w, []string{"base", "unknown"}, sets("e"))
	w.dueIn("e", 0)
	w.add("unknown", "d2")
	require.Len(w, w.compose("e").Items, 2, "a set that was empty is like any other")

	completed := w.tokenUpdated(1, 0)
	completed.ID = "completed"
	require.True(w, w.applyWith(completed, options))
	require.Equal(w, []string{"base", "unknown"}, sets("completed"))

	// Who has sets keeps them, and a new push token gives none.
	w.assign("managed", "more")
	managed := w.authenticated(0)
	managed.ID = "managed"
	require.True(w, w.applyWith(managed, options))
	require.Equal(w, []string{"more"}, sets("managed"))
	old := w.tokenUpdated(7, 0)
	old.ID = "old"
	require.False(w, w.applyWith(old, options))
	require.Empty(w, sets("old"))
	left := w.checkedOut(0)
	left.ID = "leaving"
	require.False(w, w.applyWith(left, options))
	require.Empty(w, sets("leaving"))

	// What an administrator took away comes back with the next enrollment, not before.
	_, err := w.store.DeleteEnrollmentSets(w.ctx, "e", change)
	require.NoError(w, err)
	w.clock.Advance(time.Second)
	require.False(w, w.applyWith(w.tokenUpdated(2, 0), options))
	require.Empty(w, sets("e"))
	w.clock.Advance(time.Second)
	require.True(w, w.applyWith(w.authenticated(0), options))
	require.Equal(w, []string{"base", "unknown"}, sets("e"))
}

// checkOut checks that nobody who has left is told, and what becomes of the sets.
func checkOut(w *world) {
	w.fill("base", "d")
	for _, remove := range []bool{false, true} {
		w.clock.Advance(time.Hour)
		user := storage.Event{Kind: storage.EventTokenUpdate, ID: "e:user", ParentID: "e", Type: "User", Tally: 1, At: w.clock.Now()}
		w.apply(w.authenticated(0))
		w.apply(w.tokenUpdated(1, 0))
		w.apply(user)
		w.synchronize("e")
		w.synchronize("e:user")
		w.synchronize("other")
		w.assign("e", "more")
		w.assign("e:user", "more")
		w.notify(storage.NotifyTargets{Enrollments: []string{"e", "e:user"}})
		require.Len(w, w.claim(lease), 2)
		w.clock.Advance(time.Second)
		require.False(w, w.applyWith(w.checkedOut(0), storage.EventOptions{RemoveSets: remove}))
		w.finalise(lease, storage.Outcome{
			Kind: storage.OutcomeSent, IDs: []string{"e", "e:user"}, DesiredToken: "t", CommandUUID: "u", After: time.Second,
		})
		for _, id := range []string{"e", "e:user"} {
			e := w.enrollment(id)
			require.Equal(w, w.clock.Now(), e.LeftAt, id)
			require.Equal(w, remove, !e.NotifyAt.IsZero(), "%s: what it should have now has to be found", id)
			w.requireVoid(id)
			sets, err := w.store.EnrollmentSets(w.ctx, id, all)
			require.NoError(w, err)
			if remove {
				require.Empty(w, sets, id)
			} else {
				require.Equal(w, []string{"base", "more"}, sets, id)
			}
		}
		require.Zero(w, w.enrollment("other").LeftAt)
		require.NotEmpty(w, w.enrollment("other").SyncedToken)
		if remove {
			require.Equal(w, []string{"e", "e:user"}, w.claim(lease))
			w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{"e", "e:user"}, DesiredToken: "nothing"})
			require.False(w, w.enrollment("e").OutOfSync)
		}
		before := w.enrollment("e")
		w.clock.Advance(24 * time.Hour)
		require.Empty(w, w.claim(lease), "nothing is due")

		repeated := w.checkedOut(24 * time.Hour)
		require.False(w, w.applyWith(repeated, storage.EventOptions{RemoveSets: true}))
		before.Now, before.WebhookAt = w.clock.Now(), w.clock.Now()
		require.Equal(w, before, w.enrollment("e"), "repeated")
		if !remove {
			require.Len(w, w.vector("e"), 2)
		}
	}
	unknown := w.checkedOut(0)
	unknown.ID = "unknown"
	require.False(w, w.apply(unknown))
	require.Zero(w, w.enrollment("unknown").NotifyAt)
}

// checkOutThatIsLate checks that what was overtaken by an enrollment ends nothing, and the other way round.
func checkOutThatIsLate(w *world) {
	w.fill("base", "d")
	w.synchronize("e")
	w.clock.Advance(time.Hour)
	options := storage.EventOptions{RemoveSets: true}
	w.apply(w.authenticated(2 * time.Second))
	require.False(w, w.applyWith(w.checkedOut(3*time.Second), options))
	require.Zero(w, w.enrollment("e").LeftAt)
	w.dueIn("e", grace)
	w.apply(w.tokenUpdated(1, time.Second))
	require.False(w, w.applyWith(w.checkedOut(3*time.Second), options))
	require.Zero(w, w.enrollment("e").LeftAt)
	w.dueIn("e", 0)
	require.Len(w, w.vector("e"), 1)

	// The events of an enrollment that is over already do not bring it back.
	w.clock.Advance(time.Hour)
	require.False(w, w.apply(w.checkedOut(0)))
	left := w.enrollment("e").LeftAt
	require.False(w, w.apply(w.authenticated(2*time.Second)))
	require.False(w, w.apply(w.tokenUpdated(1, time.Second)))
	require.Equal(w, left, w.enrollment("e").LeftAt)
	require.Zero(w, w.enrollment("e").NotifyAt)
}

// markOfWhoHasLeft checks that a change reaches whoever left with a mark that is settled, and that enrolling again or a
// request of the device brings it back.
func markOfWhoHasLeft(w *world) {
	w.fill("base", "d")
	for _, back := range []func() storage.Event{
		func() storage.Event { return w.authenticated(0) },
		func() storage.Event { return w.tokenUpdated(1, 0) },
		func() storage.Event { return w.tokenUpdated(9, 0) }, // one that looks like a new push token
	} {
		w.clock.Advance(time.Hour)
		w.apply(w.authenticated(0))
		w.synchronize("e")
		w.clock.Advance(time.Second)
		w.apply(w.checkedOut(0))
		w.put(configuration("d", w.clock.Now().String()))
		w.drain()
		claimed := w.claimed(lease, 10)
		require.Equal(w, []string{"e"}, ids(claimed))
		require.NotZero(w, claimed[0].Enrollment.LeftAt, "so that it is not told")
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeHeld, IDs: []string{"e"}, DesiredToken: "t"})
		require.Zero(w, w.enrollment("e").NotifyAt)

		w.clock.Advance(time.Second)
		require.True(w, w.apply(back()))
		require.Zero(w, w.enrollment("e").LeftAt)
		w.clock.Advance(grace)
		require.Equal(w, []string{"e"}, w.claim(lease))
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{"e"}})
	}
	w.clock.Advance(time.Second)
	w.apply(w.checkedOut(0))
	w.clock.Advance(time.Minute)
	e := w.enrollment("e")
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, NotifySeq: e.NotifySeq, Back: true})
	require.Zero(w, w.enrollment("e").LeftAt)
	require.Equal(w, []string{"e"}, w.claim(lease), "nothing was due for it while it was gone")

	// It comes back while a notifier finds that it has left.
	w.clock.Advance(time.Second)
	w.apply(w.checkedOut(0))
	w.assign("e", "another")
	w.clock.Advance(time.Minute)
	require.NotZero(w, w.claimed(lease, 1)[0].Enrollment.LeftAt)
	e = w.enrollment("e")
	w.update(storage.DeviceUpdate{ID: "e", Epoch: e.Epoch, NotifySeq: e.NotifySeq, Back: true})
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeHeld, IDs: []string{"e"}, DesiredToken: "t"})
	require.Equal(w, []string{"e"}, w.claim(lease))
}

// result is what a device answered to a command.
func result(command, status, text string) storage.Event {
	return storage.Event{Kind: storage.EventCommand, ID: "e", CommandUUID: command, Status: status, Error: text}
}

// commandResults checks what is noted of our last command.
func commandResults(w *world) {
	type step struct {
		status, text string
		outcome      string // after it
		error        string
		acknowledged bool
	}
	for _, story := range [][]step{
		{{"Acknowledged", "", "Acknowledged", "", true}},
		{{"NotNow", "", "NotNow", "", false}, {"Acknowledged", "", "Acknowledged", "", true}},
		{{"Acknowledged", "", "Acknowledged", "", true}, {"NotNow", "", "Acknowledged", "", true},
			{"Error", "late", "Acknowledged", "", true}},
		{{"Error", "no such thing (MCMDMErrorDomain 12021)", "Error", "no such thing (MCMDMErrorDomain 12021)", false},
			{"NotNow", "", "Error", "no such thing (MCMDMErrorDomain 12021)", false}},
		{{"NotNow", "", "NotNow", "", false}, {"NotNow", "", "NotNow", "", false},
			{"CommandFormatError", "what", "CommandFormatError", "what", false}},
	} {
		w.assign("e", w.clock.Now().String())
		require.Equal(w, []string{"e"}, w.claim(lease))
		w.finalise(lease, storage.Outcome{
			Kind: storage.OutcomeSent, IDs: []string{"e"}, DesiredToken: "t", CommandUUID: "u", After: time.Hour,
		})
		for _, step := range story {
			w.clock.Advance(time.Second)
			before := w.enrollment("e")
			require.False(w, w.apply(result("u", step.status, step.text)))
			e := w.enrollment("e")
			require.Equal(w, step.outcome, e.CommandOutcome)
			require.Equal(w, step.error, e.CommandError)
			require.Equal(w, step.acknowledged, !e.CommandAcknowledgedAt.IsZero())
			if step.outcome != before.CommandOutcome && step.acknowledged {
				require.Equal(w, w.clock.Now(), e.CommandAcknowledgedAt)
			}
			before.CommandOutcome, before.CommandError = e.CommandOutcome, e.CommandError
			before.CommandAcknowledgedAt, before.WebhookAt, before.Now = e.CommandAcknowledgedAt, e.WebhookAt, e.Now
			require.Equal(w, before, e, "and nothing else")
		}
		w.clock.Advance(time.Hour)
	}

	// A request of the device says that it has the command, not what it made of it.
	w.assign("e", "last")
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{"e"}, DesiredToken: "t", CommandUUID: "v"})
	w.update(storage.DeviceUpdate{ID: "e", Acknowledged: true})
	acknowledged := w.enrollment("e").CommandAcknowledgedAt
	w.clock.Advance(time.Second)
	w.apply(result("v", "Acknowledged", ""))
	require.Equal(w, "Acknowledged", w.enrollment("e").CommandOutcome)
	require.Equal(w, acknowledged, w.enrollment("e").CommandAcknowledgedAt)
}

// commandResultsOfOthers checks that the results of commands that are not ours, which are many, cost no write, but for one
// an hour that says that events come.
func commandResultsOfOthers(w *world) {
	w.apply(result("u", "Acknowledged", ""))
	require.False(w, w.enrollment("e").Known, "an enrollment that is of no concern")
	w.assign("e", "s")
	for hour := range 2 {
		first := w.clock.Now()
		for range 3 {
			for _, status := range []string{"Acknowledged", "NotNow", "Error"} {
				before := w.enrollment("e")
				require.False(w, w.apply(result("another", status, "no")))
				w.apply(result("", status, "no"))
				before.WebhookAt = first
				require.Equal(w, before, w.enrollment("e"), "hour %d", hour)
				w.clock.Advance(time.Minute)
			}
		}
		w.clock.Advance(time.Hour - 9*time.Minute)
	}
}

// commandResultsBeforeTheAnswer checks what a device says of a command before it is known that it was sent.
func commandResultsBeforeTheAnswer(w *world) {
	for _, id := range []string{"e", "other", "slow"} {
		w.assign(id, "base")
	}
	require.Len(w, w.claim(lease), 3)
	w.apply(result("new", "NotNow", ""))
	w.apply(result("new", "Error", "first"))
	w.apply(result("new", "NotNow", "late"))
	w.apply(result("another", "Acknowledged", ""))
	require.Empty(w, w.enrollment("e").CommandOutcome, "it may be anybody's")
	w.finalise(lease, storage.Outcome{
		Kind: storage.OutcomeSent, IDs: []string{"e", "other"}, DesiredToken: "t", CommandUUID: "new", After: time.Hour,
	})
	e := w.enrollment("e")
	require.Equal(w, "new", e.CommandUUID)
	require.Equal(w, "Error", e.CommandOutcome)
	require.Equal(w, "first", e.CommandError)
	require.Zero(w, e.CommandAcknowledgedAt)
	require.Empty(w, w.enrollment("other").CommandOutcome, "it is of one enrollment")

	// A lease that was lost meanwhile: the row is another notifier's.
	early := result("stale", "Acknowledged", "")
	early.ID = "slow"
	w.apply(early)
	w.clock.Advance(time.Hour)
	other := storage.Lease{ID: lease.ID + 1, Duration: lease.Duration}
	w.claim(other)
	w.finalise(lease, storage.Outcome{
		Kind: storage.OutcomeSent, IDs: []string{"slow"}, DesiredToken: "t", CommandUUID: "stale", After: time.Hour,
	})
	require.Empty(w, w.enrollment("slow").CommandOutcome)
	w.finalise(other, storage.Outcome{
		Kind: storage.OutcomeSent, IDs: []string{"slow"}, DesiredToken: "t", CommandUUID: "newer", After: time.Hour,
	})
	require.Empty(w, w.enrollment("slow").CommandOutcome)

	// What is nobody's is deleted some time later.
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM early_results`))
	_, err := w.store.Collect(w.ctx, time.Minute, 100)
	require.NoError(w, err)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM early_results`))
}

// resultsOfManyCommands checks that results of commands that may be anybody's are not kept without end.
func resultsOfManyCommands(w *world) {
	w.assignAll("s", "e", "other")
	require.Len(w, w.claim(lease), 2)
	for i := range 50 {
		w.apply(result(fmt.Sprint("anybody's-", i), "NotNow", ""))
	}
	require.Equal(w, 20, w.count(`SELECT COUNT(*) FROM early_results`))
	early := result("of another enrollment", "Acknowledged", "")
	early.ID = "other"
	w.apply(early)
	require.Equal(w, 21, w.count(`SELECT COUNT(*) FROM early_results`))
}
