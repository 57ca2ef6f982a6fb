package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// listener takes connections until it is stopped, and then those that the system has taken already: closing it at once would
// have them be reset, with the requests that are on them.
type listener struct {
	*net.TCPListener
	connections *connections
	secure      *tls.Config // nil: without TLS

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
		accepted, err := l.TCPListener.Accept()
		switch {
		case err == nil:
			if l.secure != nil {
				accepted = tls.Server(accepted, l.secure)
			}
			return &conn{Conn: accepted, of: l.connections}, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case stopping && last:
			return nil, errors.Join(net.ErrClosed, l.Close())
		}
	}
}

// Whoever can reach a port can open connections, and begin requests that never come. Both take memory before anybody is asked
// for a key.
const (
	// maxConnections is how many connections there are at most, and filesForOthers how many of the files that may be open are
	// kept from connections.
	maxConnections = 8192
	filesForOthers = 256
	// freeHead and freeLines are as much of a request's head (its first line and its headers) as everybody may send: more than
	// most. What is longer needs one of maxLongHeads places, and waits for it up to headPatience. A line takes memory beside
	// its octets, so there is no head of more than maxLines.
	freeHead     = 4 << 10
	freeLines    = 64
	maxHead      = 1 << 20 // POST /v1/notify can name much in its query
	maxLines     = 1000
	maxLongHeads = 64
	headPatience = 5 * time.Second
)

const (
	// calmAfter is how long nothing has to happen on connections for them to have no more requests, and newFor how long one
	// that is new is waited for to send its first.
	calmAfter = 50 * time.Millisecond
	newFor    = time.Second
)

// connectionLimit returns how many connections each of so many sites may have.
func connectionLimit(sites int) int {
	most := maxConnections
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil && files.Cur < maxConnections+filesForOthers {
		most = max(int(files.Cur)-filesForOthers, filesForOthers)
	}
	return most / sites
}

// heads bounds the long heads of requests that are being read, or answered.
type heads struct {
	places   chan struct{} // an element for each
	patience time.Duration
}

func newHeads(places int, patience time.Duration) *heads {
	return &heads{make(chan struct{}, places), patience}
}

