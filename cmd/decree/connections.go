package main

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// listener takes connections until it is stopped, and then those that the system has taken already: closing it at once would
// have them be reset, with the requests that are on them.
type listener struct {
	*net.TCPListener

	mu    sync.Mutex
	until time.Time // not zero: it is being stopped, and takes none after this
}

const (
	// noMore is for how long no connection comes where the system has no more, and stopWithin how long that is waited for.
	noMore     = 2 * time.Millisecond
	stopWithin = 500 * time.Millisecond
)

// stop has the listener close itself soon.
func (l *listener) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Now().Add(stopWithin)
	_ = l.SetDeadline(time.Now()) // one that is closed already has none
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for last := false; ; last = true {
		l.mu.Lock()
		until := l.until
		if !until.IsZero() {
			_ = l.SetDeadline(time.Now().Add(noMore))
		}
		l.mu.Unlock()
		stopping := !until.IsZero()
		if stopping && time.Now().After(until) {
			return nil, errors.Join(net.ErrClosed, l.Close())
		}
		conn, err := l.TCPListener.Accept()
		switch {
		case err == nil || !errors.Is(err, os.ErrDeadlineExceeded):
			return conn, err
		case stopping && last:
			return nil, errors.Join(net.ErrClosed, l.Close())
		}
	}
}

const (
	// calmAfter is how long nothing has to happen on connections for them to have no more requests, and newFor how long one
	// that is new is waited for to send its first.
	calmAfter = 50 * time.Millisecond
	newFor    = time.Second
)

// connStates knows what the connections of a server are at. The zero value is ready.
type connStates struct {
	mu        sync.Mutex
	changedAt time.Time
	active    map[net.Conn]time.Time // since when; new ones too, and not those that wait for a request
	fresh     map[net.Conn]bool      // those that are new
}

// changed is for http.Server.
func (c *connStates) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active == nil {
		c.active, c.fresh = map[net.Conn]time.Time{}, map[net.Conn]bool{}
	}
	c.changedAt = time.Now()
	delete(c.fresh, conn)
	switch state {
	case http.StateNew:
		c.active[conn], c.fresh[conn] = c.changedAt, true
	case http.StateActive:
		c.active[conn] = c.changedAt
	default:
		delete(c.active, conn)
	}
}

// calm reports whether no request is under way, and none has been for a moment.
func (c *connStates) calm() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for conn, since := range c.active {
		if !c.fresh[conn] || now.Sub(since) < newFor {
			return false
		}
	}
	return now.Sub(c.changedAt) >= calmAfter
}
