package storage

import "context"

// FleetCount is how many enrollments there are.
type FleetCount struct {
	// InSync have what they should have, and OutOfSync have not, as was found when each was last looked at. Left are those
	// that the MDM said left, and are in neither.
	InSync, OutOfSync, Left int64
}

// Add adds another count.
func (c *FleetCount) Add(other FleetCount) {
	c.InSync += other.InSync
	c.OutOfSync += other.OutOfSync
	c.Left += other.Left
}

// HappeningNumbers are the log of happenings in numbers.
type HappeningNumbers struct {
	// OldestID and LastID are the ends of the log. In one that is empty, OldestID is LastID + 1.
	OldestID, LastID int64
	// DeliveredID is the last that was delivered. Delivers is false while none was ever to be.
	DeliveredID int64
	Delivers    bool
	// Waiting are those that are noted and have no place in the log yet. It stops at a bound.
	Waiting int
}

// Numbers tells those who watch servers how the database does, each in bounded time.
type Numbers interface {
	// QueueNumbers is that of Overview.
	QueueNumbers(ctx context.Context) (QueueNumbers, error)
	// HappeningNumbers counts. Numbers that change meanwhile need not fit each other.
	HappeningNumbers(ctx context.Context) (HappeningNumbers, error)
	// CountEnrollments counts at most limit enrollments behind an id, in the order of ids. Next is where to go on, empty at
	// the end.
	CountEnrollments(ctx context.Context, after string, limit int) (count FleetCount, next string, err error)
}
