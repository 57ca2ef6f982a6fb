// Package notifier is the reconciler: it turns changes into marks, takes marked enrollments, compares what each should
// have with what it is known to have, and tells the MDM to have those synchronize that differ, until they agree. All
// its state is in storage, so that any number of notifiers can share the work and any of them can die.
package notifier

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/background"
)

// Queue is what the notifier needs of storage; see storage.Notifications.
type Queue interface {
	AdvanceFanout(ctx context.Context, limit int) (*storage.FanoutPage, error)
	Claim(ctx context.Context, lease storage.Lease, limit int) ([]storage.Claimed, error)
	Finalise(ctx context.Context, lease storage.Lease, outcomes []storage.Outcome) error
	Collect(ctx context.Context, age time.Duration, limit int) (more bool, err error)
}

// Compositor says what an enrollment should have.
type Compositor interface {
	// Compose returns the composition for a vector that was just read, or for a newer one.
	Compose(ctx context.Context, enrollmentID string, vector storage.Vector) (*storage.Composition, error)
}

// Config is what a Notifier works with. Zero values of the numbers mean the defaults.
type Config struct {
	Queue      Queue
	Compositor Compositor
	// MDM is nil where no MDM is known: changes are followed as far as the queue, and wait there.
	MDM    MDM
	Logger *slog.Logger
	// Observer may be nil.
	Observer Observer
	// Batch is how many enrollments are told with one request at most; 100.
	Batch int
	// Workers is how many requests are under way at once at most; 4.
	Workers int
	// Rate is how many enrollments are told in a second at most; 0 means as many as the MDM takes.
	Rate int
	// Check is how long after it was told a device that is not in sync is looked at again; 6 h. It grows to a day.
	Check time.Duration
	// Poll is how often the queue is looked at when nothing wakes the notifier; 250 ms.
	Poll time.Duration
	// Speed is how much faster the queue's clock goes than this process's; 1. More is for tests.
	Speed int
}

const (
	// leaseDuration is when others take over what a dead notifier had claimed. It is far longer than a request lasts.
	leaseDuration = 2 * time.Minute
	// sendTimeout bounds one request to the MDM, and finaliseTimeout the writing of what became of it.
	sendTimeout     = 30 * time.Second
	finaliseTimeout = 10 * time.Second
	// finaliseWithin is for how long the writing is tried again: while nobody else can have claimed what was sent.
	finaliseWithin, finaliseInterval = 30 * time.Second, time.Second
	// sendWithin is for how long after a claim requests are begun, so that they end, and are noted, within the lease.
	sendWithin = leaseDuration - sendTimeout - finaliseTimeout
	// claimRounds is about how many requests a worker has to make for one claim at most.
	claimRounds = 4
	// maxClaim and fanoutPage keep transactions short.
	maxClaim   = 400
	fanoutPage = 200

	// failureRest is how many times as long as between looks nothing is asked of a database that has failed.
	failureRest = 8

	// stopGrace is for how long requests that are under way may go on when the notifier is stopped: what is cut off may
	// be done twice.
	stopGrace = 2 * time.Second

	collectInterval = time.Minute
	collectLimit    = 100
	// collectAge is a day, for which manifests stay fetchable, and the hour within which they are stored again.
	collectAge = 26 * time.Hour
)

// Notifier is a value to start and stop. Both may be called repeatedly and concurrently.
type Notifier struct {
	config   Config
	schedule schedule
	breaker  *breaker
	told     *meter
	limiter  *rate.Limiter
	slots    chan struct{} // one element for each request under way
	// share is how many enrollments a request was for in the last claim. Only tell uses it.
	share    int
	wakeScan chan struct{}
	wakeMark chan struct{}

	runner background.Runner
}

// New returns a notifier that is not started.
func New(config Config) *Notifier {
	if config.Batch <= 0 {
		config.Batch = 100
	}
	if config.Workers <= 0 {
		config.Workers = 4
	}
	if config.Poll <= 0 {
		config.Poll = 250 * time.Millisecond
	}
	if config.Check <= 0 {
		config.Check = 6 * time.Hour
	}
	if config.Speed <= 0 {
		config.Speed = 1
	}
	if config.Observer == nil {
		config.Observer = nobody{}
	}
	limiter := rate.NewLimiter(rate.Inf, 0)
	if config.Rate > 0 {
		// What is claimed at once is what a fraction of a second allows, so that what is urgent soon has its turn.
		limiter = rate.NewLimiter(rate.Limit(config.Rate), max(1, config.Rate/5))
	}
	return &Notifier{
		config:   config,
		schedule: newSchedule(config.Check),
		breaker:  newBreaker(),
		told:     newMeter(),
		limiter:  limiter,
		slots:    make(chan struct{}, config.Workers),
		share:    config.Batch,
		wakeScan: make(chan struct{}, 1),
		wakeMark: make(chan struct{}, 1),
	}
}

