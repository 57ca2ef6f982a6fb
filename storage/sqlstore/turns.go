package sqlstore

import (
	"context"
	"sync"
)

// urgency says who waits for a transaction.
type urgency int

const (
	foreground urgency = iota // an API client or a device
	background                // nobody: fan-outs, claims, collection
)

// maxOvertaken is how many foreground transactions overtake one that nobody waits for, so that it has its turn under any
// load.
const maxOvertaken = 20

// turns lets one transaction after the other write. Foreground ones overtake background ones that wait. The zero
// value is ready.
type turns struct {
	mu        sync.Mutex
	busy      bool
	waiting   [2][]chan struct{} // by urgency, first come first served
	overtaken int                // turns since a background transaction that waits was passed over first
}

// take waits for a turn; the caller must call release if and only if it returns nil.
func (t *turns) take(ctx context.Context, u urgency) error {
	t.mu.Lock()
	if !t.busy {
		t.busy = true
		t.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	t.waiting[u] = append(t.waiting[u], turn)
	t.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	for i, other := range t.waiting[u] {
		if other == turn {
			t.waiting[u] = append(t.waiting[u][:i], t.waiting[u][i+1:]...)
			t.mu.Unlock()
			return ctx.Err()
		}
	}
	t.mu.Unlock()
	t.release() // the turn came at the same moment
	return ctx.Err()
}

// awaited reports whether a foreground transaction waits for its turn.
func (t *turns) awaited() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting[foreground]) > 0
}

// release passes the turn on.
func (t *turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := foreground
	switch patient := len(t.waiting[background]) > 0; {
	case len(t.waiting[foreground]) == 0 && !patient:
		t.busy, t.overtaken = false, 0
		return
	case len(t.waiting[foreground]) == 0, patient && t.overtaken >= maxOvertaken:
		u, t.overtaken = background, 0
	case patient:
		t.overtaken++
	}
	turn := t.waiting[u][0]
	t.waiting[u] = t.waiting[u][1:]
	close(turn)
}
