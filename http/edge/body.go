package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Bodies bounds the memory that requests' bodies take, over all muxes that share it. A body is counted from when it is read
// until its request is answered, since what is made of it takes memory too.
//
// Nobody holds what was not asked for: the first octets of each body, which is all of most, are free, and so many that a
// connection takes as much anyway. Small bodies have room of their own, and never wait for large ones. Each waits for as much
// as it says it is, or could be, so that no two wait for what the other one has. From then on it has to come at some speed,
// and where somebody waits for room at once, so that nobody keeps the room by sending slowly.
type Bodies struct {
	small, large *semaphore.Weighted
	limit        int64
	// patience is how long a body waits for room. Beside what it takes at bodySpeed, it has grace to come, pressed where
	// somebody waits for room; and stopGrace in all when the server is being stopped.
	patience, grace, pressed, stopGrace time.Duration

	held, refused atomic.Int64
	stopping      context.Context
	stop          context.CancelFunc

	mu      sync.Mutex
	reading map[*bodyReader]bool // those that have room and are not at their end
	waiting map[*semaphore.Weighted]int
}

const (
	// freeBody is as much of a body as is not counted, and smallBody the size of the largest that is small.
	freeBody  = 4 << 10
	smallBody = 64 << 10
	// smallRoom and largeRoom are for all small bodies and for all others at once. One of the largest size there is, 32 MiB,
	// must fit in.
	smallRoom = 32 << 20
	largeRoom = 48 << 20
	// bodySpeed is how many octets of what is counted have to come in a second, beside bodyGrace. What is not counted, or
	// nobody reads, has to come within bodyGrace.
	bodySpeed = 1 << 20
	bodyGrace = 10 * time.Second
)

// NewBodies returns room for bodies.
func NewBodies() *Bodies { return newBodies(smallRoom, largeRoom) }

func newBodies(small, large int64) *Bodies {
	b := &Bodies{
		small: semaphore.NewWeighted(small), large: semaphore.NewWeighted(large), limit: small + large,
		patience: 5 * time.Second, grace: bodyGrace, pressed: time.Second, stopGrace: 3 * time.Second,
		reading: map[*bodyReader]bool{}, waiting: map[*semaphore.Weighted]int{},
	}
	b.stopping, b.stop = context.WithCancel(context.Background())
	return b
}

// BodyStats is what bodies take now, what they may take, and how many were refused because there was no room.
type BodyStats struct{ Held, Limit, Refused int64 }

// Stats returns the numbers.
func (b *Bodies) Stats() BodyStats {
	return BodyStats{Held: b.held.Load(), Limit: b.limit, Refused: b.refused.Load()}
}

// Stop has who has not sent its body yet send it soon, or be refused.
func (b *Bodies) Stop() { b.stop() }

// room is what a body takes.
type room struct {
	bodies *Bodies
	of     *semaphore.Weighted
	octets int64
}

// take waits for room.
func (b *Bodies) take(ctx context.Context, of *semaphore.Weighted, octets int64) (*room, error) {
	bounded, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	if of.TryAcquire(octets) {
		b.held.Add(octets)
		return &room{b, of, octets}, nil
	}
	b.wait(of, 1)
	defer b.wait(of, -1)
	if err := of.Acquire(bounded, octets); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		b.refused.Add(1)
		return nil, NewError(http.StatusServiceUnavailable, "too many large bodies come at once; try again")
	}
	b.held.Add(octets)
	return &room{b, of, octets}, nil
}

// wait notes that more or less wait for room. While somebody does, who has room is to send its body soon.
func (b *Bodies) wait(of *semaphore.Weighted, more int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[of] += more
	if more > 0 {
		for r := range b.reading {
			b.press(r)
		}
	}
}

// press bounds the time of a body anew if somebody waits for its room. The caller holds the mutex.
func (b *Bodies) press(r *bodyReader) {
	if has := r.event.room; b.waiting[has.of] > 0 && !r.isPressed {
		r.isPressed = true
		r.within(b.pressed + atSpeed(has.octets-r.got.Load()))
	}
}

// atSpeed is how long so many octets may take.
func atSpeed(octets int64) time.Duration { return time.Duration(octets) * time.Second / bodySpeed }

func (r *room) giveBack() {
	if r == nil {
		return
	}
	r.of.Release(r.octets)
	r.bodies.held.Add(-r.octets)
}

// ReadBody reads a request's body of at most limit bytes. A longer one is refused at once if it says so. Read again, it is
// the same.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	event := EventOf(r.Context())
	if event.body != nil {
		return event.body, nil
	}
	b := event.bodies
	if b == nil {
		b = NewBodies()
	}
	reading := &bodyReader{
		Bodies: b, event: event, ctx: r.Context(), source: http.MaxBytesReader(w, r.Body, limit), length: r.ContentLength,
		limit: limit, control: http.NewResponseController(w),
	}
	cut := context.AfterFunc(b.stopping, func() { reading.stopWithin(b.stopGrace) })
	body, err := reading.read()
	cut()
	reading.finish(err == nil)
	var tooLarge *http.MaxBytesError
	var refused *Error
	switch {
	case err == nil:
		event.body = body
		return body, nil
	case errors.As(err, &tooLarge), errors.As(err, &refused), errors.Is(err, context.Canceled):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded): // which ends the request's context too
		w.Header().Set("Connection", "close")
		return nil, NewError(http.StatusRequestTimeout, "the body did not come in time")
	}
	return nil, NewError(http.StatusBadRequest, "the body could not be read to its end")
}

