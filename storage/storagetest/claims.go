package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var claimTests = []test{
	{"ClaimTakesWhatIsDue", claimTakesWhatIsDue},
	{"ClaimOrder", claimOrder},
	{"LeasesEnd", leasesEnd},
	{"Outcomes", outcomes},
	{"FailuresAreSpread", failuresAreSpread},
	{"FailureTexts", failureTexts},
	{"MarkedSinceTheClaim", markedSinceTheClaim},
	{"SyncedOnlyWhatWasAsked", syncedOnlyWhatWasAsked},
	{"ClaimMany", claimMany},
}

var lease = storage.Lease{ID: 1, Duration: time.Minute}

func claimTakesWhatIsDue(w *world) {
	require.Empty(w, w.claim(lease))
	store := w.open(sqlstore.Options{NotifyDelay: time.Second, Clock: w.clock.Now})
	_, err := store.PutEnrollmentSet(w.ctx, "e", "s", change)
	require.NoError(w, err)
	e := w.enrollment("e")
	require.True(w, e.NotifyAt.Equal(w.clock.Now().Add(time.Second)), "a moment for more edits")
	require.True(w, e.Now.Equal(w.clock.Now()))
	require.Empty(w, w.claim(lease))
	w.clock.Advance(time.Second)
	claimed := w.claimed(lease, 10)
	require.Len(w, claimed, 1)
	require.Equal(w, *w.enrollment("e"), claimed[0].Enrollment)
	require.Equal(w, w.vector("e"), claimed[0].Vector)
	require.Len(w, claimed[0].Vector, 1)
	require.EqualValues(w, 1, claimed[0].Enrollment.NotifySeq)
	require.False(w, claimed[0].Enrollment.Forced)
	require.Empty(w, w.claim(storage.Lease{ID: 2, Duration: time.Minute}), "it is claimed")
}

func claimOrder(w *world) {
	// A mass fan-out first, then one that is over in a page, then what an API call names.
	for i := range 4 {
		w.assign(fmt.Sprintf("mass%d", i), "mass")
	}
	w.assign("small", "small")
	w.settle()
	w.fill("mass", "d")
	for w.advance(3) != nil {
		w.clock.Advance(time.Second)
	}
	w.fill("small", "c")
	w.clock.Advance(time.Second)
	w.drain()
	w.clock.Advance(time.Second)
	w.assign("named", "s")
	w.clock.Advance(time.Second)

	var order []string
	for id := int64(1); ; id++ {
		claimed := w.claimed(storage.Lease{ID: id, Duration: time.Minute}, 1)
		if len(claimed) == 0 {
			break
		}
		order = append(order, claimed[0].Enrollment.ID)
	}
	require.Equal(w, []string{"small", "named"}, order[:2], "urgent ones first, each kind by when it is due")
	require.ElementsMatch(w, []string{"mass0", "mass1", "mass2"}, order[2:5])
	require.Equal(w, []string{"mass3"}, order[5:])

	// Who has been told is no longer urgent.
	for id, name := range map[int64]string{1: "small", 2: "named"} {
		w.finalise(storage.Lease{ID: id}, storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{name}, After: time.Second})
	}
	for i := range 4 {
		w.finalise(storage.Lease{ID: int64(3 + i)}, storage.Outcome{Kind: storage.OutcomePostponed, IDs: []string{
			"mass0", "mass1", "mass2", "mass3",
		}})
	}
	w.clock.Advance(time.Second)
	require.ElementsMatch(w, []string{"mass0", "mass1", "mass2", "mass3"}, ids(w.claimed(lease, 4)))
}

