package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Happening is something that happened to an enrollment, as it is told to the outside, where it is called an event and
// has this form in JSON. What comes in from the MDM is an Event.
type Happening struct {
	// ID is the place in the log, from 1 without gaps.
	ID           int64         `json:"id"`
	At           time.Time     `json:"at"`
	Kind         HappeningKind `json:"kind"`
	EnrollmentID string        `json:"enrollment_id"`
	// Detail is a JSON object; what is in it depends on the kind.
	Detail json.RawMessage `json:"detail"`
}

// HappeningKind is the kind of a happening.
type HappeningKind string

const (
	// HappenedInSync and HappenedOutOfSync tell that a device now has, or no more has, what it should have. They tell of the
	// state, not of every change: one that does not last is left out.
	HappenedInSync    HappeningKind = "enrollment.in-sync"
	HappenedOutOfSync HappeningKind = "enrollment.out-of-sync"
	// HappenedEnrolled and HappenedLeft tell what the MDM said of an enrollment.
	HappenedEnrolled HappeningKind = "enrollment.enrolled"
	HappenedLeft     HappeningKind = "enrollment.left"
	// HappenedInvalid and HappenedValid tell that a declaration became invalid or valid on a device.
	HappenedInvalid HappeningKind = "declaration.invalid"
	HappenedValid   HappeningKind = "declaration.valid"
	// HappenedOSVersion and HappenedSoftwareUpdate tell that a device's OS version, or the state of its software update,
	// changed.
	HappenedOSVersion      HappeningKind = "os-version.changed"
	HappenedSoftwareUpdate HappeningKind = "software-update.changed"
)

// HappeningKinds are all the kinds.
var HappeningKinds = []HappeningKind{
	HappenedInSync, HappenedOutOfSync, HappenedEnrolled, HappenedLeft, HappenedInvalid, HappenedValid,
	HappenedOSVersion, HappenedSoftwareUpdate,
}

// FromOldest is the HappeningQuery.After of those who want to begin with the oldest that is still there.
const FromOldest = -1

// HappeningQuery selects a page of the log.
type HappeningQuery struct {
	// After is the id of the last one that the reader has, or FromOldest.
	After int64
	// Limit is how many to return at most, and must be positive.
	Limit int
	// Kinds and EnrollmentID, where given, leave out all others.
	Kinds        []HappeningKind
	EnrollmentID string
}

// HappeningPage is a page of the log.
type HappeningPage struct {
	Happenings []Happening // in the order of ids
	// Next is the After with which to go on. It is beyond those that the query has left out.
	Next int64
	// LastID is the id of the newest in the log.
	LastID int64
}

// HappeningsGoneError says that the log cannot be read from a place: what comes next was deleted, or the log does not reach
// that far.
type HappeningsGoneError struct {
	After, OldestID, LastID int64
}

func (e *HappeningsGoneError) Error() string {
	if e.After > e.LastID {
		return fmt.Sprintf("there is no event %d yet: the newest is %d. "+
			"What you have is from another log, or the database was restored from a backup", e.After, e.LastID)
	}
	return fmt.Sprintf("what came after event %d is gone: the oldest event that is still there is %d", e.After, e.OldestID)
}

// Delivery is what is to be delivered next.
type Delivery struct {
	// Happenings are those behind what was delivered, in order.
	Happenings []Happening
	// Lost is how many were deleted before they could be delivered.
	Lost int64
}

// Happenings is the log. Whoever changes something that is worth telling notes it in the same transaction; advancing the
// log gives what was noted and is committed its place. So the order of ids is the order in which they can be read: who
// has read up to an id misses nothing before it, on any number of servers.
type Happenings interface {
	// Happenings returns a page of the log. A page that leaves some out looks at a bounded number, and can be empty
	// although there is more; it is the last one for now when Next is LastID. It returns *HappeningsGoneError when what
	// comes behind After is not there any more, or After is beyond the end.
	Happenings(ctx context.Context, query HappeningQuery) (*HappeningPage, error)

	// AdvanceHappenings gives at most limit of those that were noted their place in the log, notes which enrollments have
	// come to be in sync or out of sync since that was last told, and deletes those that are too many. It returns how many
	// were appended, and whether there may be more to do.
	AdvanceHappenings(ctx context.Context, limit int) (appended int, more bool, err error)

	// TakeDelivery returns what is to be delivered next, at most limit, and makes it nobody else's until the lease ends. It
	// returns nil when there is nothing, or another holds the lease. Deliveries begin at the end that the log has when they
	// are first asked for.
	TakeDelivery(ctx context.Context, lease Lease, limit int) (*Delivery, error)
	// HoldDelivery has the lease last for its duration from now. It reports whether it was held still.
	HoldDelivery(ctx context.Context, lease Lease) (held bool, err error)
	// Delivered notes that all up to an id are delivered. It reports whether the lease was held still; otherwise others may
	// deliver the same again.
	Delivered(ctx context.Context, lease Lease, id int64) (held bool, err error)
	// GiveUpDelivery ends the lease, if it is held.
	GiveUpDelivery(ctx context.Context, lease Lease) error
}
