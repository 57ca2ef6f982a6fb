package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/decree-ddm/decree/http/api"
	"github.com/decree-ddm/decree/http/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/http/webhook"
	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/notifier/micromdm"
	"github.com/decree-ddm/decree/notifier/nanomdm"
	"github.com/decree-ddm/decree/storage/compositor"
	"github.com/decree-ddm/decree/storage/mysql"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// shutdownTimeout is how long requests under way may take when the program stops.
const shutdownTimeout = 8 * time.Second

// program is the running server.
type program struct {
	logger   *slog.Logger
	listener net.Listener
	http     *http.Server
	notifier *notifier.Notifier
	store    *sqlstore.Store
	closers  []io.Closer
	// failed gets the error that ends the server, if it ends by itself.
	failed chan error
}

// start opens the database and begins to serve. The program runs until stop, whatever becomes of the context.
func start(ctx context.Context, config *config, stdout, stderr io.Writer) (p *program, err error) {
	level := slog.LevelInfo
	if config.debug {
		level = slog.LevelDebug
	}
	p = &program{
		logger: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})),
		failed: make(chan error, 1),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	if p.store, err = openStore(ctx, config, p.logger); err != nil {
		return p, err
	}
	composer := compositor.New(p.store, compositor.Options{Shard: config.shard})
	if p.notifier, err = newNotifier(config, p.store, composer, p.logger); err != nil {
		return p, err
	}
	dump, err := p.statusDump(config.dumpStatus, stdout)
	if err != nil {
		return p, err
	}

	mux := edge.NewMux(p.logger)
	api.Register(mux, api.Config{
		Store: p.store, Compositor: composer, Key: config.apiKey,
		CORSOrigin: config.corsOrigin, Version: version, Wake: p.notifier.Wake,
		Breaker: p.breaker(config), Rate: p.rate(config),
	})
	ddm.Register(mux, ddm.Config{
		Store: p.store, Compositor: composer, DumpStatus: dump,
		VerifyKey: config.dmVerifyKey, SignKey: config.dmSignKey,
	})
	sets, err := parseEnrollSets(config.enrollSets)
	if err != nil {
		return p, err
	}
	if config.webhookKey == "" {
		p.logger.Info("there is no -webhook-hmac-key: events at /webhook are believed, whoever sends them")
	}
	webhook.Register(mux, webhook.Config{
		Store: p.store, Key: config.webhookKey, Wake: p.notifier.Wake,
		EnrollSets: sets.of, RemoveSets: config.checkoutSets == "remove",
	})
	p.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 20, // POST /v1/notify can name much in its query
		ErrorLog:          slog.NewLogLogger(p.logger.Handler(), slog.LevelDebug),
	}
	if p.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", config.listen); err != nil {
		return p, err
	}
	p.notifier.Start()
	go func() {
		if err := p.http.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
			p.failed <- err
		}
	}()
	p.logger.Info("listening", "address", p.listener.Addr().String(), "version", version, "storage", config.storage)
	return p, nil
}

// openStore opens the database.
func openStore(ctx context.Context, config *config, logger *slog.Logger) (*sqlstore.Store, error) {
	options, err := config.storeOptions()
	if err != nil {
		return nil, err
	}
	options.Logger = logger
	open := sqlite.Open
	if config.storage == "mysql" {
		open = mysql.Open
	}
	store, err := open(ctx, config.storageDSN, options)
	if err != nil {
		return nil, fmt.Errorf("-storage %s: %w", config.storage, err)
	}
	return store, nil
}

// newNotifier returns the notifier, which tells nobody when no MDM is named.
func newNotifier(
	config *config, store *sqlstore.Store, composer *compositor.Compositor, logger *slog.Logger,
) (*notifier.Notifier, error) {
	settings := notifier.Config{
		Queue: store, Compositor: composer, Logger: logger, Check: config.notify.interval,
		Rate: config.notify.rate, Batch: config.notify.batch, Workers: config.notify.workers,
	}
	if config.enqueueURL == "" {
		logger.Warn("there is no -enqueue: devices are not told of changes, and see them when they ask by themselves")
		return notifier.New(settings), nil
	}
	var err error
	if config.microMDM {
		settings.Batch = 1
		settings.MDM, err = micromdm.New(config.enqueueURL, config.enqueueKey)
	} else {
		settings.MDM, err = nanomdm.New(config.enqueueURL, config.enqueueKey)
	}
	if err != nil {
		return nil, fmt.Errorf("-enqueue: %w", err)
	}
	return notifier.New(settings), nil
}

// breaker returns what tells whether the MDM is taken to be down, or nil when none is named.
func (p *program) breaker(config *config) func() (bool, int, time.Time) {
	if config.enqueueURL == "" {
		return nil
	}
	return func() (open bool, failures int, nextProbe time.Time) {
		state := p.notifier.Breaker()
		return state.Open, state.Failures, state.NextProbe
	}
}

// rate returns what tells how fast devices are told, or nil when no MDM is named.
func (p *program) rate(config *config) func() float64 {
	if config.enqueueURL == "" {
		return nil
	}
	return p.notifier.Rate
}

// statusDump returns what writes status reports to the file of that name, a line each.
func (p *program) statusDump(name string, stdout io.Writer) (func(string, []byte), error) {
	if name == "" {
		return nil, nil
	}
	output := stdout
	if name != "-" {
		file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("-dump-status: %w", err)
		}
		p.closers = append(p.closers, file)
		output = file
	}
	var mu sync.Mutex
	return func(enrollmentID string, report []byte) {
		var line bytes.Buffer
		if json.Compact(&line, report) == nil {
			line.WriteByte('\n')
		} else {
			// What is no JSON may hold line breaks, and look like several reports: it becomes one string.
			line.Reset()
			_ = json.NewEncoder(&line).Encode(string(report)) // never fails, and ends the line
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := output.Write(line.Bytes()); err != nil {
			p.logger.Error("dumping a status report failed", "enrollment_id", enrollmentID, "error", err)
		}
	}, nil
}

// stop ends what start began, in order: no new requests, those under way answered, the notifier, the database.
func (p *program) stop() error {
	var errs []error
	if p.listener != nil {
		p.logger.Info("stopping")
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if err := p.http.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("some requests were cut off: %w", err), p.http.Close())
		}
	}
	if p.notifier != nil {
		p.notifier.Stop()
	}
	if p.store != nil {
		errs = append(errs, p.store.Close())
	}
	for _, closer := range p.closers {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}