func leasesEnd(w *world) {
	other := w.open(w.options())
	w.assign("e", "s")
	first := storage.Lease{ID: 7, Duration: time.Minute}
	second := storage.Lease{ID: 8, Duration: time.Minute}
	require.Equal(w, []string{"e"}, w.claim(first))
	w.clock.Advance(time.Minute - time.Microsecond)
	claimed, err := other.Claim(w.ctx, second, 10)
	require.NoError(w, err)
	require.Empty(w, claimed)
	w.clock.Advance(time.Microsecond)
	claimed, err = other.Claim(w.ctx, second, 10)
	require.NoError(w, err)
	require.Equal(w, []string{"e"}, ids(claimed), "who died is taken over from")

	before := w.enrollment("e")
	for _, kind := range kinds {
		w.finalise(first, storage.Outcome{
			Kind: kind, IDs: []string{"e"}, DesiredToken: "t", CommandUUID: "u", Error: "error", After: time.Hour,
		})
	}
	require.Equal(w, before, w.enrollment("e"), "a lost lease changes nothing")
	require.Empty(w, w.claim(storage.Lease{ID: 9, Duration: time.Minute}), "not even the other's lease")

	require.NoError(w, other.Finalise(w.ctx, second, []storage.Outcome{
		{Kind: storage.OutcomeSent, IDs: []string{"e", "unknown"}, DesiredToken: "t", CommandUUID: "u", After: time.Hour},
	}))
	require.Equal(w, "u", w.enrollment("e").CommandUUID)
	sent := w.enrollment("e")
	w.finalise(second, storage.Outcome{Kind: storage.OutcomeFailed, IDs: []string{"e"}, Error: "again"})
	require.Equal(w, sent, w.enrollment("e"), "a lease ends with the outcome")
	require.False(w, w.enrollment("unknown").Known)
}

var kinds = []storage.OutcomeKind{
	storage.OutcomeInSync, storage.OutcomeSynced, storage.OutcomeHeld, storage.OutcomePostponed, storage.OutcomeSent,
	storage.OutcomePushed, storage.OutcomeFailed,
}

