package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/decree-ddm/decree/cmd/decree/metric"
	"github.com/decree-ddm/decree/http/api"
	"github.com/decree-ddm/decree/http/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/http/webhook"
	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/notifier/eventlog"
	"github.com/decree-ddm/decree/notifier/micromdm"
	"github.com/decree-ddm/decree/notifier/nanomdm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/census"
	"github.com/decree-ddm/decree/storage/compositor"
	"github.com/decree-ddm/decree/storage/mysql"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
	"github.com/decree-ddm/decree/storage/summarizer"
	"github.com/decree-ddm/decree/storage/watcher"
)

const (
	// shutdownTimeout is how long requests under way may take when the program stops.
	shutdownTimeout = 8 * time.Second
	// stopTimeout is how long all of stopping may take: who starts servers kills those that do not stop, mostly after ten
	// seconds, and a machine that is busy takes some of them.
	stopTimeout = 9 * time.Second
)

// databaseTimeout is how long whoever asks waits for the database.
const databaseTimeout = 10 * time.Second

// program is the running server.
type program struct {
	logger   *slog.Logger
	metrics  *metric.Metrics
	sites    sites
	notifier *notifier.Notifier
	store    *sqlstore.Store
	// summarizer keeps the numbers of declarations up to date.
	summarizer *summarizer.Summarizer
	census     *census.Census // of enrollments, for the metrics
	watcher    *watcher.Watcher
	sequencer  *eventlog.Sequencer
	poster     *eventlog.Poster // nil: there is no -event-url
	reloaders  []*reloader
	closers    []io.Closer
	// failed gets the error that ends the server, if it ends by itself.
	failed   chan error
	stopping atomic.Bool
}

