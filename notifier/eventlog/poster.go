package eventlog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/decree-ddm/decree/http/trace"
	"github.com/decree-ddm/decree/notifier/transport"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/background"
)

// Deliveries is what a Poster needs of storage; see storage.Happenings.
type Deliveries interface {
	TakeDelivery(ctx context.Context, lease storage.Lease, limit int) (*storage.Delivery, error)
	HoldDelivery(ctx context.Context, lease storage.Lease) (held bool, err error)
	Delivered(ctx context.Context, lease storage.Lease, id int64) (held bool, err error)
	GiveUpDelivery(ctx context.Context, lease storage.Lease) error
}

const (
	// batchSize is how many events are posted at once at most.
	batchSize = 100
	// leaseDuration is when another server takes over from a dead one. It is longer than a request, with noting what became
	// of it, lasts.
	leaseDuration = time.Minute
	noteTimeout   = 10 * time.Second
	// longestRetryAfter bounds what a receiver can ask for.
	longestRetryAfter = 24 * time.Hour
	// stopGrace is for how long a request that is under way may go on when the poster is stopped: what is cut off is posted
	// again.
	stopGrace = 2 * time.Second
	// maxAnswerBytes is how much of an answer is read.
	maxAnswerBytes = 64 << 10
)

// PosterConfig is what a Poster works with.
type PosterConfig struct {
	Deliveries Deliveries
	// URL is an absolute one.
	URL string
	// Sign, if not nil, adds a signature of the body to the header.
	Sign   func(header http.Header, body []byte)
	Logger *slog.Logger
	// Timeout bounds one request; 30 s. It must be shorter than the lease.
	Timeout time.Duration
	// Interval is after how long the same events are posted again; 1 s. It grows to 60 times that.
	Interval time.Duration
	// Speed is how much faster the database's clock goes than this process's; 1. More is for tests.
	Speed int
}

// Poster is a value to start and stop. Of several over one database, one works, and another one takes over when it ends.
type Poster struct {
	runner background.Runner
	config PosterConfig
	client *http.Client
	lease  storage.Lease
	wake   chan struct{}

	// Only the goroutine that runs uses these.
	failures int   // in a row
	lostFrom int64 // the first event behind those that were last said to be lost
}

// NewPoster returns a poster that is not started.
func NewPoster(config PosterConfig) *Poster {
	if config.Timeout <= 0 {
		config.Timeout = 30 * time.Second
	}
	if config.Interval <= 0 {
		config.Interval = time.Second
	}
	if config.Speed <= 0 {
		config.Speed = 1
	}
	return &Poster{
		config: config,
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
				TLSHandshakeTimeout: 5 * time.Second,
				IdleConnTimeout:     90 * time.Second,
			},
			Timeout: config.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse // a redirected POST would lose its body
			},
		},
		// #nosec G404 -- it has to be unique, not secret
		lease: storage.Lease{ID: rand.Int64N(1<<62) + 1, Duration: leaseDuration * time.Duration(config.Speed)},
		wake:  make(chan struct{}, 1),
	}
}

// Start has events posted until Stop.
func (p *Poster) Start() { p.runner.Start(stopGrace, p.run) }

// Stop ends the work. What is being posted has some more time.
func (p *Poster) Stop() { p.runner.Stop() }

// Wake has the poster look for events soon. It never blocks.
func (p *Poster) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Poster) run(ctx, late context.Context) {
	defer p.client.CloseIdleConnections()
	defer p.giveUp(ctx)
	for ctx.Err() == nil {
		delivery, err := p.config.Deliveries.TakeDelivery(ctx, p.lease, batchSize)
		switch {
		case err != nil:
			p.failed(ctx, "taking events to be posted", err)
			background.Sleep(ctx, pauseAfterOurOwnErrors, nil)
		case delivery == nil:
			background.Sleep(ctx, idle, p.wake)
		default:
			p.deliver(ctx, late, delivery)
		}
	}
}

