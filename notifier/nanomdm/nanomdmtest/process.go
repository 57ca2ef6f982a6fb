package nanomdmtest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/micromdm/nanomdm/storage"
)

// process is one run of NanoMDM, from its start to its kill.
type process struct {
	store      storage.AllStorage
	closeStore func() error
	outbound   *outbound
	handler    atomic.Value // of handlerBox
	httpServer *http.Server
	cancel     context.CancelFunc
	served     chan struct{}

	mutex    sync.Mutex
	killed   bool
	requests sync.WaitGroup
}

// handlerBox lets handlers of different types share an atomic.Value.
type handlerBox struct{ http.Handler }

func startProcess(
	listener net.Listener, handler http.Handler, store storage.AllStorage, closeStore func() error, outbound *outbound,
) *process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{
		store: store, closeStore: closeStore, outbound: outbound, cancel: cancel, served: make(chan struct{}),
	}
	p.setHandler(handler)
	p.httpServer = &http.Server{
		Handler:           p,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(io.Discard, "", 0),
	}

	go func() {
		defer close(p.served)
		// The error says that the server was closed, which kill does.
		_ = p.httpServer.Serve(listener)
	}()

	return p
}

func (p *process) setHandler(handler http.Handler) { p.handler.Store(handlerBox{handler}) }

// ServeHTTP serves with the present handler and keeps count of the requests, so
// that kill can wait for them to notice.
func (p *process) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	p.mutex.Lock()
	killed := p.killed
	if !killed {
		p.requests.Add(1)
	}
	p.mutex.Unlock()

	if killed {
		panic(http.ErrAbortHandler)
	}
	defer p.requests.Done()

	p.handler.Load().(handlerBox).ServeHTTP(writer, request)
}

// kill closes the listener and all connections at once and returns when
// nothing of the process works on the storage any more.
func (p *process) kill() error {
	p.mutex.Lock()
	p.killed = true
	p.mutex.Unlock()

	p.cancel()
	err := p.httpServer.Close()
	p.outbound.close()
	<-p.served
	p.requests.Wait()

	return errors.Join(err, p.closeStore())
}

// outbound is the client of NanoMDM's own requests. Its connections can be cut
// in the middle of a request.
type outbound struct {
	client    *http.Client
	transport *http.Transport

	mutex       sync.Mutex
	closed      bool
	connections map[*outboundConnection]struct{}
}

type outboundConnection struct {
	net.Conn
	owner *outbound
}

func newOutbound() *outbound {
	o := &outbound{connections: make(map[*outboundConnection]struct{})}
	o.transport = http.DefaultTransport.(*http.Transport).Clone()
	dial := o.transport.DialContext
	o.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}

		return o.add(connection)
	}
	o.client = &http.Client{Transport: o.transport}

	return o
}

func (o *outbound) add(connection net.Conn) (net.Conn, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()

	if o.closed {
		return nil, errors.Join(net.ErrClosed, connection.Close())
	}

	tracked := &outboundConnection{Conn: connection, owner: o}
	o.connections[tracked] = struct{}{}

	return tracked, nil
}

func (o *outbound) close() {
	o.mutex.Lock()
	o.closed = true
	open := o.connections
	o.connections = make(map[*outboundConnection]struct{})
	o.mutex.Unlock()

	for connection := range open {
		_ = connection.Conn.Close()
	}

	o.transport.CloseIdleConnections()
}

// Close closes the connection and forgets it.
func (c *outboundConnection) Close() error {
	c.owner.mutex.Lock()
	delete(c.owner.connections, c)
	c.owner.mutex.Unlock()

	return c.Conn.Close()
}

// listen listens on the address. A port that was given up a moment ago can
// briefly be taken by an outgoing connection: it tries for a few seconds.
func listen(address string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()

	for {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return listener, err
		}

		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}