// start opens the database and begins to serve. The program runs until stop, whatever becomes of the context.
func start(ctx context.Context, config *config, stdout, stderr io.Writer) (p *program, err error) {
	p = &program{
		logger:  newLogger(config, stderr),
		metrics: metric.New(version),
		failed:  make(chan error, 3), // one for each site
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	if p.store, err = openStore(ctx, config, p.logger); err != nil {
		return p, err
	}
	if err = p.compareServing(ctx, config.shard); err != nil {
		return p, err
	}
	composer := compositor.New(p.store, compositor.Options{Shard: config.shard})
	if p.notifier, err = newNotifier(config, p.store, composer, p.metrics, p.logger); err != nil {
		return p, err
	}
	p.followEvents(config)
	dump, err := p.statusDump(config.dumpStatus, stdout)
	if err != nil {
		return p, err
	}

	secure, err := p.secure(config.tls)
	if err != nil {
		return p, err
	}
	p.sites = newSites(config.listen, secure, p.logger)
	if err = p.register(config, composer, dump); err != nil {
		return p, err
	}
	if err = p.sites.listen(ctx); err != nil {
		return p, err
	}
	for _, reloader := range p.reloaders {
		reloader.Start()
	}
	p.notifier.Start()
	p.sequencer.Start()
	if p.poster != nil {
		p.poster.Start()
	}
	p.summarizer = summarizer.New(summarizer.Config{Summaries: p.store, Logger: p.logger, Busy: p.busy})
	p.summarizer.Start()
	p.census.Start()
	p.watcher = watcher.New(watcher.Config{Database: p.store, Logger: p.logger})
	p.watcher.Start()
	p.serve(config)
	return p, nil
}

// compareServing has everybody looked at again where -shard is not what the database was served with last.
func (p *program) compareServing(ctx context.Context, shard bool) error {
	switched, err := p.store.ServeWith(ctx, shard)
	if switched {
		p.logger.Info("-shard was switched: every enrollment is looked at again", "shard", shard)
	}
	return err
}

// register gives every site what is served there.
func (p *program) register(config *config, composer *compositor.Compositor, dump func(string, []byte)) error {
	keys, err := p.keyring(config)
	if err != nil {
		return err
	}
	sets, err := parseEnrollSets(config.enrollSets)
	if err != nil {
		return err
	}
	if config.webhookKey == "" {
		p.logger.Info("there is no -webhook-hmac-key: events at /webhook are believed, whoever sends them")
	}
	api.Register(p.sites.main.mux, api.Config{
		Store: p.store, Compositor: composer, Keys: keys,
		CORSOrigin: config.corsOrigin, Shard: config.shard, Version: version, Wake: p.notifier.Wake,
		Breaker: p.breaker(config), Rate: p.rate(config), Stopping: p.sites.stopping,
	})
	ddm.Register(p.sites.ddm.mux, ddm.Config{
		Store: p.store, Compositor: composer, DumpStatus: dump,
		VerifyKey: config.dmVerifyKey, SignKey: config.dmSignKey, Reported: p.metrics.Reported,
	})
	webhook.Register(p.sites.ddm.mux, webhook.Config{
		Store: p.store, Key: config.webhookKey, Wake: p.notifier.Wake,
		EnrollSets: sets.of, RemoveSets: config.checkoutSets == "remove", Now: config.pace.clock,
	})
	p.registerMetrics(config, composer, keys)
	for _, site := range p.sites.all() {
		api.RegisterHealth(site.mux, p)
	}
	return nil
}

// keyring returns the API keys, which follow their file.
func (p *program) keyring(config *config) (*api.Keyring, error) {
	keys, err := api.NewKeyring(config.apiKey)
	if err != nil || config.apiKeys == "" {
		return keys, err
	}
	return keys, p.reload("-api-keys", func(contents [][]byte) error { return keys.Load(contents[0]) }, config.apiKeys)
}

// serve begins to answer requests.
func (p *program) serve(config *config) {
	about := []any{
		"address", p.sites.main.listener.Addr().String(), "version", version, "storage", config.storage,
		"tls", config.tls.certificate != "",
	}
	if p.sites.ddm != p.sites.main {
		about = append(about, "ddm_address", p.sites.ddm.listener.Addr().String())
	}
	if p.sites.metrics != p.sites.main {
		about = append(about, "metrics_address", p.sites.metrics.listener.Addr().String())
	}
	for _, site := range p.sites.all() {
		go func() {
			if err := site.serve(); err != nil {
				p.failed <- err
			}
		}()
	}
	p.logger.Info("listening", about...)
}

// followEvents makes what has the log of events go on, and what posts it.
func (p *program) followEvents(config *config) {
	sequencer := eventlog.SequencerConfig{Log: p.store, Logger: p.logger, Busy: p.busy}
	if config.events.url != "" {
		poster := eventlog.PosterConfig{Deliveries: p.store, URL: config.events.url, Logger: p.logger, Speed: config.pace.speed}
		if config.events.key != "" {
			poster.Sign = func(header http.Header, body []byte) {
				header.Set(edge.SignatureHeader, edge.Signature(config.events.key, body))
			}
		}
		p.poster = eventlog.NewPoster(poster)
		sequencer.Appended = p.poster.Wake
	}
	p.sequencer = eventlog.NewSequencer(sequencer)
}

// openStore opens the database.
func openStore(ctx context.Context, config *config, logger *slog.Logger) (*sqlstore.Store, error) {
	options, err := config.storeOptions()
	if err != nil {
		return nil, err
	}
	options.Logger, options.Clock, options.Timeout = logger, config.pace.clock, databaseTimeout
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
	config *config, store *sqlstore.Store, composer *compositor.Compositor, metrics *metric.Metrics, logger *slog.Logger,
) (*notifier.Notifier, error) {
	settings := notifier.Config{
		Queue: store, Compositor: composer, Logger: logger, Observer: metrics, Check: config.notify.interval,
		Rate: config.notify.rate, Batch: config.notify.batch, Workers: config.notify.workers,
		Speed: config.pace.speed,
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

// workers returns what stops each of those who work in the background.
func (p *program) workers() (stops []func()) {
	for _, reloader := range p.reloaders {
		stops = append(stops, reloader.Stop)
	}
	if p.notifier != nil {
		stops = append(stops, p.notifier.Stop)
	}
	if p.summarizer != nil {
		stops = append(stops, p.summarizer.Stop)
	}
	if p.census != nil {
		stops = append(stops, p.census.Stop)
	}
	if p.sequencer != nil {
		stops = append(stops, p.sequencer.Stop)
	}
	if p.poster != nil {
		stops = append(stops, p.poster.Stop)
	}
	return stops
}

// busyRate is how many enrollments have to be told in a second for what can wait to wait.
const busyRate = 200

// busy reports whether many devices are being told of something.
func (p *program) busy() bool { return p.notifier.Rate() > busyRate }

// Ready implements api.Readiness.
func (p *program) Ready(ctx context.Context) error {
	if p.stopping.Load() {
		return &storage.NotReadyError{Reason: "the server is being stopped"}
	}
	return p.store.Ready(ctx)
}

// stop ends what start began, in bounded time: what does not end is left to the end of the process.
func (p *program) stop() error {
	stopped := make(chan error, 1)
	go func() { stopped <- p.stopAll() }()
	select {
	case err := <-stopped:
		return err
	case <-time.After(stopTimeout):
		return errors.New("stopping takes too long: not all that was under way has ended")
	}
}

// stopAll ends what start began: no new requests and those under way answered, beside that what works in the background,
// and then the database.
func (p *program) stopAll() error {
	p.stopping.Store(true)
	var workers sync.WaitGroup
	for _, stop := range p.workers() {
		workers.Go(stop)
	}
	var errs []error
	if p.sites.main != nil {
		p.logger.Info("stopping")
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		errs = append(errs, p.sites.stop(ctx))
	}
	workers.Wait()
	if p.watcher != nil {
		p.watcher.Stop()
	}
	if p.store != nil {
		errs = append(errs, p.store.Close())
	}
	for _, closer := range p.closers {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}
