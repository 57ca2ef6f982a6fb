// Package background runs what a server does besides answering requests.
package background

import (
	"context"
	"sync"
	"time"
)

// Runner runs work in the background, once at a time. The zero value is ready. Its methods may be called repeatedly and
// concurrently.
type Runner struct {
	mu   sync.Mutex
	stop func() // nil: nothing runs
}

// Start runs work, each part of it in a goroutine, until Stop. It does nothing when work runs already. Stop ends the first
// context that work gets, and the second one after grace: what must not be left half done is done under that.
func (r *Runner) Start(grace time.Duration, work ...func(ctx, late context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	late, cut := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for _, part := range work {
		done.Go(func() { part(ctx, late) })
	}
	r.stop = func() {
		cancel()
		timer := time.AfterFunc(grace, cut)
		done.Wait()
		timer.Stop()
		cut()
	}
}

// Stop ends the work and waits for that.
func (r *Runner) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// Sleep waits for d, or until it is woken, and reports whether to go on: the context has not ended. Wake may be nil.
func Sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-wake:
	}
	return ctx.Err() == nil
}
