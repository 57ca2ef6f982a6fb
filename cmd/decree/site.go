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

// site is an address and what is served there.
type site struct {
	flag     string // that names the address
	address  string
	mux      *edge.Mux
	server   *http.Server
	listener net.Listener // nil before listen
	logger   *slog.Logger

	// changedAt is when a connection last came, went, or began or ended a request, in nanoseconds since 1970.
	changedAt atomic.Int64
	// draining has every answer be the last of its connection.
	draining atomic.Bool
}

// sites are where the server listens. Those that have no address of their own are the first.
type sites struct {
	main    *site // the API
	ddm     *site // what the MDM asks for
	metrics *site // what those who watch servers ask for
	bodies  *edge.Bodies
}

// newSites returns the sites, which do not listen yet. Without a TLS configuration they speak HTTP.
func newSites(config listenConfig, secure *tls.Config, logger *slog.Logger) sites {
	first := newSite("-listen", config.address, secure, logger)
	all := sites{main: first, ddm: first, metrics: first, bodies: edge.NewBodies()}
	if config.ddm != "" {
		all.ddm = newSite("-listen-ddm", config.ddm, secure, logger)
	}
	if config.metrics != "" {
		all.metrics = newSite("-listen-metrics", config.metrics, secure, logger)
	}
	for _, site := range all.all() {
		site.mux.ShareBodies(all.bodies)
	}
	return all
}

func newSite(flag, address string, secure *tls.Config, logger *slog.Logger) *site {
	mux := edge.NewMux(logger)
	// The limits below are those of HTTP/1: in HTTP/2 one connection can do what they keep many from.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	s := &site{flag: flag, address: address, mux: mux, logger: logger}
	s.server = &http.Server{
		Handler:           mux,
		Protocols:         &protocols,
		TLSConfig:         secure.Clone(), // each server adds to its own
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 20, // POST /v1/notify can name much in its query
		// OPTIONS * is a request like others, which is logged and counted.
		DisableGeneralOptionsHandler: true,

		ErrorLog:  slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ConnState: func(net.Conn, http.ConnState) { s.changedAt.Store(time.Now().UnixNano()) },
	}
	mux.Before(func(w http.ResponseWriter, _ *http.Request) {
		if s.draining.Load() {
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

// listen opens the port of every site, so that none is served if one of them cannot be.
func (s sites) listen(ctx context.Context) error {
	for _, site := range s.all() {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", site.address)
		if err != nil {
			return fmt.Errorf("%s: %w", site.flag, err)
		}
		site.listener = listener
	}
	return nil
}

// serve answers requests until the server is shut down. What ends it otherwise is an error.
func (s *site) serve() error {
	serve := s.server.Serve
	if s.server.TLSConfig != nil {
		// The certificate is in the configuration, since it changes.
		serve = func(listener net.Listener) error { return s.server.ServeTLS(listener, "", "") }
	}
	if err := serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

const (
	// drainQuiet is how long no connection has had anything to do when there are no more requests to expect on those that
	// are open, and drainTimeout how long that is waited for.
	drainQuiet   = 50 * time.Millisecond
	drainTimeout = time.Second
)

// drain has clients close their connections, with the next answer. Shutting down closes those that wait for a request, and a
// client may be about to send one.
func (s *site) drain(ctx context.Context) {
	s.draining.Store(true)
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	ticker := time.NewTicker(drainQuiet / 10)
	defer ticker.Stop()
	for time.Now().UnixNano()-s.changedAt.Load() < int64(drainQuiet) {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// stop answers the requests under way, and takes no more.
func (s *site) stop(ctx context.Context) error {
	if s.listener == nil {
		return nil
	}
	s.drain(ctx)
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
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
	}, nil
}
