package notifier

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// told is an enrollment that was told so long ago, for the so many-th time, and woken then.
func told(token string, before time.Duration, sends int) storage.Enrollment {
	return storage.Enrollment{
		CommandUUID: "uuid", CommandToken: token, CommandSentAt: ago(before), PushedAt: ago(before), Sends: sends,
	}
}

// with changes an enrollment.
func with(e storage.Enrollment, changes ...func(*storage.Enrollment)) storage.Enrollment {
	for _, change := range changes {
		change(&e)
	}
	return e
}

// seen is a change to an enrollment whose events are seen; the last one may be old.
func seen(e *storage.Enrollment) { e.WebhookAt = ago(3 * day) }

func acknowledged(e *storage.Enrollment) {
	e.CommandAcknowledgedAt = e.CommandSentAt.Add(second)
	e.CommandOutcome = "Acknowledged"
}

func forced(e *storage.Enrollment) { e.Forced = true }

func left(e *storage.Enrollment) { e.LeftAt = ago(minute) }

func inSync(e *storage.Enrollment) { e.SyncedToken = "new" }

func outcome(status string) func(*storage.Enrollment) {
	return func(e *storage.Enrollment) { e.CommandOutcome = status }
}

// pushed was woken again so long ago, after so many failures in a row, this one included.
func pushed(before time.Duration, failures int) func(*storage.Enrollment) {
	return func(e *storage.Enrollment) { e.PushedAt, e.PushFailures = ago(before), failures }
}