// outcomes checks what each kind of outcome writes, and that it writes nothing else.
func outcomes(w *world) {
	now := w.clock.Now
	for i, c := range []struct {
		outcome storage.Outcome
		wanted  func(e *storage.Enrollment)
	}{
		{storage.Outcome{Kind: storage.OutcomeInSync}, func(e *storage.Enrollment) {
			e.NotifyAt, e.Attempts, e.LastError = time.Time{}, 0, ""
			e.SyncChangedAt = now()
		}},
		{storage.Outcome{Kind: storage.OutcomeSynced}, func(e *storage.Enrollment) {
			e.NotifyAt, e.Attempts, e.LastError = time.Time{}, 0, ""
			e.SyncChangedAt = now()
			e.SyncedToken, e.SyncedAt = "desired", now()
		}},
		{storage.Outcome{Kind: storage.OutcomeHeld}, func(e *storage.Enrollment) {
			e.NotifyAt = time.Time{}
			e.OutOfSync, e.SyncChangedAt = true, now()
		}},
		{storage.Outcome{Kind: storage.OutcomePostponed, After: time.Hour}, func(e *storage.Enrollment) {
			e.NotifyAt, e.OutOfSync, e.SyncChangedAt = now().Add(time.Hour), true, now()
		}},
		{storage.Outcome{Kind: storage.OutcomeSent, CommandUUID: "uuid", After: time.Hour}, func(e *storage.Enrollment) {
			e.NotifyAt, e.Attempts, e.LastError = now().Add(time.Hour), 0, ""
			e.CommandUUID, e.CommandToken, e.CommandSentAt, e.Sends = "uuid", "desired", now(), 1
			e.CommandAcknowledgedAt = time.Time{}
			e.PushedAt, e.OutOfSync, e.SyncChangedAt = now(), true, now()
		}},
		{storage.Outcome{Kind: storage.OutcomePushed, After: time.Hour}, func(e *storage.Enrollment) {
			e.NotifyAt, e.Attempts, e.LastError = now().Add(time.Hour), 0, ""
			e.PushedAt, e.OutOfSync, e.SyncChangedAt = now(), true, now()
		}},
		{storage.Outcome{Kind: storage.OutcomePushed, Error: "asleep", After: time.Hour}, func(e *storage.Enrollment) {
			e.NotifyAt, e.Attempts, e.LastError = now().Add(time.Hour), 0, "asleep"
			e.PushedAt, e.PushFailures, e.OutOfSync, e.SyncChangedAt = now(), 1, true, now()
		}},
		{storage.Outcome{Kind: storage.OutcomeFailed, Error: "why 😀", After: time.Hour}, func(e *storage.Enrollment) {
			e.NotifyAt, e.Attempts, e.LastError = now().Add(time.Hour), 2, "why 😀"
			e.OutOfSync, e.SyncChangedAt = true, now()
		}},
	} {
		id := fmt.Sprintf("e%d", i)
		w.assign(id, "s")
		require.Equal(w, []string{id}, w.claim(lease))
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeFailed, IDs: []string{id}, Error: "before"})
		w.update(storage.DeviceUpdate{ID: id, AskedToken: "desired", Acknowledged: true})
		before := w.enrollment(id)
		w.clock.Advance(time.Second)
		require.Equal(w, []string{id}, w.claim(lease))
		c.outcome.IDs, c.outcome.DesiredToken = []string{id}, "desired"
		w.finalise(lease, c.outcome)
		before.Now, before.DesiredToken = now(), "desired"
		c.wanted(before)
		require.Equal(w, before, w.enrollment(id), "outcome of kind %d", c.outcome.Kind)
		w.clock.Advance(time.Minute)
	}

	// Sends are counted for each token.
	for i, token := range []string{"t", "t", "t", "u", "t"} {
		w.assign("sends", fmt.Sprint(i))
		require.Contains(w, w.claim(lease), "sends")
		w.finalise(lease, storage.Outcome{
			Kind: storage.OutcomeSent, IDs: []string{"sends"}, DesiredToken: token, CommandUUID: fmt.Sprint(i),
		})
		e := w.enrollment("sends")
		require.Equal(w, []int{1, 2, 3, 1, 1}[i], e.Sends)
		require.Equal(w, token, e.CommandToken)
		require.Equal(w, fmt.Sprint(i), e.CommandUUID)
	}

	err := w.store.Finalise(w.ctx, lease, []storage.Outcome{{Kind: 99, IDs: []string{"sends"}}})
	require.Error(w, err)
}

func failuresAreSpread(w *world) {
	const enrollments = 200
	outcome := storage.Outcome{Kind: storage.OutcomeFailed, After: time.Minute, Spread: time.Minute, Error: "down"}
	for i := range enrollments {
		outcome.IDs = append(outcome.IDs, fmt.Sprintf("e%03d", i))
	}
	w.notify(storage.NotifyTargets{Enrollments: outcome.IDs})
	require.Len(w, w.claim(lease), enrollments)
	w.finalise(lease, outcome)
	earliest, latest := w.clock.Now().Add(time.Minute), w.clock.Now().Add(2*time.Minute)
	different := map[time.Time]bool{}
	firstHalf := 0
	for _, id := range outcome.IDs {
		at := w.enrollment(id).NotifyAt
		require.False(w, at.Before(earliest), "%v", at)
		require.False(w, at.After(latest), "%v", at)
		different[at] = true
		if at.Sub(earliest) < 30*time.Second {
			firstHalf++
		}
	}
	require.Greater(w, len(different), enrollments-5, "each has a time of its own")
	require.InDelta(w, enrollments/2, firstHalf, enrollments/4)

	// Without a spread it is exact.
	w.clock.Advance(time.Hour)
	require.Len(w, w.claim(lease), enrollments)
	outcome.Spread = 0
	w.finalise(lease, outcome)
	require.True(w, w.enrollment("e000").NotifyAt.Equal(w.clock.Now().Add(time.Minute)))
	require.Equal(w, 2, w.enrollment("e000").Attempts)
}

