package main

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
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
			return newConn(accepted, l.secure, l.connections), nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case stopping && last:
			return nil, errors.Join(net.ErrClosed, l.Close())
		}
	}
}
