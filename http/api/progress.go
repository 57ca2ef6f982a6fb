package api

import (
	"time"

	"github.com/decree-ddm/decree/storage"
)

// step is what an enrollment that is not in sync waits for.
type step string

const (
	stepNone            step = ""                 // it is in sync
	stepLeft            step = "left"             // it has left the MDM, and is not told of anything
	stepHeld            step = "held"             // it is not to be told, because of nonotify
	stepNotTold         step = "not_told"         // the MDM has not taken a command for it
	stepInQueue         step = "in_mdm_queue"     // the device has not come for the command
	stepNotAcknowledged step = "not_acknowledged" // the device came, and put the command off or refused it
	stepNotFetched      step = "not_fetched"      // the device knows that there is something, and has not fetched the manifest
	stepNotConfirmed    step = "not_confirmed"    // it has fetched the manifest, and is not known to have finished with it
)

// waitsFor says which step an enrollment waits for, given what it should have and whether it has that. The steps are in
// the order in which the first that has not happened is the answer.
func waitsFor(e *storage.Enrollment, desired string, inSync bool) step {
	told := e.CommandToken == desired && !e.CommandSentAt.IsZero()
	asked := e.AskedToken == desired && !e.AskedAt.IsZero()
	fetched := e.FetchedToken == desired && !e.FetchedAt.IsZero()
	switch {
	case inSync:
		return stepNone
	case !e.LeftAt.IsZero():
		return stepLeft
	case e.Held && e.NotifyAt.IsZero():
		return stepHeld
	case (told || queued(e)) && e.CommandAcknowledgedAt.IsZero():
		if e.CommandOutcome == "" {
			return stepInQueue
		}
		return stepNotAcknowledged
	case fetched:
		return stepNotConfirmed
	case told || asked:
		return stepNotFetched
	case e.Held: // to be looked at, and not to be told then
		return stepHeld
	}
	return stepNotTold
}

// queued reports whether the last command is known to be in the MDM's queue. Whichever token it was for, the device that
// comes for it fetches what there is then, and it gets no second one meanwhile. Where the MDM tells of no events, nothing
// is known of a command for another token.
func queued(e *storage.Enrollment) bool {
	refused := e.CommandOutcome == "Error" || e.CommandOutcome == "CommandFormatError"
	return !e.CommandSentAt.IsZero() && !e.WebhookAt.IsZero() && !refused
}

// steps are what has happened on the way to being in sync; what has not happened is left out.
type steps struct {
	Told         *toldStep         `json:"told,omitempty"`
	Pushed       *pushedStep       `json:"pushed,omitempty"`
	Acknowledged *acknowledgedStep `json:"acknowledged,omitempty"`
	Asked        *tokenStep        `json:"asked,omitempty"`
	Fetched      *tokenStep        `json:"fetched,omitempty"`
	Synced       *tokenStep        `json:"synced,omitempty"`
}

type toldStep struct {
	At          string `json:"at"`
	CommandUUID string `json:"command_uuid,omitempty"`
	Token       string `json:"token,omitempty"`
	Sends       int    `json:"sends"`
}

type pushedStep struct {
	At       string `json:"at"`
	Failures int    `json:"push_failures"`
}

type acknowledgedStep struct {
	At      string `json:"at,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Error   string `json:"error,omitempty"`
}

type tokenStep struct {
	At    string `json:"at"`
	Token string `json:"token"`
}

func stepsOf(e *storage.Enrollment) steps {
	s := steps{
		Asked:   tokenStepOf(e.AskedAt, e.AskedToken),
		Fetched: tokenStepOf(e.FetchedAt, e.FetchedToken),
		Synced:  tokenStepOf(e.SyncedAt, e.SyncedToken),
	}
	if !e.CommandSentAt.IsZero() {
		s.Told = &toldStep{timestamp(e.CommandSentAt), e.CommandUUID, e.CommandToken, e.Sends}
	}
	if !e.PushedAt.IsZero() {
		s.Pushed = &pushedStep{timestamp(e.PushedAt), e.PushFailures}
	}
	if !e.CommandAcknowledgedAt.IsZero() || e.CommandOutcome != "" {
		s.Acknowledged = &acknowledgedStep{timestamp(e.CommandAcknowledgedAt), e.CommandOutcome, e.CommandError}
	}
	return s
}

func tokenStepOf(at time.Time, token string) *tokenStep {
	if at.IsZero() || token == "" {
		return nil
	}
	return &tokenStep{timestamp(at), token}
}