// bodyReader reads one body.
type bodyReader struct {
	*Bodies
	event   *Event
	ctx     context.Context
	source  io.Reader
	length  int64 // -1: unknown
	limit   int64
	control *http.ResponseController

	got       atomic.Int64 // octets
	isPressed bool         // guarded by Bodies.mu

	deadlineMu sync.Mutex
	deadline   time.Time // zero: bodyGrace after the request came
	last       time.Time // not zero: the server is being stopped, and no deadline is after this
	finished   bool
}

// within bounds how long the rest of the body may take to come, from now on, if it is not bounded to less.
func (r *bodyReader) within(d time.Duration) {
	r.deadlineMu.Lock()
	defer r.deadlineMu.Unlock()
	if deadline := time.Now().Add(d); r.deadline.IsZero() || deadline.Before(r.deadline) {
		r.setDeadline(deadline)
	}
}

// renew gives the rest of the body so long, whatever it was bounded to before.
func (r *bodyReader) renew(d time.Duration) {
	r.deadlineMu.Lock()
	defer r.deadlineMu.Unlock()
	deadline := time.Now().Add(d)
	if !r.last.IsZero() && r.last.Before(deadline) {
		deadline = r.last
	}
	r.setDeadline(deadline)
}

// stopWithin is within, and for good.
func (r *bodyReader) stopWithin(d time.Duration) {
	r.deadlineMu.Lock()
	r.last = time.Now().Add(d)
	r.deadlineMu.Unlock()
	r.within(d)
}

// setDeadline is for those who hold the mutex.
func (r *bodyReader) setDeadline(deadline time.Time) {
	if r.finished {
		return
	}
	r.deadline = deadline
	_ = r.control.SetReadDeadline(deadline) // what is no connection, as in tests, has none
}

// finish takes the bound away again where the body is there. The server reads on while the request is answered, to see
// whether the client is still there, and a deadline would look as if it were not.
func (r *bodyReader) finish(whole bool) {
	r.Bodies.mu.Lock()
	delete(r.reading, r)
	r.Bodies.mu.Unlock()
	r.deadlineMu.Lock()
	defer r.deadlineMu.Unlock()
	r.finished = true
	if whole {
		_ = r.control.SetReadDeadline(time.Time{})
	}
}

func (r *bodyReader) read() ([]byte, error) {
	size := int64(freeBody)
	if r.length >= 0 {
		size = min(size, r.length)
	}
	body, end, err := r.fill(make([]byte, 0, size))
	if err != nil || end {
		return body, err
	}
	if r.length >= 0 {
		return r.readKnown(body)
	}
	return r.readUnknown(body)
}

// readKnown reads the rest of a body whose length is known.
func (r *bodyReader) readKnown(begun []byte) ([]byte, error) {
	of := r.small
	if r.length > smallBody {
		of = r.large
	}
	if err := r.take(of, r.length); err != nil {
		return nil, err
	}
	body, _, err := r.fill(append(make([]byte, 0, r.length), begun...))
	return body, err
}

// readUnknown reads the rest of a body of any length: as a small one first, then as one that may be of the largest size.
func (r *bodyReader) readUnknown(body []byte) ([]byte, error) {
	if err := r.take(r.small, min(smallBody, r.limit)); err != nil {
		return nil, err
	}
	body, end, err := r.fill(append(make([]byte, 0, min(smallBody, r.limit+1)), body...))
	if err != nil || end {
		return body, err
	}
	if err := r.take(r.large, r.limit); err != nil {
		return nil, err
	}
	for !end && err == nil {
		// Past the limit there is an error, so that the end is found.
		body, end, err = r.fill(append(make([]byte, 0, min(2*int64(len(body)), r.limit+1)), body...))
	}
	return body, err
}

// take takes room for the body, instead of what it has, and bounds the time for the rest. While the body waits for room it
// is not its client that is slow.
func (r *bodyReader) take(of *semaphore.Weighted, octets int64) error {
	r.Bodies.mu.Lock()
	delete(r.reading, r)
	r.Bodies.mu.Unlock()
	room, err := r.Bodies.take(r.ctx, of, octets)
	if err != nil {
		return err
	}
	r.Bodies.mu.Lock()
	r.event.room.giveBack()
	r.event.room, r.reading[r], r.isPressed = room, true, false
	r.renew(r.grace + atSpeed(octets))
	r.press(r)
	r.Bodies.mu.Unlock()
	return nil
}

// fill reads until there is no room in the buffer, or the body is at its end.
func (r *bodyReader) fill(body []byte) (filled []byte, end bool, err error) {
	for int64(len(body)) != r.length {
		if len(body) == cap(body) {
			return body, false, nil
		}
		n, err := r.source.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		r.got.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return body, true, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	return body, true, nil
}
