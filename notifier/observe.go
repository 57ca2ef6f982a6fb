package notifier

import (
	"context"
	"errors"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// Observer is told of what a Notifier does, by several goroutines at once. It must not block.
type Observer interface {
	// Settled tells of enrollments that were looked at, with one of Verdicts.
	Settled(verdict string, enrollments int)
	// Asked tells of a request to the MDM, with one of Requests and one of Answers.
	Asked(request, answer string, duration time.Duration)
	// Marked tells of enrollments that a fan-out has reached.
	Marked(enrollments int)
}

// What an Observer is told is one of these.
var (
	// Verdicts are what may become of an enrollment: the MDM took a command and woke the device; the MDM woke it for a
	// command that it had already; the command is in the MDM's queue and the device could not be woken; the MDM did not
	// take the command; the MDM does not work; what to send could not be found out; nothing needs sending; it is not to be
	// told; it is to be looked at again later.
	Verdicts = []string{
		"sent", "woken", "unwoken", "refused", "undone", "failed", "in_sync", "held", "postponed",
	}
	// Requests are those that are made to an MDM.
	Requests = []string{requestEnqueue, requestPush, requestProbe}
	// Answers are whether it took a request, refused it although it works, or does not work.
	Answers = []string{"taken", "refused", "failed"}
)

const (
	requestEnqueue = "enqueue"
	requestPush    = "push"
	requestProbe   = "probe"
)

// verdict is what became of the enrollments of an outcome.
func verdict(outcome *storage.Outcome) string {
	switch outcome.Kind {
	case storage.OutcomeSent, storage.OutcomePushed:
		switch {
		case outcome.Error != "":
			return "unwoken"
		case outcome.Kind == storage.OutcomePushed:
			return "woken"
		}
		return "sent"
	case storage.OutcomeFailed:
		if outcome.DesiredToken == "" {
			return "failed"
		}
		return "refused"
	case storage.OutcomeUndone:
		return "undone"
	case storage.OutcomeInSync, storage.OutcomeSynced:
		return "in_sync"
	case storage.OutcomeHeld:
		return "held"
	}
	return "postponed"
}

// settled tells the observer of outcomes.
func (n *Notifier) settled(outcomes []storage.Outcome) {
	for i := range outcomes {
		n.config.Observer.Settled(verdict(&outcomes[i]), len(outcomes[i].IDs))
	}
}

// asked tells the observer of a request. One that Stop cut off tells nothing of the MDM.
func (n *Notifier) asked(ctx context.Context, request string, err error, duration time.Duration) {
	answer := "taken"
	var refused *RefusedError
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case errors.As(err, &refused):
		answer = "refused"
	case err != nil:
		answer = "failed"
	}
	n.config.Observer.Asked(request, answer, duration)
}

// nobody is an Observer that looks away.
type nobody struct{}

func (nobody) Settled(string, int)                 {}
func (nobody) Asked(string, string, time.Duration) {}
func (nobody) Marked(int)                          {}
