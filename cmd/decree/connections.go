package main

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
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
	changedAt atomic.Int64 // in nanoseconds since 1970, as since below
	all       sync.Map     // of *connState, by net.Conn
}

type connState struct {
	state atomic.Int64 // an http.ConnState
	since atomic.Int64
}

// changed is for http.Server.
func (c *connStates) changed(conn net.Conn, state http.ConnState) {
	now := time.Now().UnixNano()
	c.changedAt.Store(now)
	switch known, ok := c.all.Load(conn); {
	case state == http.StateClosed || state == http.StateHijacked:
		c.all.Delete(conn)
	case ok:
		known := known.(*connState)
		known.since.Store(now)
		known.state.Store(int64(state))
	default:
		fresh := &connState{}
		fresh.since.Store(now)
		fresh.state.Store(int64(state))
		c.all.Store(conn, fresh)
	}
}

// calm reports whether no request is under way, and none has been for a moment.
func (c *connStates) calm() bool {
	now := time.Now().UnixNano()
	busy := false
	c.all.Range(func(_, value any) bool {
		conn := value.(*connState)
		switch http.ConnState(conn.state.Load()) {
		case http.StateActive:
			busy = true
		case http.StateNew:
			busy = now-conn.since.Load() < int64(newFor)
		}
		return !busy
	})
	return !busy && now-c.changedAt.Load() >= int64(calmAfter)
}
