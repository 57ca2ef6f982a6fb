package notifier

import (
	"context"
	"fmt"
	"time"
)

// MDM takes commands for enrollments. Its methods must return when the context ends, and name each enrollment once.
type MDM interface {
	// Enqueue queues a command for enrollments and has them woken. It returns a result for each id; or a *RefusedError
	// when the MDM queued the command for none of them, which one of them may be the cause of; or another error when the
	// MDM does not work, and it is not known that anything was queued.
	Enqueue(ctx context.Context, ids []string, command Command) (map[string]Result, error)
	// Push has enrollments woken that have a command in the MDM's queue. Results have no CommandError; an error means
	// that the MDM does not work.
	Push(ctx context.Context, ids []string) (map[string]Result, error)
	// Probe returns nil when the MDM works and its database answers. It changes nothing.
	Probe(ctx context.Context) error
}

// Result is what the MDM says of one enrollment.
type Result struct {
	// CommandError says why the command was not queued. Empty: it was.
	CommandError string
	// PushError says why the device was not woken, although the command may be queued.
	PushError string
}

// RefusedError says that an MDM that works queued nothing of a request.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return "the MDM queued nothing: " + e.Text }

// BusyError says that the MDM wants to be left alone for a while.
type BusyError struct {
	After time.Duration
	Text  string
}

func (e *BusyError) Error() string { return fmt.Sprintf("%s, and asks to wait %v", e.Text, e.After) }