// The enrollment should have "new" in every case, and a command was sent before.
var redecisions = []struct {
	name       string
	enrollment storage.Enrollment
	want       decision
}{
	// Where events are seen, an unacknowledged command is in the MDM's queue.
	{"seen: told a moment ago", with(told("new", second, 1), seen),
		decision{outcome: storage.OutcomePostponed, after: 6*hour - second}},
	{"seen: the check is due", with(told("new", 6*hour, 1), seen), decision{action: push}},
	{"seen: and woken a moment ago", with(told("new", 7*hour, 1), seen, pushed(hour, 0)),
		decision{outcome: storage.OutcomePostponed, after: 5 * hour}},
	{"seen: nearly a day", with(told("new", day-1, 1), seen, pushed(6*hour, 0)), decision{action: push}},
	{"seen: a day", with(told("new", day, 1), seen, pushed(6*hour, 0)), decision{action: send}},
	{"seen: a day, woken a moment ago", with(told("new", day, 1), seen, pushed(0, 0)), decision{action: send}},
	{"seen: told twice: two days", with(told("new", 2*day-1, 2), seen, pushed(6*hour, 0)), decision{action: push}},
	{"seen: told twice, and two days are over", with(told("new", 2*day, 2), seen), decision{action: send}},
	{"seen: told often: a week", with(told("new", 7*day-1, 100), seen, pushed(6*hour, 0)), decision{action: push}},
	{"seen: told often, and a week is over", with(told("new", 7*day, 100), seen), decision{action: send}},
	{"seen: NotNow leaves it in the queue", with(told("new", 6*hour, 1), seen, outcome("NotNow")), decision{action: push}},

	{"seen: it went on to another token, and the command is spent",
		with(told("", hour, 1), seen, acknowledged, func(e *storage.Enrollment) { e.SyncedToken = "other" }),
		decision{action: send, withData: true}},

	// In sync, told all the same, and not woken.
	{"in sync and not woken", with(told("new", minute, 1), seen, pushed(second, 1), inSync),
		decision{outcome: storage.OutcomePostponed, after: second + second/2}},
	{"in sync and not woken: the next push is due", with(told("new", minute, 1), seen, pushed(minute, 1), inSync),
		decision{action: push}},
	{"in sync and came by itself", with(told("new", minute, 1), seen, pushed(minute, 1), acknowledged, inSync),
		decision{outcome: storage.OutcomeInSync}},
	{"in sync, and another command's push failed", with(told("old", minute, 1), seen, pushed(minute, 1), inSync),
		decision{outcome: storage.OutcomeInSync}},
	{"left, and has what it should", with(told("new", minute, 1), inSync, left), decision{outcome: storage.OutcomeInSync}},
	{"left, forced", with(told("new", minute, 1), forced, left), decision{outcome: storage.OutcomeHeld}},

	// Elsewhere it may be lost.
	{"not seen: the check is due", told("new", 6*hour, 1), decision{action: send}},
	{"not seen: told twice", told("new", 12*hour-1, 2), decision{outcome: storage.OutcomePostponed, after: 1}},
	{"not seen: told five times: four days", told("new", 4*day-1, 5), decision{outcome: storage.OutcomePostponed, after: 1}},
	{"not seen: told five times, and they are over", told("new", 4*day, 5), decision{action: send}},

	// The device has the command, and has not finished.
	{"acknowledged", with(told("new", 6*hour-1, 1), acknowledged), decision{outcome: storage.OutcomePostponed, after: 1}},
	{"acknowledged, the check is due", with(told("new", 6*hour, 1), acknowledged), decision{action: send}},
	{"acknowledged, seen, the check is due", with(told("new", 6*hour, 1), seen, acknowledged), decision{action: send}},
	{"acknowledged often: a day", with(told("new", day-1, 50), seen, acknowledged),
		decision{outcome: storage.OutcomePostponed, after: 1}},
	{"acknowledged often, and a day is over", with(told("new", day, 50), seen, acknowledged), decision{action: send}},
	{"acknowledged something else", with(told("old", second, 1), seen, acknowledged), decision{action: send, withData: true}},

	// The device has answered with an error, so that the command is in no queue.
	{"refused", with(told("new", 6*hour-1, 1), seen, outcome("Error")), decision{outcome: storage.OutcomePostponed, after: 1}},
	{"refused, the check is due", with(told("new", 6*hour, 1), seen, outcome("Error")), decision{action: send}},
	{"refused twice", with(told("new", 12*hour-1, 2), seen, outcome("CommandFormatError")),
		decision{outcome: storage.OutcomePostponed, after: 1}},
	{"refused often, and a week is over", with(told("new", 7*day, 90), seen, outcome("CommandFormatError")),
		decision{action: send}},
	{"refused for something else", with(told("old", second, 1), seen, outcome("Error")),
		decision{action: send, withData: true}},

	// The command in the queue is for what is not desired any more: the device fetches what is.
	{"changed, seen: woken a moment ago", with(told("old", second, 1), seen),
		decision{outcome: storage.OutcomePostponed, after: 6*hour - second}},
	{"changed, seen: the check is due", with(told("old", 6*hour, 1), seen), decision{action: push}},
	{"changed, seen: a day", with(told("old", day, 1), seen), decision{action: send, withData: true}},
	{"changed, not seen", told("old", second, 1), decision{action: send, withData: true}},
	{"changed, not seen, and not woken", with(told("old", second, 1), pushed(second, 1)),
		decision{action: send, withData: true}},

	// It could not be woken: only that is tried again, soon.
	{"not woken", with(told("new", second, 1), pushed(second, 1)),
		decision{outcome: storage.OutcomePostponed, after: 1500 * time.Millisecond}},
	{"not woken, and it is time", with(told("new", 3*second, 1), pushed(3*second, 1)), decision{action: push}},
	{"not woken four times", with(told("new", minute, 1), pushed(20*second-1, 4)),
		decision{outcome: storage.OutcomePostponed, after: 1}},
	{"not woken four times, and it is time", with(told("new", minute, 1), pushed(20*second, 4)), decision{action: push}},
	{"not woken very often: half an hour and more", with(told("new", 5*hour, 1), pushed(30*minute, 200)),
		decision{action: push}},
	{"not woken for as long as a command is taken for lost", with(told("new", 6*hour, 1), pushed(minute, 9)),
		decision{action: send}},
	{"not woken for as long, seen", with(told("new", 6*hour, 1), seen, pushed(30*minute, 9)), decision{action: push}},
	{"not woken for a day, seen", with(told("new", day, 1), seen, pushed(minute, 9)), decision{action: send}},
	{"not woken, and came by itself", with(told("new", minute, 1), acknowledged, pushed(minute, 3)),
		decision{outcome: storage.OutcomePostponed, after: 6*hour - minute}},

	// To be told now.
	{"forced, in the queue", with(told("new", second, 1), seen, forced), decision{action: push}},
	{"forced, in the queue for something else", with(told("old", second, 1), seen, forced), decision{action: push}},
	{"forced, acknowledged", with(told("new", second, 1), seen, forced, acknowledged), decision{action: send}},
	{"forced, refused", with(told("new", second, 1), seen, forced, outcome("Error")), decision{action: send}},
	{"forced, not seen", with(told("new", second, 1), forced), decision{action: send}},

	// It has left.
	{"left", with(told("old", day, 1), left), decision{outcome: storage.OutcomeHeld}},
	{"left and forced", with(told("old", day, 1), left, forced), decision{outcome: storage.OutcomeHeld}},
	{"left, never told", with(storage.Enrollment{}, left), decision{outcome: storage.OutcomeHeld}},
}

func TestDecideAfterACommand(t *testing.T) {
	t.Parallel()
	for _, test := range redecisions {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := test.enrollment
			e.ID, e.Known, e.Now = "e", true, now
			require.Equal(t, test.want, usual.decide(&e, composition("new")))
		})
	}
}

// TestIntervals: -notify-interval moves the rest along.
func TestIntervals(t *testing.T) {
	t.Parallel()
	require.Equal(t, day, usual.maxCheck)
	require.Equal(t, 7*day, usual.maxRequeue)
	for _, check := range []time.Duration{second, hour, 2 * day, 30 * day} {
		s := newSchedule(check)
		for sends := range 40 {
			after, spread := s.afterSend(sends)
			require.GreaterOrEqual(t, after, check)
			require.LessOrEqual(t, after, max(day, check))
			require.Equal(t, after/10, spread)
			e := told("new", 0, sends)
			require.GreaterOrEqual(t, s.resend(&e), e.CommandSentAt.Add(check))
			require.LessOrEqual(t, s.resend(&e).Sub(e.CommandSentAt), max(7*day, check))
			seen(&e)
			require.GreaterOrEqual(t, s.resend(&e), e.CommandSentAt.Add(max(day, check)))
		}
	}
}