// Start has the notifier work until Stop. It does nothing when it runs already.
func (n *Notifier) Start() {
	n.runner.Start(stopGrace,
		func(ctx, _ context.Context) { n.run(ctx, n.wakeMark, n.fanOut) },
		func(ctx, _ context.Context) { n.collect(ctx) },
		func(ctx, sending context.Context) {
			if n.config.MDM == nil {
				return
			}
			var sends sync.WaitGroup
			defer sends.Wait()
			n.run(ctx, n.wakeScan, func(ctx context.Context) bool { return n.tell(ctx, sending, &sends) })
		},
	)
}

// Stop ends the work and waits for requests that are under way, and for what became of them to be written. Requests that
// take too long are cut off. What was claimed and not begun is given back at once, and counts as no failure.
func (n *Notifier) Stop() { n.runner.Stop() }

// Rate is how many enrollments were told in a second, on average over the last minute.
func (n *Notifier) Rate() float64 { return n.told.perSecond() }

// Breaker tells whether the MDM is taken to be down.
func (n *Notifier) Breaker() BreakerState { return n.breaker.state() }

// Wake has the notifier look at the queue soon. It never blocks.
func (n *Notifier) Wake() {
	signal(n.wakeMark)
	signal(n.wakeScan)
}

func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// run calls step again and again: at once while it has more to do, else after the poll interval or when woken.
func (n *Notifier) run(ctx context.Context, wake <-chan struct{}, step func(context.Context) (more bool)) {
	for ctx.Err() == nil {
		if !step(ctx) {
			background.Sleep(ctx, n.config.Poll, wake)
		}
	}
}

// fanOut marks one page of enrollments.
func (n *Notifier) fanOut(ctx context.Context) (more bool) {
	page, err := n.config.Queue.AdvanceFanout(ctx, fanoutPage)
	if err != nil {
		n.failed(ctx, "fan-out", err)
		return background.Sleep(ctx, failureRest*n.config.Poll, nil)
	}
	if page == nil {
		return false
	}
	if page.Done {
		n.config.Logger.InfoContext(ctx, "fan-out done", "set", page.Set, "change_id", page.ChangeID, "reached", page.Reached)
	}
	n.config.Observer.Marked(page.Marked)
	if page.Marked > 0 {
		signal(n.wakeScan)
	}
	return true
}

// tell claims what is due and as much of it as can be sent now, and sends it, under a context of its own.
func (n *Notifier) tell(ctx, sending context.Context, done *sync.WaitGroup) (more bool) {
	wait, lone := n.breaker.allow()
	if wait > 0 {
		return background.Sleep(ctx, min(wait, n.config.Poll), nil)
	}
	free := n.takeSlots(ctx)
	if free == 0 {
		return false
	}
	defer func() { n.giveSlots(free) }()
	if lone && free < cap(n.slots) {
		return background.Sleep(ctx, n.config.Poll/10, nil) // one request tries it already
	}
	limit := n.limit(free, lone)
	if limit == 0 {
		return background.Sleep(ctx, n.config.Poll/10, nil)
	}
	// #nosec G404 -- it has to be unique, not secret
	lease := storage.Lease{ID: rand.Int64N(1<<62) + 1, Duration: leaseDuration * time.Duration(n.config.Speed)}
	until := time.Now().Add(sendWithin)
	claimed, err := n.config.Queue.Claim(ctx, lease, limit)
	if err != nil {
		n.failed(ctx, "claim", err)
		return background.Sleep(ctx, failureRest*n.config.Poll, nil)
	}
	if len(claimed) == 0 {
		return false
	}
	outcomes, batches := n.plan(ctx, claimed)
	n.share = (len(claimed) + len(batches)) / (1 + len(batches))
	if len(outcomes) > 0 {
		n.finalise(ctx, lease, outcomes)
	}
	for i, b := range batches {
		if free == 0 {
			select {
			case n.slots <- struct{}{}:
				free++
			case <-ctx.Done():
			}
		}
		wait, opened := n.breaker.allow()
		if ctx.Err() != nil || wait > 0 || opened != lone || time.Now().After(until) {
			n.finalise(ctx, lease, givenBack(batches[i:]))
			return ctx.Err() == nil
		}
		free--
		n.limiter.AllowN(time.Now(), len(b.members))
		done.Go(func() {
			defer n.giveSlots(1)
			n.finalise(sending, lease, n.send(sending, b, until))
		})
	}
	return true
}

