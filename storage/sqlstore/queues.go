package sqlstore

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/decree-ddm/decree/storage"
)

// queues has the operations of this process that want the same row come to it one after the other, first come first served,
// before they take a connection. In the database they would wait with one each, lose their place in its order whenever they
// give up, and take all connections where somebody holds the row. The zero value is ready.
type queues struct {
	mu sync.Mutex
	// of has who waits for each row that somebody has.
	of map[string][]chan struct{}
}

// Rows are named by what they are of, too: the same name may be that of a set and of a declaration.
func ofDeclaration(identifier string) string { return "declaration " + identifier }
func ofSet(name string) string               { return "set " + name }
func ofEnrollment(id string) string          { return "enrollment " + id }

// take waits for its turn at all rows. The caller must call the function that it returns if and only if there is no error.
func (q *queues) take(ctx context.Context, rows ...string) (release func(), err error) {
	// All take them in one order, so that nobody waits for one who waits for it.
	rows = slices.Compact(slices.Sorted(slices.Values(rows)))
	for i, row := range rows {
		if err := q.takeOne(ctx, row); err != nil {
			q.release(rows[:i])
			return nil, err
		}
	}
	return func() { q.release(rows) }, nil
}

func (q *queues) takeOne(ctx context.Context, row string) error {
	q.mu.Lock()
	waiting, taken := q.of[row]
	if !taken {
		if q.of == nil {
			q.of = map[string][]chan struct{}{}
		}
		q.of[row] = nil
		q.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	q.of[row] = append(waiting, turn)
	q.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.of[row], turn); i >= 0 {
		q.of[row] = slices.Delete(q.of[row], i, i+1)
	} else {
		q.releaseOne(row) // the turn came at the same moment
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return &storage.NotReadyError{Reason: HeldForTooLong, Err: ctx.Err()}
}

// HeldForTooLong is the reason that those get who have waited in vain. Dialects give it for locks.
const HeldForTooLong = "somebody else holds for too long what is to be changed"

func (q *queues) release(rows []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, row := range rows {
		q.releaseOne(row)
	}
}

// releaseOne gives a row to who waits longest for it. The caller holds the mutex.
func (q *queues) releaseOne(row string) {
	waiting := q.of[row]
	if len(waiting) == 0 {
		delete(q.of, row)
		return
	}
	close(waiting[0])
	q.of[row] = waiting[1:]
}
