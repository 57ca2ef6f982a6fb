package storage

import (
	"context"
	"time"
)

// NotifyTargets names whom a notification is for: these enrollments, and those that have one of these sets or a set
// that holds one of these declarations.
type NotifyTargets struct {
	Declarations []string
	Sets         []string
	Enrollments  []string
}

// Claimed is an enrollment that a notifier holds by a lease, with the vector that it had after the claim.
type Claimed struct {
	Enrollment Enrollment
	Vector     Vector
}

// Lease names a claim.
type Lease struct {
	ID       int64
	Duration time.Duration
}

// OutcomeKind says what became of a claimed enrollment.
type OutcomeKind int

// What Outcome.Kind may be.
const (
	// OutcomeInSync: it has what it should have. Nothing is due any more.
	OutcomeInSync OutcomeKind = iota
	// OutcomeSynced: the same, found out now: SyncedToken becomes DesiredToken.
	OutcomeSynced
	// OutcomeHeld: it should have something else, and is not told.
	OutcomeHeld
	// OutcomePostponed: it is to be looked at again after After; nothing was sent.
	OutcomePostponed
	// OutcomeSent: the MDM took the command CommandUUID. To be looked at again after After.
	OutcomeSent
	// OutcomePushed: the MDM was asked to wake the device for the command that it has already. To be looked at again
	// after After.
	OutcomePushed
	// OutcomeFailed: the MDM did not take it. To be tried again after After.
	OutcomeFailed
	// OutcomeUndone: the MDM does not work, which is no fault of the enrollment's. To be tried again after After.
	OutcomeUndone
)

// Outcome is what became of one or more enrollments of a claim. All of them share it.
type Outcome struct {
	Kind OutcomeKind
	IDs  []string
	// DesiredToken is empty when it could not be computed, which is a failure.
	DesiredToken string
	CommandUUID  string
	// Error is why it failed. For OutcomeSent and OutcomePushed: why the device could not be woken, if it could not.
	Error string
	After time.Duration
	// Spread is added to After, in part: by a random share for each enrollment.
	Spread time.Duration
}

// Serving is what servers must agree on.
type Serving interface {
	// ServeWith notes whether enrollments get the declaration of their shard number from now on. Where that is not what the
	// database was served with last, it reports so, and everybody is looked at again, page by page, as by a fan-out; so
	// they are by each call within a day after that, since other servers may still compose the other way. Who is held stays so.
	ServeWith(ctx context.Context, shard bool) (switched bool, err error)
}

// FanoutPage is one step of turning a change of a set into marks.
type FanoutPage struct {
	Set      string // empty: it is for everybody
	ChangeID string
	Marked   int   // by this page
	Reached  int64 // in all
	Done     bool
}

// Notifications is the queue. A mark is a note that an enrollment may have to be told; fan-outs turn a change of a set
// into marks; a claim takes marked enrollments for a while.
type Notifications interface {
	// Notify marks the targets as to be told even if they are in sync, and releases those that are held. Unknown
	// enrollments get a row; unknown sets and declarations reach nobody.
	Notify(ctx context.Context, targets NotifyTargets, options ChangeOptions) error

	// Unmatched returns those of the targets that are hardly meant: declarations that do not exist, sets that no enrollment
	// has, and enrollments that are not known. Each is there once, in order.
	Unmatched(ctx context.Context, targets NotifyTargets) (NotifyTargets, error)

	// AdvanceFanout takes one step of the fan-out that waited longest, marking at most limit enrollments; its position
	// is committed with the marks. It returns nil when no fan-out is due.
	AdvanceFanout(ctx context.Context, limit int) (*FanoutPage, error)

	// Claim takes up to limit enrollments that are due by the database's clock, urgent ones first, and returns them as
	// they are after the claim. Nobody else can claim them until the lease ends.
	Claim(ctx context.Context, lease Lease, limit int) ([]Claimed, error)
	// Finalise writes what became of claimed enrollments and gives up the lease on them. Whoever is no longer held
	// under the lease is left alone. When an enrollment was marked since it was claimed, it stays due.
	Finalise(ctx context.Context, lease Lease, outcomes []Outcome) error

	// Collect deletes what nobody needs any more: versions of declarations that were replaced and are not among those to
	// keep, manifests that were last served, and results of commands that turned out not to be ours, longer ago than age. At most limit rows of each; it reports
	// whether there may be more. When there is not, it also deletes the oldest rows of the log of changes that are too many.
	Collect(ctx context.Context, age time.Duration, limit int) (more bool, err error)
}