// deliver posts events, or waits for when they are to be posted again.
func (p *Poster) deliver(ctx, late context.Context, delivery *storage.Delivery) {
	first, last := delivery.Happenings[0].ID, delivery.Happenings[len(delivery.Happenings)-1].ID
	if delivery.Lost > 0 && first != p.lostFrom {
		p.lostFrom = first
		p.config.Logger.ErrorContext(ctx, "events were deleted before they could be posted",
			"lost", delivery.Lost, "first", first-delivery.Lost, "last", first-1)
	}
	// Each post is for what happened to many devices, and so is a trace of its own.
	t, start := trace.New(), time.Now()
	after, err := p.post(trace.With(late, t), delivery.Happenings)
	log := p.config.Logger.With("first", first, "last", last, "trace_id", t.ID(), "duration", time.Since(start))
	if err == nil {
		log.DebugContext(ctx, "events posted")
		if p.failures > 0 {
			log.InfoContext(ctx, "events are posted again", "failures", p.failures)
		}
		p.failures = 0
		p.note(ctx, last)
		return
	}
	if ctx.Err() != nil {
		return
	}
	wait := max(after, p.interval())
	p.failures++
	log.WarnContext(ctx, "events were not taken", "error", err, "failures", p.failures, "retry_in", wait)
	p.hold(ctx, wait)
}

// interval is how long to wait after another failure.
func (p *Poster) interval() time.Duration {
	interval := p.config.Interval * time.Duration(min(1<<min(p.failures, 6), 60))
	return interval/2 + rand.N(interval/2+1) // #nosec G404 -- a pause is no secret
}

// post makes one request. When it fails, the receiver may have said for how long it wants to be left alone.
func (p *Poster) post(ctx context.Context, happenings []storage.Happening) (after time.Duration, err error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	err = encoder.Encode(struct {
		Events []storage.Happening `json:"events"`
	}{happenings})
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.config.URL, bytes.NewReader(body.Bytes()))
	if err != nil {
		return 0, transport.WithoutURL(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if p.config.Sign != nil {
		p.config.Sign(request.Header, body.Bytes())
	}
	trace.Pass(request)
	response, err := p.client.Do(request)
	if err != nil {
		return 0, transport.WithoutURL(err)
	}
	// The code says it all; the rest is read so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswerBytes)
	_ = response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		after = min(transport.RetryAfter(response.Header.Get("Retry-After")), longestRetryAfter)
		return after, fmt.Errorf("the receiver answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	}
	return 0, nil
}

// note writes how far events are delivered, also when the poster is being stopped: what is not noted is posted again.
func (p *Poster) note(ctx context.Context, id int64) {
	for until := time.Now().Add(leaseDuration); ; {
		held, err := p.tryNote(ctx, id)
		if err == nil {
			if !held {
				p.config.Logger.WarnContext(ctx, "another server has taken over: events may be posted twice", "last", id)
			}
			return
		}
		p.config.Logger.ErrorContext(ctx, "events were posted and this cannot be noted", "last", id, "error", err)
		if !background.Sleep(ctx, p.config.Interval, nil) || time.Now().After(until) {
			return
		}
	}
}

func (p *Poster) tryNote(ctx context.Context, id int64) (held bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	return p.config.Deliveries.Delivered(ctx, p.lease, id)
}

// hold waits and keeps the lease, so that no other server tries what is to be left alone.
func (p *Poster) hold(ctx context.Context, wait time.Duration) {
	for wait > 0 {
		step := min(wait, leaseDuration/3)
		if !background.Sleep(ctx, step, nil) {
			return
		}
		wait -= step
		held, err := p.config.Deliveries.HoldDelivery(ctx, p.lease)
		if err != nil {
			p.failed(ctx, "keeping events to be posted", err)
		} else if !held {
			return
		}
	}
}

// giveUp lets another server go on at once.
func (p *Poster) giveUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if err := p.config.Deliveries.GiveUpDelivery(ctx, p.lease); err != nil {
		p.config.Logger.ErrorContext(ctx, "giving up the posting of events failed", "error", err)
	}
}

// failed logs an error of our own side, unless it comes from being stopped.
func (p *Poster) failed(ctx context.Context, doing string, err error) {
	if ctx.Err() == nil {
		p.config.Logger.ErrorContext(ctx, "posting events failed", "doing", doing, "error", err)
	}
}
