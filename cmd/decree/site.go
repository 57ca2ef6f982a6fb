package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/decree-ddm/decree/http/edge"
)

const (
	// headTimeout is how long a request's head may take to come, and idleTimeout how long none has to begin.
	headTimeout = 10 * time.Second
	idleTimeout = 2 * time.Minute
	// farewell is how long clients may take to hear that the server is being stopped.
	farewell = time.Second
)

// site is an address and what is served there.
type site struct {
	flag     string // that names the address
	address  string
	mux      *edge.Mux
	secure   *tls.Config // nil: without TLS
	server   *http.Server
	listener *listener // nil before listen
	logger   *slog.Logger

	// stopping has every answer be the last of its connection.
	stopping    atomic.Bool
	connections *connections
}

// sites are where the server listens. Those that have no address of their own are the first.
type sites struct {
	main    *site // the API
	ddm     *site // what the MDM asks for
	metrics *site // what those who watch servers ask for
	bodies  *edge.Bodies
	// stopping is closed when the sites are being stopped.
	stopping chan struct{}
}

// newSites returns the sites, which do not listen yet. Without a TLS configuration they speak HTTP.
func newSites(config listenConfig, secure *tls.Config, logger *slog.Logger) sites {
	count := 1
	for _, address := range []string{config.ddm, config.metrics} {
		if address != "" {
			count++
		}
	}
	newSite := func(flag, address string) *site {
		room := newConnections(connectionLimit(count), newLongHeads(maxLongHeads/count, headPatience))
		return newSite(flag, address, secure, room, logger)
	}
	first := newSite("-listen", config.address)
	all := sites{main: first, ddm: first, metrics: first, bodies: edge.NewBodies(), stopping: make(chan struct{})}
	if config.ddm != "" {
		all.ddm = newSite("-listen-ddm", config.ddm)
	}
	if config.metrics != "" {
		all.metrics = newSite("-listen-metrics", config.metrics)
	}
	for _, site := range all.all() {
		site.mux.ShareBodies(all.bodies)
	}
	return all
}

func newSite(flag, address string, secure *tls.Config, connections *connections, logger *slog.Logger) *site {
	mux := edge.NewMux(logger)
	// The limits below are those of HTTP/1: in HTTP/2 one connection can do what they keep many from.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	s := &site{flag: flag, address: address, mux: mux, secure: secure, connections: connections, logger: logger}
	s.server = &http.Server{
		Handler:           mux,
		Protocols:         &protocols,
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHead,
		// OPTIONS * is a request like others, which is logged and counted.
		DisableGeneralOptionsHandler: true,

		ErrorLog:  slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ConnState: connections.changed,
	}
	mux.Before(func(w http.ResponseWriter, _ *http.Request) {
		if s.stopping.Load() {
			w.Header().Set("Connection", "close")
		}
	})
	return s
}

// all returns each site once.
func (s sites) all() []*site {
	all := []*site{s.main}
	if s.ddm != s.main {
		all = append(all, s.ddm)
	}
	if s.metrics != s.main {
		all = append(all, s.metrics)
	}
	return all
}

// connectionStats returns how many connections there are at all sites, and how many were dropped.
func (s sites) connectionStats() (open int, dropped int64) {
	for _, site := range s.all() {
		open += site.connections.open()
		dropped += site.connections.dropped.Load()
	}
	return open, dropped
}

// listen opens the port of every site, so that none is served if one of them cannot be.
func (s sites) listen(ctx context.Context) error {
	for _, site := range s.all() {
		opened, err := (&net.ListenConfig{}).Listen(ctx, "tcp", site.address)
		if err != nil {
			return fmt.Errorf("%s: %w", site.flag, err)
		}
		site.listener = &listener{TCPListener: opened.(*net.TCPListener), connections: site.connections, secure: site.secure}
	}
	return nil
}

// serve answers requests until the server is shut down. What ends it otherwise is an error.
func (s *site) serve() error {
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) && !s.stopping.Load() {
		return err
	}
	return nil
}

// stop answers the requests under way, and takes no more connections. Shutting down a server would drop a request that has
// come and was not read yet, so that comes last.
func (s *site) stop(ctx context.Context) error {
	if s.listener == nil {
		return nil
	}
	s.stopping.Store(true)
	s.listener.stop()
	ticker := time.NewTicker(calmAfter / 10)
	defer ticker.Stop()
	for !s.connections.calm() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	// Shutting down says goodbye to one after the other, and some may not listen.
	defer time.AfterFunc(farewell, func() { s.connections.cut(false) }).Stop()
	defer context.AfterFunc(ctx, func() { s.connections.cut(true) })()
	var errs []error
	if err := s.server.Shutdown(ctx); err != nil {
		// They had their time. That they did not use it is no failure of the server's.
		s.logger.Warn("requests are cut off: they take too long", "address", s.address, "error", err)
		errs = append(errs, s.server.Close())
	}
	// A server closes only what it has begun to serve.
	if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// stop stops all sites at once.
func (s sites) stop(ctx context.Context) error {
	s.bodies.Stop()
	close(s.stopping)
	var stops []chan error
	for _, site := range s.all() {
		stopped := make(chan error, 1)
		stops = append(stops, stopped)
		go func() { stopped <- site.stop(ctx) }()
	}
	var errs []error
	for _, stopped := range stops {
		errs = append(errs, <-stopped)
	}
	return errors.Join(errs...)
}

// secure returns the TLS configuration of the sites, whose certificate is read again when it is renewed, or nil where
// there is none.
func (p *program) secure(config tlsConfig) (*tls.Config, error) {
	if config.certificate == "" {
		return nil, nil
	}
	var current atomic.Pointer[tls.Certificate]
	err := p.reload("-tls-cert and -tls-key", func(contents [][]byte) error {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err == nil {
			current.Store(&pair)
		}
		return err
	}, config.certificate, config.key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
	}, nil
}
