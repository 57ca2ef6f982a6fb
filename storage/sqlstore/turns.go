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

// turns lets one transaction after the other write. Foreground ones overtake background ones that wait. The zero
// value is ready.
type turns struct {
	mu      sync.Mutex
	busy    bool
	waiting [2][]chan struct{} // by urgency, first come first served
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

// release passes the turn on.
func (t *turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for u := range t.waiting {
		if len(t.waiting[u]) > 0 {
			turn := t.waiting[u][0]
			t.waiting[u] = t.waiting[u][1:]
			close(turn)
			return
		}
	}
	t.busy = false
}
