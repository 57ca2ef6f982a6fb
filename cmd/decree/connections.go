package main

import (
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

const (
	// maxConnections is how many connections there are at most, since whoever can reach a port can open them. filesForOthers
	// is how many of the files that may be open are kept from connections.
	maxConnections = 8192
	filesForOthers = 256
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

// connections are those of a site. Where one comes for which there is no room, those go that have waited for their clients
// for longest.
type connections struct {
	most    int
	heads   *longHeads
	dropped atomic.Int64 // because there was no room for them, or for their heads

	changedAt atomic.Int64 // in nanoseconds since 1970, as since below
	mu        sync.Mutex
	all       map[*conn]bool
}

func newConnections(most int, heads *longHeads) *connections {
	return &connections{most: most, heads: heads, all: map[*conn]bool{}}
}

// conn is a connection, above TLS where there is any: what is read from it is HTTP. What has no lock is of who reads it and
// tells of its state, one after the other.
type conn struct {
	net.Conn          // the socket, or TLS above it
	socket   net.Conn // whose Close waits for nobody
	of       *connections
	state    atomic.Int64 // an http.ConnState
	// since is when the state changed, or octets of the request under way were last waited for.
	since atomic.Int64
	// stuck counts those who wait until the client sends a request's body, or takes its answer.
	stuck atomic.Int64

	head    head
	long    bool // has a place among the long heads
	refused bool
}

// newConn returns a connection over a socket. Without a TLS configuration it speaks HTTP.
func newConn(socket net.Conn, secure *tls.Config, of *connections) *conn {
	if secure == nil {
		return &conn{Conn: socket, socket: socket, of: of}
	}
	return &conn{Conn: tls.Server(socket, secure), socket: socket, of: of}
}

// drop ends a connection for which there is no room. Its client is told nothing: TLS would do that, and wait until that is
// taken, and for others who wait for the same.
func (c *conn) drop() {
	c.of.dropped.Add(1)
	_ = c.socket.Close() // its client may have
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (n int, err error) {
	switch {
	case c.refused:
		return 0, errRefused
	case c.waits():
		// TLS may have to write something before it has read, for which nobody else sets a deadline.
		_ = c.socket.SetWriteDeadline(time.Now().Add(idleTimeout + headTimeout))
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
	c.head.count(b)
	ok := !c.head.tooLong()
	if ok && !c.long && c.head.long() {
		c.long = c.of.heads.take(c)
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

// refusePlain tells a client that speaks HTTP where TLS is spoken.
func (c *conn) refusePlain(err error) {
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && record.RecordHeader[0] >= 'A' && record.RecordHeader[0] <= 'Z' {
		_, _ = io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nthis address speaks HTTPS\n")
	}
}

// pieceSize is of the pieces in which answers are written. Whoever takes one has not kept the server waiting since the one
// before.
const pieceSize = 64 << 10

// Write implements net.Conn.
func (c *conn) Write(b []byte) (written int, err error) {
	c.stuck.Add(1)
	defer c.stuck.Add(-1)
	for {
		c.since.Store(time.Now().UnixNano())
		n, err := c.Conn.Write(b[:min(len(b), pieceSize)])
		written, b = written+n, b[n:]
		if err != nil || len(b) == 0 {
			return written, err
		}
	}
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
		if conn.long {
			c.heads.came(conn)
		}
		return
	}
	conn.head = head{}
	if conn.long { // what the head has become is there until its request is answered
		conn.long = false
		c.heads.giveBack(conn)
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
		conn.drop()
	}
}

// cut ends connections at once: those on which no request has come whole, or all.
func (c *connections) cut(all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.all {
		if all || conn.waits() {
			_ = conn.socket.Close() // its client may have
		}
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
