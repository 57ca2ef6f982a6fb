package storage

import (
	"context"
	"time"
)

// Watched tells whether the database works, and bears with its clock.
type Watched interface {
	// Ready returns *NotReadyError while the database cannot be worked with: it does not answer, has not the schema that this
	// program needs, or cannot be written to.
	Ready(ctx context.Context) error
	// Look does the same, and remembers it: while the database is not there, all that is asked of it is refused at once with
	// *NotReadyError. One goroutine calls it, again and again.
	Look(ctx context.Context) error
	// KeepClock notes the time of the database's clock. When that was set back, times that were stored before and are in the
	// future now are put back by as much, a page of enrollments with each call: what is due is not waited for in vain. It
	// returns by how much the clock was found to be set back, if it was, and whether there is more to put back.
	KeepClock(ctx context.Context) (back time.Duration, more bool, err error)
}

// NotReadyError says why the database cannot be worked with.
type NotReadyError struct {
	// Reason is for everybody.
	Reason string
	// Err is what the database said, if anything. It may name hosts and files, and is for the log only.
	Err error
}

func (e *NotReadyError) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.Err.Error()
}

func (e *NotReadyError) Unwrap() error { return e.Err }
