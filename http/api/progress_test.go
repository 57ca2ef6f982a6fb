package api

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

func TestWaitsFor(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	ago := func(minutes int) time.Time { return now.Add(-time.Duration(minutes) * time.Minute) }
	for _, c := range []struct {
		name   string
		is     storage.Enrollment
		inSync bool
		wanted step
	}{
		{"in sync", storage.Enrollment{SyncedToken: "new"}, true, stepNone},
		{"in sync and due", storage.Enrollment{NotifyAt: now, Forced: true}, true, stepNone},
		{"left with nothing to have", storage.Enrollment{LeftAt: now}, true, stepNone},
		{"left", storage.Enrollment{LeftAt: now, Held: true}, false, stepLeft},
		{"nothing happened", storage.Enrollment{}, false, stepNotTold},
		{"due", storage.Enrollment{NotifyAt: now}, false, stepNotTold},
		{"refused by the MDM", storage.Enrollment{NotifyAt: now, Attempts: 3, LastError: "down"}, false, stepNotTold},
		{"held", storage.Enrollment{Held: true}, false, stepHeld},
		{"held, and not looked at", storage.Enrollment{Held: true, NotifyAt: now}, false, stepHeld},
		{"held behind an earlier command", storage.Enrollment{
			Held: true, CommandToken: "old", CommandSentAt: ago(9), CommandAcknowledgedAt: ago(8),
		}, false, stepHeld},
		{"held, and fetched all the same", storage.Enrollment{
			Held: true, NotifyAt: now, FetchedToken: "new", FetchedAt: ago(1),
		}, false, stepNotConfirmed},
		{"sent", storage.Enrollment{CommandToken: "new", CommandSentAt: ago(1)}, false, stepInQueue},
		{"sent, and not woken", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(1), PushFailures: 2, LastError: "no push",
		}, false, stepInQueue},
		{"sent again after a fetch", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(1), FetchedToken: "new", FetchedAt: ago(99),
		}, false, stepInQueue},
		{"an earlier command is known to wait", storage.Enrollment{
			CommandToken: "old", CommandSentAt: ago(1), WebhookAt: ago(99),
		}, false, stepInQueue},
		{"an earlier command may wait", storage.Enrollment{
			CommandToken: "old", CommandSentAt: ago(1),
		}, false, stepNotTold},
		{"an earlier command was refused", storage.Enrollment{
			CommandToken: "old", CommandSentAt: ago(1), WebhookAt: ago(1), CommandOutcome: "Error",
		}, false, stepNotTold},
		{"an earlier command was put off", storage.Enrollment{
			CommandToken: "old", CommandSentAt: ago(1), WebhookAt: ago(1), CommandOutcome: "NotNow",
		}, false, stepNotAcknowledged},
		{"put off", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(1), CommandOutcome: "NotNow",
		}, false, stepNotAcknowledged},
		{"refused", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(1), CommandOutcome: "Error",
		}, false, stepNotAcknowledged},
		{"not understood", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(1), WebhookAt: ago(1), CommandOutcome: "CommandFormatError",
		}, false, stepNotAcknowledged},
		{"put off, then acknowledged", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(2), CommandOutcome: "NotNow", CommandAcknowledgedAt: ago(1),
		}, false, stepNotFetched},
		{"acknowledged", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(2), CommandOutcome: "Acknowledged", CommandAcknowledgedAt: ago(1),
		}, false, stepNotFetched},
		{"acknowledged, and fetched what was before", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(2), CommandAcknowledgedAt: ago(1), FetchedToken: "old", FetchedAt: ago(1),
		}, false, stepNotFetched},
		{"an earlier command was acknowledged", storage.Enrollment{
			CommandToken: "old", CommandSentAt: ago(2), CommandAcknowledgedAt: ago(1), WebhookAt: ago(1),
		}, false, stepNotTold},
		{"asked by itself", storage.Enrollment{AskedToken: "new", AskedAt: ago(1)}, false, stepNotFetched},
		{"asked for what was before", storage.Enrollment{AskedToken: "old", AskedAt: ago(1)}, false, stepNotTold},
		{"fetched by itself", storage.Enrollment{FetchedToken: "new", FetchedAt: ago(1)}, false, stepNotConfirmed},
		{"fetched", storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(3), CommandAcknowledgedAt: ago(2), AskedToken: "new", AskedAt: ago(2),
			FetchedToken: "new", FetchedAt: ago(1),
		}, false, stepNotConfirmed},
	} {
		require.Equal(t, c.wanted, waitsFor(&c.is, "new", c.inSync), c.name)
	}
}
