package notifier

import (
	"errors"
	"sync"
	"time"
)

// How a breaker behaves: how many failures in a row open it, and at which intervals the MDM is then tried.
const (
	breakAfter   = 3
	firstProbe   = time.Second
	longestProbe = time.Minute
	// longestWait bounds what an MDM can ask for.
	longestWait = time.Hour
)

// breaker keeps an MDM that does not work from being asked by everybody: while it is open, one request at a time tries it,
// at growing intervals. It is safe for concurrent use.
type breaker struct {
	now func() time.Time

	mu        sync.Mutex
	failures  int // in a row
	interval  time.Duration
	next      time.Time // when it may be tried again
	asked     bool      // next is what the MDM asked for
	successes int64
}

func newBreaker() *breaker { return &breaker{now: time.Now} }

// BreakerState is what a breaker does.
type BreakerState struct {
	Open      bool
	Failures  int
	NextProbe time.Time // zero when it is not open
}

func (b *breaker) state() BreakerState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter && !b.next.After(b.now()) {
		return BreakerState{Failures: b.failures}
	}
	return BreakerState{Open: true, Failures: b.failures, NextProbe: b.next}
}

// allow says how long to wait before the MDM is asked, and, when that is nothing, whether this is to be a lone try.
func (b *breaker) allow() (wait time.Duration, lone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wait := b.next.Sub(b.now()); wait > 0 {
		return wait, true
	}
	return 0, b.failures >= breakAfter
}

// succeeded notes that the MDM works. It is left alone all the same for as long as it has asked for meanwhile.
func (b *breaker) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.interval = 0, 0
	if !b.asked || !b.next.After(b.now()) {
		b.next, b.asked = time.Time{}, false
	}
	b.successes++
}

// failed notes that it does not, and returns when it may be tried again.
func (b *breaker) failed(err error) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	wait := b.next.Sub(b.now())
	var busy *BusyError
	switch {
	case errors.As(err, &busy):
		b.failures = max(b.failures, breakAfter)
		b.interval = max(wait, min(max(busy.After, firstProbe), longestWait))
		b.asked = true
	case b.failures < breakAfter:
		return max(0, wait)
	case wait > 0:
		return wait // the request was under way when an earlier one failed, and tells nothing new
	default:
		b.interval = min(max(2*b.interval, firstProbe), longestProbe)
		b.asked = false
	}
	b.next = b.now().Add(b.interval)
	return b.interval
}

// count is how many requests the MDM has answered as one that works.
func (b *breaker) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.successes
}