// limit is how many enrollments can be told now.
func (n *Notifier) limit(free int, lone bool) int {
	if lone {
		return 1
	}
	// Where each should have something else, a large claim is many requests, which what is urgent would wait for.
	limit := min(n.config.Batch*free, maxClaim, claimRounds*n.share*free)
	if n.config.Rate > 0 {
		limit = min(limit, max(0, int(n.limiter.Tokens())))
	}
	return limit
}

// takeSlots waits for a slot, and takes all that are free.
func (n *Notifier) takeSlots(ctx context.Context) (free int) {
	select {
	case n.slots <- struct{}{}:
		free++
	case <-ctx.Done():
		return 0
	}
	for {
		select {
		case n.slots <- struct{}{}:
			free++
		default:
			return free
		}
	}
}

func (n *Notifier) giveSlots(count int) {
	for range count {
		<-n.slots
	}
}

// plan decides for each claimed enrollment: what needs no sending is an outcome already, the rest is in batches.
func (n *Notifier) plan(ctx context.Context, claimed []storage.Claimed) ([]storage.Outcome, []*batch) {
	type same struct {
		kind  storage.OutcomeKind
		token string
		after time.Duration
	}
	settled := map[same][]string{}
	group := newGrouper(n.config.Batch)
	var outcomes []storage.Outcome
	for i := range claimed {
		e := &claimed[i].Enrollment
		composition, err := n.config.Compositor.Compose(ctx, e.ID, claimed[i].Vector)
		if err != nil && ctx.Err() != nil { // Stop cut it off
			key := same{kind: storage.OutcomePostponed}
			settled[key] = append(settled[key], e.ID)
			continue
		}
		if err != nil {
			n.failed(ctx, "composing for a notification", err, "enrollment_id", e.ID)
			outcomes = append(outcomes, n.failure([]*storage.Enrollment{e}, "", "what it should have could not be composed"))
			continue
		}
		d := n.schedule.decide(e, composition)
		if d.action != settle {
			group.add(e, composition, d)
			continue
		}
		key := same{d.outcome, composition.Token, d.after}
		settled[key] = append(settled[key], e.ID)
	}
	for key, ids := range settled {
		outcomes = append(outcomes, storage.Outcome{
			Kind: key.kind, IDs: ids, DesiredToken: key.token, After: key.after,
		})
	}
	return outcomes, group.batches()
}

// finalise writes outcomes, also when the notifier is being stopped: what was sent must not be sent again.
func (n *Notifier) finalise(ctx context.Context, lease storage.Lease, outcomes []storage.Outcome) {
	n.settled(outcomes)
	for until := time.Now().Add(finaliseWithin); ; {
		err := n.tryFinalise(ctx, lease, outcomes)
		if err == nil {
			return
		}
		n.config.Logger.ErrorContext(ctx, "notifier failed", "doing", "finalise", "error", err)
		if !background.Sleep(ctx, finaliseInterval, nil) || time.Now().After(until) {
			return
		}
	}
}

func (n *Notifier) tryFinalise(ctx context.Context, lease storage.Lease, outcomes []storage.Outcome) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finaliseTimeout)
	defer cancel()
	return n.config.Queue.Finalise(ctx, lease, outcomes)
}

// collect deletes what is old, now and then.
func (n *Notifier) collect(ctx context.Context) {
	ticker := time.NewTicker(collectInterval / time.Duration(n.config.Speed))
	defer ticker.Stop()
	for {
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = n.config.Queue.Collect(ctx, collectAge, collectLimit); err != nil {
				n.failed(ctx, "collect", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// failed logs an error of our own side, unless it comes from being stopped.
func (n *Notifier) failed(ctx context.Context, what string, err error, attributes ...any) {
	if ctx.Err() == nil {
		n.config.Logger.ErrorContext(ctx, "notifier failed", append(attributes, "doing", what, "error", err)...)
	}
}
