package main

import (
	"bytes"
	"sync"
	"time"
)

// Whoever can reach a port can begin requests that never come, whose heads (the first line and the headers) take memory before
// anybody is asked for a key.
const (
	// freeHead and freeLines are as much of a head as everybody may send: more than most. What is longer needs one of
	// maxLongHeads places, and waits for it up to headPatience. A line takes memory beside its octets, so there is no head of
	// more than maxLines.
	freeHead     = 4 << 10
	freeLines    = 64
	maxHead      = 1 << 20 // POST /v1/notify can name much in its query
	maxLines     = 1000
	maxLongHeads = 64
	headPatience = 5 * time.Second
)

// head counts what was read of a request's head.
type head struct {
	octets, lines int
	lineBegun     bool // of the line that is being read something was counted, and
	begun         bool // of some line before it
	ended         bool
}

// count counts what of b is the head, which ends with an empty line. The beginning may have come with the request before,
// uncounted, so that an empty line that comes first ends nothing; nor does one before the head, which is allowed.
func (h *head) count(b []byte) {
	for len(b) > 0 && !h.ended {
		line, rest, lineEnded := bytes.Cut(b, []byte{'\n'})
		h.octets += len(b) - len(rest)
		h.lineBegun = h.lineBegun || len(bytes.TrimSuffix(line, []byte{'\r'})) > 0
		if lineEnded {
			h.lines++
			h.ended = h.begun && !h.lineBegun
			h.begun = h.begun || h.lineBegun
			h.lineBegun = false
		}
		b = rest
	}
}

func (h *head) long() bool    { return h.octets > freeHead || h.lines > freeLines }
func (h *head) tooLong() bool { return h.lines > maxLines }

// longHeads bounds the long heads of requests that are being read, or answered. Where one comes for which there is no place,
// that goes which has been coming for longest.
type longHeads struct {
	places   chan struct{} // an element for each
	patience time.Duration

	mu     sync.Mutex
	coming map[*conn]time.Time // those with a place whose head has not come whole, and when they got it
}

func newLongHeads(places int, patience time.Duration) *longHeads {
	return &longHeads{places: make(chan struct{}, places), patience: patience, coming: map[*conn]time.Time{}}
}

// take waits for a place.
func (l *longHeads) take(c *conn) bool {
	select {
	case l.places <- struct{}{}:
	default:
		l.displace()
		timer := time.NewTimer(l.patience)
		defer timer.Stop()
		select {
		case l.places <- struct{}{}:
		case <-timer.C:
			return false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.coming[c] = time.Now()
	return true
}

// displace drops the one that has been coming for longest, if there is any.
func (l *longHeads) displace() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var slowest *conn
	for c, since := range l.coming {
		if slowest == nil || since.Before(l.coming[slowest]) {
			slowest = c
		}
	}
	if slowest != nil {
		delete(l.coming, slowest)
		slowest.drop()
	}
}

// came notes that a head has come whole.
func (l *longHeads) came(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.coming, c)
}

func (l *longHeads) giveBack(c *conn) {
	l.came(c)
	<-l.places
}
