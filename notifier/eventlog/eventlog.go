// Package eventlog keeps the log of happenings going: a Sequencer has what was noted get its place in the log, and a Poster
// posts the log to a URL. All state is in storage, so that any number of servers can share the work and any of them can
// die. What is worth telling is decided where it happens.
package eventlog

import (
	"context"
	"sync"
	"time"
)

// runner runs a function in the background, once at a time.
type runner struct {
	mu   sync.Mutex
	stop func() // nil: it does not run
}

// start runs a function until its first context ends. The second one ends so much later.
func (r *runner) start(grace time.Duration, run func(ctx, late context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	late, cut := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx, late)
	}()
	r.stop = func() {
		cancel()
		timer := time.AfterFunc(grace, cut)
		<-done
		timer.Stop()
		cut()
	}
}

// Stop ends the work and waits for that. Like Start, it may be called repeatedly and concurrently.
func (r *runner) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// sleep waits, or until it is woken, and reports whether to go on.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
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