// take waits for a place.
func (h *heads) take() bool {
	timer := time.NewTimer(h.patience)
	defer timer.Stop()
	select {
	case h.places <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

func (h *heads) giveBack() { <-h.places }

// connections are those of a site. Where one comes for which there is no room, those go that have waited for their clients
// for longest.
type connections struct {
	most    int
	heads   *heads
	dropped atomic.Int64 // because there was no room for them, or for their heads

	changedAt atomic.Int64 // in nanoseconds since 1970, as since below
	mu        sync.Mutex
	all       map[*conn]bool
}

func newConnections(most int, heads *heads) *connections {
	return &connections{most: most, heads: heads, all: map[*conn]bool{}}
}

// conn is a connection, above TLS where there is any: what is read from it is HTTP. What has no lock is of who reads it and
// tells of its state, one after the other.
type conn struct {
	net.Conn
	of    *connections
	state atomic.Int64 // an http.ConnState
	// since is when the state changed, or octets of the request under way were last waited for.
	since atomic.Int64
	// stuck counts those who wait until the client sends a request's body, or takes its answer.
	stuck atomic.Int64

	// head and lines are how many octets and lines there are of the head that is being read.
	head, lines          int
	lineBegun, headEnded bool
	long                 bool // has a place among the long heads
	refused              bool
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (n int, err error) {
	switch {
	case c.refused:
		return 0, errRefused
	case c.waits():
		if n, err = c.Conn.Read(b); err != nil {
			c.refusePlain(err)
			return n, err
		}
		return c.readHead(b[:n])
	case len(b) == 1:
		// So net/http finds out whether the client is still there while its request is answered.
		return c.Conn.Read(b)
	}
	c.since.Store(time.Now().UnixNano())
	c.stuck.Add(1)
	defer c.stuck.Add(-1)
	return c.Conn.Read(b)
}

// readHead counts what was read of a head.
func (c *conn) readHead(b []byte) (int, error) {
	c.countHead(b)
	ok := c.lines <= maxLines
	if ok && !c.long && (c.head > freeHead || c.lines > freeLines) {
		c.long = c.of.heads.take()
		ok = c.long
	}
	if !ok {
		c.refused = true
		c.of.dropped.Add(1)
		return 0, errRefused
	}
	return len(b), nil
}

// errRefused ends a connection, as if its head had not come in time. What is not the network's error, net/http takes for the
// client's, and answers.
var errRefused = os.ErrDeadlineExceeded

// countHead counts what of it is the head, which ends with an empty line.
func (c *conn) countHead(b []byte) {
	for len(b) > 0 && !c.headEnded {
		line, rest, ended := bytes.Cut(b, []byte{'\n'})
		c.head += len(b) - len(rest)
		c.lineBegun = c.lineBegun || len(bytes.TrimSuffix(line, []byte{'\r'})) > 0
		if ended {
			c.lines++
			c.headEnded = !c.lineBegun
			c.lineBegun = false
		}
		b = rest
	}
}

// refusePlain tells a client that speaks HTTP where TLS is spoken.
func (c *conn) refusePlain(err error) {
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && record.RecordHeader[0] >= 'A' && record.RecordHeader[0] <= 'Z' {
		_, _ = io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nthis address speaks HTTPS\n")
	}
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	c.since.Store(time.Now().UnixNano())
	c.stuck.Add(1)
	defer c.stuck.Add(-1)
	return c.Conn.Write(b)
}

// CloseWrite is for net/http, which has a client that still sends read its answer before the connection is closed.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// waits reports whether no request has come whole. net/http calls a connection new, or idle, until it has read the head of
// one.
func (c *conn) waits() bool {
	state := http.ConnState(c.state.Load())
	return state == http.StateNew || state == http.StateIdle
}

// expendable reports whether it is the client's turn.
func (c *conn) expendable() bool { return c.waits() || c.stuck.Load() > 0 }

// changed is for http.Server, which has got the connection from Accept of a listener.
func (c *connections) changed(of net.Conn, state http.ConnState) {
	conn, now := of.(*conn), time.Now().UnixNano()
	c.changedAt.Store(now)
	conn.since.Store(now)
	conn.state.Store(int64(state))
	if state == http.StateActive {
		return
	}
	conn.head, conn.lines, conn.lineBegun, conn.headEnded = 0, 0, false, false
	if conn.long { // what the head has become is there until its request is answered
		conn.long = false
		c.heads.giveBack()
	}
	switch state {
	case http.StateNew:
		c.add(conn)
	case http.StateClosed, http.StateHijacked:
		c.mu.Lock()
		delete(c.all, conn)
		c.mu.Unlock()
	}
}

// add notes a connection, and makes room for it.
func (c *connections) add(fresh *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[fresh] = true
	if len(c.all) <= c.most {
		return
	}
	var waiting []*conn
	for conn := range c.all {
		if conn.expendable() {
			waiting = append(waiting, conn)
		}
	}
	slices.SortFunc(waiting, func(a, b *conn) int { return cmp.Compare(a.since.Load(), b.since.Load()) })
	// Some more than one go, so that not every newcomer has all be looked through.
	for _, conn := range waiting[:max(1, min(len(waiting)/2, c.most/16))] {
		delete(c.all, conn)
		c.dropped.Add(1)
		_ = conn.Close() // its client may have
	}
}

// calm reports whether no request is under way, and none has been for a moment.
func (c *connections) calm() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now().UnixNano()
	for conn := range c.all {
		switch http.ConnState(conn.state.Load()) {
		case http.StateActive:
			return false
		case http.StateNew:
			if now-conn.since.Load() < int64(newFor) {
				return false
			}
		}
	}
	return now-c.changedAt.Load() >= int64(calmAfter)
}

// open returns how many there are.
func (c *connections) open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}
