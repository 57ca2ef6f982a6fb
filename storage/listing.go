package storage

import (
	"context"
	"time"
)

// EnrollmentFilter selects enrollments. Zero values select all.
type EnrollmentFilter struct {
	InSync  *bool
	Failing *bool // the last attempts to tell or wake it failed
	Left    *bool
	Set     string
	Type    string
	// SeenBefore and SeenAfter compare with when it was last seen, which is known to the hour. Who was never seen was
	// seen before everything.
	SeenBefore, SeenAfter time.Time

	// Facts that the device has reported, compared exactly.
	Serial, Model, OSFamily string
	// OSVersionFrom and OSVersionBelow compare as ddm.VersionOrder does. Who has not said its version is in no such range.
	OSVersionFrom, OSVersionBelow string
	// Supports is a type of declaration, or a status item, that the device says it supports.
	Supports string
	// Confirmed is whether the device has confirmed that declarative management is on.
	Confirmed *bool
}

// QueueNumbers are the queue of notifications in numbers. Counts stop at a bound; then they are that bound.
type QueueNumbers struct {
	// Due are to be looked at now; Leased are those of them that a notifier is at.
	Due, Leased int
	// Waiting are to be looked at later: told and not in sync yet, or failed.
	Waiting int
	// Failing counts those whom the last attempts to tell or wake failed, and FailingBy the most frequent of their errors.
	Failing   int
	FailingBy []ErrorCount
	// OldestDue is since when the one that waits longest is due; zero when none is.
	OldestDue time.Time
	// Fanouts counts the sets whose change is on its way to their enrollments.
	Fanouts int
	// OldestFanout is since when the one of their fan-outs is due that waits longest for its next step; zero when none is.
	OldestFanout time.Time
	// Bound is where the counts stop.
	Bound int
	Now   time.Time
}

// ErrorCount is how many enrollments fail for one reason.
type ErrorCount struct {
	Error string
	Count int
}

// Listed is an enrollment with the names of its sets, the first thousand of them.
type Listed struct {
	Enrollment Enrollment
	Sets       []string
}

// MaxListedSets is how many sets are listed with an enrollment.
const MaxListedSets = 1000

// Overview answers questions about many enrollments, each in bounded time.
type Overview interface {
	// ListEnrollments returns enrollments in the order of their ids. It looks at a bounded number of them: next is where
	// to go on, empty at the end, and a page may be shorter than its limit before that.
	ListEnrollments(ctx context.Context, filter EnrollmentFilter, page Page) (list []Listed, next string, err error)
	// Facts returns what is known by name of those of some enrollments, at most a thousand, of which something is.
	Facts(ctx context.Context, ids []string) (map[string]Facts, error)
	// QueueNumbers counts. Numbers that change meanwhile need not fit each other.
	QueueNumbers(ctx context.Context) (QueueNumbers, error)
	// DeleteEnrollment forgets an enrollment, its sets and its status, and reports whether there was anything.
	DeleteEnrollment(ctx context.Context, id string, options ChangeOptions) (changed bool, err error)
}
