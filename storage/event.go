package storage

import (
	"context"
	"time"
)

// EventKind says what the MDM saw.
type EventKind int

// What Event.Kind may be.
const (
	// EventAuthenticate begins an enrollment: the device has forgotten all declarations.
	EventAuthenticate EventKind = iota
	// EventTokenUpdate completes an enrollment, or is only a new push token.
	EventTokenUpdate
	// EventCheckOut ends an enrollment.
	EventCheckOut
	// EventCommand is what a device answered to a command.
	EventCommand
)

// Event is what the MDM tells of an enrollment. Events get lost, repeated and out of order.
type Event struct {
	Kind     EventKind
	ID       string
	Type     string // empty: not told
	ParentID string
	// At is when it happened by the MDM's clock.
	At time.Time
	// Tally counts the token updates since the enrollment began; 0 when it is not told. For EventTokenUpdate.
	Tally int

	// For EventCommand: the command, what the device made of it (Acknowledged, NotNow, Error, CommandFormatError), and
	// its text for an error.
	CommandUUID string
	Status      string
	Error       string
}

// EventOptions says what enrolling and leaving do to an enrollment's sets.
type EventOptions struct {
	// EnrollSets are assigned to an enrollment that enrolls and has no set.
	EnrollSets []string
	// RemoveSets has an enrollment that leaves lose its sets.
	RemoveSets bool
	// Change is for the log of changes, if sets are assigned or removed.
	Change ChangeOptions
}

// Events applies what the MDM tells.
type Events interface {
	// ApplyEvent changes what is known of an enrollment, and marks it if it has to be told. An event that was applied
	// before, or that is older than what is known, changes nothing. It reports whether the enrollment was marked.
	ApplyEvent(ctx context.Context, event Event, options EventOptions) (marked bool, err error)
}
