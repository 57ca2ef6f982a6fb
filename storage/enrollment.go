package storage

import (
	"context"
	"time"
)

// Enrollment is what is known of one MDM enrollment (a device or a user channel). Zero times and empty tokens mean
// "never" and "unknown".
type Enrollment struct {
	ID       string
	Known    bool // it has a row
	Type     string
	ParentID string

	// Epoch counts enrollments: what a device did before it enrolled again says nothing about it now.
	Epoch     int64
	CreatedAt time.Time
	LastSeen  time.Time
	// EnrolledAt is when the MDM saw it enroll, LeftAt when it left, and WebhookAt, to the hour, when an event of it was
	// last seen.
	EnrolledAt time.Time
	LeftAt     time.Time
	WebhookAt  time.Time

	// The queue. NotifyAt is when it is next due; zero means nothing is due.
	NotifyAt  time.Time
	NotifySeq int64
	Held      bool
	Forced    bool // must be told even if it is in sync
	Attempts  int  // failed ones since the last success
	LastError string
	// LeaseUntil is until when a notifier is at it.
	LeaseUntil time.Time

	// The last command that the MDM took.
	CommandUUID           string
	CommandToken          string
	CommandSentAt         time.Time
	CommandAcknowledgedAt time.Time
	CommandOutcome        string // what the device made of it, as far as an event told
	CommandError          string
	Sends                 int // commands for CommandToken, this one included
	// PushedAt is when the MDM was last asked to wake the device, with the command or alone; PushFailures counts how often
	// that has failed in a row.
	PushedAt     time.Time
	PushFailures int

	DesiredToken string // as last computed
	AskedToken   string // last answered to `tokens`, while it was not in sync
	AskedAt      time.Time
	FetchedToken string // of the manifest last served to it
	FetchedAt    time.Time
	SyncedToken  string // that it is known to have finished with, and still holds
	SyncedAt     time.Time
	// OutOfSync is as last computed, since SyncChangedAt.
	OutOfSync     bool
	SyncChangedAt time.Time

	// Now is the database's clock when this was read: what all the times above are compared with.
	Now time.Time
}

// InSync reports whether the enrollment has what it should have, when desired is what it should have and empty
// says that this is nothing. One that was never told anything, and for which there is nothing, needs nothing.
func (e *Enrollment) InSync(desired string, empty bool) bool {
	if e.SyncedToken == desired {
		return true
	}
	return empty && e.SyncedToken == "" && e.FetchedToken == "" && e.AskedToken == "" && e.CommandSentAt.IsZero()
}

// How long a device that is working is left alone.
const (
	// FetchGrace is how long a device that fetched a manifest has to fetch the declarations behind it.
	FetchGrace = time.Hour
	// AskGrace is how long a device that was told its token has to fetch the manifest, if it does not hold it.
	AskGrace = 15 * time.Minute
)

// CheckChange says what a device's request does to the time at which its enrollment is next looked at.
type CheckChange int

// What DeviceUpdate.Check may be.
const (
	CheckKeep     CheckChange = iota // leave it
	CheckClear                       // nothing is due: it is in sync
	CheckPostpone                    // it is working: look again after DeviceUpdate.CheckAfter
)

// DeviceUpdate is what a device's request tells about it. Empty fields change nothing.
type DeviceUpdate struct {
	ID       string
	Type     string
	ParentID string

	// Epoch and NotifySeq are from the Enrollment that the request was answered from. Nothing is written when the
	// enrollment's epoch has moved on; Check is only applied while nobody has marked the enrollment since and no forced
	// notification waits.
	Epoch     int64
	NotifySeq int64
	// SeenFetched is the FetchedToken of that Enrollment: SyncedToken and CheckClear are only applied while the device has
	// not been served another manifest.
	SeenFetched string

	DesiredToken string
	AskedToken   string
	FetchedToken string
	SyncedToken  string
	// LostSync says that the device no longer holds SyncedToken: it was served another manifest. Then it is due to be
	// looked at after CheckAfter at the latest, whatever Check does.
	LostSync bool
	// Acknowledged says that the last command, if it is not acknowledged yet, was.
	Acknowledged bool
	// Back says that the enrollment has not left, as was believed. It is marked.
	Back bool
	// Create makes the enrollment's row if it has none.
	Create bool

	Check      CheckChange
	CheckAfter time.Duration
}

// Enrollments keeps what is known of enrollments.
type Enrollments interface {
	// Enrollment returns an enrollment and its vector, read in one statement. An unknown id gives an Enrollment with
	// Known false and an empty vector, and writes nothing.
	Enrollment(ctx context.Context, id string) (*Enrollment, Vector, error)
	// DeviceEnrollment is Enrollment with what a device's request needs, for which it costs the least: when the device was
	// seen and left, its epoch and NotifySeq, its command's times, and its asked, fetched and synced tokens.
	DeviceEnrollment(ctx context.Context, id string) (*Enrollment, Vector, error)
	// UpdateDevice records what a device did, and that it was seen.
	UpdateDevice(ctx context.Context, update DeviceUpdate) error
}