// failureTexts checks that no text from an MDM server keeps an outcome from being written.
func failureTexts(w *world) {
	for _, text := range []string{
		"", "zero \x00 byte", "not UTF-8: \xff\xfe", "surrogate \xed\xa0\x80", "😀", strings.Repeat("long 😀 ", 40_000),
	} {
		w.notify(storage.NotifyTargets{Enrollments: []string{"e"}})
		require.Equal(w, []string{"e"}, w.claim(lease))
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeFailed, IDs: []string{"e"}, Error: text})
		require.Contains(w, w.claim(lease), "e", "the lease was given up")
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{"e"}})
	}
}

// markedSinceTheClaim checks for each outcome that a mark which came after the claim is not lost.
func markedSinceTheClaim(w *world) {
	for i, kind := range kinds {
		id := fmt.Sprint(i)
		w.assign(id, "s")
		require.Equal(w, []string{id}, w.claim(lease))
		w.update(storage.DeviceUpdate{ID: id, AskedToken: "t"})
		w.clock.Advance(time.Second)
		w.assign(id, "t")
		marked := w.enrollment(id)
		require.Empty(w, w.claim(storage.Lease{ID: 2, Duration: time.Minute}), "it is still claimed")
		w.finalise(lease, storage.Outcome{
			Kind: kind, IDs: []string{id}, DesiredToken: "t", CommandUUID: "u", Error: "error", After: time.Hour,
			Spread: time.Hour,
		})
		e := w.enrollment(id)
		require.Equal(w, marked.NotifyAt, e.NotifyAt, "outcome of kind %d", kind)
		require.Equal(w, marked.NotifySeq, e.NotifySeq)
		require.False(w, e.Held)
		if kind == storage.OutcomeSent {
			require.Equal(w, "u", e.CommandUUID, "what was sent is written all the same")
		}
		require.Equal(w, []string{id}, ids(w.claimed(lease, 1)), "due at once")
		w.finalise(lease, storage.Outcome{
			Kind: storage.OutcomeInSync, IDs: []string{id}, DesiredToken: w.enrollment(id).SyncedToken,
		})
		require.Zero(w, w.enrollment(id).NotifyAt)
	}
}

// syncedOnlyWhatWasAsked checks that a device that was served something else since the claim is not taken to be in sync.
func syncedOnlyWhatWasAsked(w *world) {
	w.assign("e", "s")
	w.update(storage.DeviceUpdate{ID: "e", AskedToken: "t"})
	w.claim(lease)
	w.update(storage.DeviceUpdate{
		ID: "e", NotifySeq: 1, FetchedToken: "u", LostSync: true, Check: storage.CheckPostpone, CheckAfter: time.Hour,
	})
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSynced, IDs: []string{"e"}, DesiredToken: "t"})
	e := w.enrollment("e")
	require.Empty(w, e.SyncedToken)
	require.Zero(w, e.SyncedAt)
	require.True(w, e.NotifyAt.Equal(w.clock.Now().Add(time.Hour)), "it stays to be looked at, and not: %v", e.NotifyAt)
}

func claimMany(w *world) {
	var targets storage.NotifyTargets
	for i := range 450 {
		targets.Enrollments = append(targets.Enrollments, fmt.Sprintf("e%03d", i))
	}
	w.notify(targets)
	first := w.claimed(lease, 410)
	require.Len(w, first, 410)
	second := w.claimed(storage.Lease{ID: 2, Duration: time.Minute}, 410)
	require.Len(w, second, 40)
	require.ElementsMatch(w, targets.Enrollments, append(ids(first), ids(second)...))
	require.Empty(w, w.claim(storage.Lease{ID: 3, Duration: time.Minute}))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: targets.Enrollments})
	require.Equal(w, 40, w.count(`SELECT COUNT(*) FROM enrollments WHERE notify_at IS NOT NULL`))
	require.Equal(w, 40, w.count(`SELECT COUNT(*) FROM enrollments WHERE lease_id IS NOT NULL`))
}
