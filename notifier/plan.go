package notifier

import (
	"time"

	"github.com/decree-ddm/decree/storage"
)

// schedule says when things are tried again.
type schedule struct {
	// check is how long after it was told a device that is not in sync is looked at again, and maxCheck to what that
	// grows for one that comes.
	check, maxCheck time.Duration
	// requeue is after how long a command that the device has not come for is taken for lost, and maxRequeue to what that
	// grows.
	requeue, maxRequeue time.Duration
	// retry is how long after a failure it is tried again, and maxRetry to what that grows.
	retry, maxRetry time.Duration
}

func newSchedule(check time.Duration) schedule {
	const day = 24 * time.Hour
	return schedule{
		check: check, maxCheck: max(day, check),
		requeue: max(day, check), maxRequeue: max(7*day, check),
		retry: 5 * time.Second, maxRetry: time.Hour,
	}
}

// doubled returns first, doubled so many times, and at most largest.
func doubled(first, largest time.Duration, times int) time.Duration {
	for d := first; ; d *= 2 {
		if d >= largest {
			return largest
		}
		if times <= 0 {
			return d
		}
		times--
	}
}

// afterSend is when a device that was told, now for the so many-th time, is looked at again.
func (s schedule) afterSend(sends int) (after, spread time.Duration) {
	after = doubled(s.check, s.maxCheck, sends-1)
	return after, after / 10
}

// afterFailure is when an enrollment that failed so often in a row, this time included, is tried again.
func (s schedule) afterFailure(attempts int) (after, spread time.Duration) {
	after = doubled(s.retry, s.maxRetry, attempts-1)
	return after / 2, after
}

// resend is when a command is queued again for a device that is not in sync since it was told. Where events of the
// device are seen, a command that it has not acknowledged is known to be in the MDM's queue still, and stays alone there
// for long; elsewhere it may have been lost.
func (s schedule) resend(e *storage.Enrollment) time.Time {
	after := doubled(s.check, s.maxCheck, e.Sends-1)
	if e.CommandAcknowledgedAt.IsZero() {
		after = doubled(s.check, s.maxRequeue, e.Sends-1)
		if !e.WebhookAt.IsZero() && !refused(e) {
			after = doubled(s.requeue, s.maxRequeue, e.Sends-1)
		}
	}
	return e.CommandSentAt.Add(after)
}

// refused reports whether the device has answered the last command with an error.
func refused(e *storage.Enrollment) bool {
	return e.CommandOutcome == "Error" || e.CommandOutcome == "CommandFormatError"
}

// unwoken reports whether the device could not be woken for the last command.
func unwoken(e *storage.Enrollment) bool {
	return e.PushFailures > 0 && !e.CommandSentAt.IsZero() && e.CommandAcknowledgedAt.IsZero()
}

// waiting reports whether the last command is known to be in the MDM's queue, so that another one would be a second one.
func (s schedule) waiting(e *storage.Enrollment) bool {
	return !e.CommandSentAt.IsZero() && e.CommandAcknowledgedAt.IsZero() && !refused(e) &&
		!e.WebhookAt.IsZero() && e.Now.Before(s.resend(e))
}

// nextPush is when the device is to be woken again for a command that it has not come for. A push is kept for it by the
// push service until it comes, so that is soon only where pushing failed.
func (s schedule) nextPush(e *storage.Enrollment) time.Time {
	if e.PushFailures == 0 {
		return e.PushedAt.Add(s.check)
	}
	after, _ := s.afterFailure(e.PushFailures)
	return e.PushedAt.Add(after)
}

// action is what a claimed enrollment needs.
type action int

const (
	settle action = iota // nothing is sent; the outcome is known
	send                 // a command
	push                 // only to be woken: the command is in the MDM's queue
)

// decision is an action with what it takes.
type decision struct {
	action action
	// outcome and after are for settle.
	outcome storage.OutcomeKind
	after   time.Duration
	// withData is for send: the command may carry the tokens.
	withData bool
}

// decide is the heart of the reconciler: what an enrollment needs, given what it should have.
func (s schedule) decide(e *storage.Enrollment, c *storage.Composition) decision {
	// A command for a token carries it; the next one for the same token makes the device ask.
	tell := decision{action: send, withData: e.CommandToken != c.Token}
	if s.waiting(e) {
		tell = decision{action: push}
	}
	switch {
	case !e.LeftAt.IsZero() && !e.InSync(c.Token, c.Empty()):
		return decision{outcome: storage.OutcomeHeld}
	case e.LeftAt.IsZero() && e.Forced:
		return tell
	case e.LeftAt.IsZero() && s.unheard(e, c):
		// It was told although in sync, and does not know.
		return s.pushed(e)
	case e.InSync(c.Token, c.Empty()):
		return decision{outcome: storage.OutcomeInSync}
	case heldAlready(e, c):
		return decision{outcome: storage.OutcomeSynced}
	case e.Held:
		return decision{outcome: storage.OutcomeHeld}
	}
	// It was told, or is at work, so it is left alone for a while, however often it is marked.
	var until time.Time
	switch {
	case tell.action == push:
		// Whichever token the command in the queue was for: the device fetches what there is now.
		tell.action = push
		until = s.nextPush(e)
	case e.CommandToken == c.Token && !e.CommandSentAt.IsZero():
		until = s.resend(e)
	}
	if e.FetchedToken == c.Token {
		until = later(until, e.FetchedAt.Add(storage.FetchGrace))
	}
	if e.AskedToken == c.Token {
		until = later(until, e.AskedAt.Add(storage.AskGrace))
	}
	if wait := until.Sub(e.Now); wait > 0 {
		return decision{outcome: storage.OutcomePostponed, after: wait}
	}
	return tell
}

// unheard reports whether the last command for a composition is in the MDM's queue, and the device could not be woken for it.
func (s schedule) unheard(e *storage.Enrollment, c *storage.Composition) bool {
	return unwoken(e) && e.CommandToken == c.Token && e.Now.Before(s.resend(e))
}

// pushed is the decision to wake a device as soon as that is due.
func (s schedule) pushed(e *storage.Enrollment) decision {
	if wait := s.nextPush(e).Sub(e.Now); wait > 0 {
		return decision{outcome: storage.OutcomePostponed, after: wait}
	}
	return decision{action: push}
}

// heldAlready reports whether the device is found to hold a token that it was never served here. It was told of it, asked,
// and had no need to fetch the manifest, and did so again when a further command made it ask. Once is not enough: a device
// that was about to fetch and went away looks the same.
func heldAlready(e *storage.Enrollment, c *storage.Composition) bool {
	return e.AskedToken == c.Token && e.FetchedToken == "" && e.CommandToken == c.Token && e.Sends > 1 &&
		e.AskedAt.After(e.CommandSentAt) && e.Now.Sub(e.AskedAt) >= storage.AskGrace
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
