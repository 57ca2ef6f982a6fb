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

	"github.com/decree-ddm/decree/storage"
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

// MDM takes commands for enrollments.
type MDM interface {
	// Enqueue queues a command for enrollments, each named once, and has them woken. It returns a result for each id,
	// or an error when it is not known that any was queued. It must return when the context ends.
	Enqueue(ctx context.Context, ids []string, command Command) (map[string]Result, error)
}

// Result is what the MDM says of one enrollment.
type Result struct {
	// CommandError says why the command was not queued. Empty: it was.
	CommandError string
	// PushError says why the device was not woken, although the command may be queued.
	PushError string
}

// Config is what a Notifier works with. Zero values of the numbers mean the defaults.
type Config struct {
	Queue      Queue
	Compositor Compositor
	// MDM is nil where no MDM is known: changes are followed as far as the queue, and wait there.
	MDM    MDM
	Logger *slog.Logger
	// Batch is how many enrollments are told with one request at most; 100.
	Batch int
	// Workers is how many requests are under way at once at most; 4.
	Workers int
	// Poll is how often the queue is looked at when nothing wakes the notifier; 250 ms.
	Poll time.Duration
}

const (
	// leaseDuration is when others take over what a dead notifier had claimed. It is far longer than a request lasts.
	leaseDuration = 2 * time.Minute
	// sendTimeout bounds one request to the MDM, and finaliseTimeout the writing of what became of it.
	sendTimeout     = 30 * time.Second
	finaliseTimeout = 10 * time.Second
	// sendWithin is for how long after a claim requests are begun, so that they end, and are noted, within the lease.
	sendWithin = leaseDuration - sendTimeout - finaliseTimeout
	// maxClaim and fanoutPage keep transactions short.
	maxClaim   = 400
	fanoutPage = 200

	collectInterval = 10 * time.Minute
	collectLimit    = 100
	// collectAge is a day, for which manifests stay fetchable, and the hour within which they are stored again.
	collectAge = 26 * time.Hour
)

// Notifier is a value to start and stop. Both may be called repeatedly and concurrently.
type Notifier struct {
	config   Config
	schedule schedule
	slots    chan struct{} // one element for each request under way
	wakeScan chan struct{}
	wakeMark chan struct{}

	mu     sync.Mutex
	cancel context.CancelFunc // nil: not running
	done   *sync.WaitGroup
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
	return &Notifier{
		config:   config,
		schedule: defaultSchedule,
		slots:    make(chan struct{}, config.Workers),
		wakeScan: make(chan struct{}, 1),
		wakeMark: make(chan struct{}, 1),
	}
}

// Start has the notifier work until Stop. It does nothing when it runs already.
func (n *Notifier) Start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, &sync.WaitGroup{}
	n.run(ctx, n.wakeMark, n.fanOut)
	if n.config.MDM != nil {
		done := n.done
		n.run(ctx, n.wakeScan, func(ctx context.Context) bool { return n.tell(ctx, done) })
	}
	n.done.Go(func() { n.collect(ctx) })
}

// Stop ends the work and waits for requests that are under way, which are cancelled, and for what became of them to be
// written. What was claimed and is not known to be sent is given back at once, and counts as no failure.
func (n *Notifier) Stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.done.Wait()
	n.cancel = nil
}

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
	n.done.Go(func() {
		for ctx.Err() == nil {
			if step(ctx) {
				continue
			}
			timer := time.NewTimer(n.config.Poll)
			select {
			case <-ctx.Done():
			case <-wake:
			case <-timer.C:
			}
			timer.Stop()
		}
	})
}

// fanOut marks one page of enrollments.
func (n *Notifier) fanOut(ctx context.Context) (more bool) {
	page, err := n.config.Queue.AdvanceFanout(ctx, fanoutPage)
	if err != nil {
		n.failed(ctx, "fan-out", err)
		return false
	}
	if page == nil {
		return false
	}
	if page.Done {
		n.config.Logger.InfoContext(ctx, "fan-out done", "set", page.Set, "change_id", page.ChangeID, "reached", page.Reached)
	}
	if page.Marked > 0 {
		signal(n.wakeScan)
	}
	return true
}

// tell claims what is due and as much of it as can be sent now, and sends it.
func (n *Notifier) tell(ctx context.Context, done *sync.WaitGroup) (more bool) {
	free := n.takeSlots(ctx)
	if free == 0 {
		return false
	}
	defer func() { n.giveSlots(free) }()
	lease := storage.Lease{ID: rand.Int64N(1<<62) + 1, Duration: leaseDuration}
	limit := min(n.config.Batch*free, maxClaim)
	start := time.Now()
	claimed, err := n.config.Queue.Claim(ctx, lease, limit)
	if err != nil {
		n.failed(ctx, "claim", err)
		return false
	}
	if len(claimed) == 0 {
		return false
	}
	outcomes, batches := n.plan(ctx, claimed)
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
		if ctx.Err() != nil || time.Since(start) > sendWithin {
			n.finalise(ctx, lease, givenBack(batches[i:]))
			return ctx.Err() == nil
		}
		free--
		done.Go(func() {
			defer n.giveSlots(1)
			n.finalise(ctx, lease, n.send(ctx, b))
		})
	}
	return true
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
		if d.kind == storage.OutcomeSent {
			group.add(e, composition, d.withData)
			continue
		}
		key := same{d.kind, composition.Token, d.after}
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finaliseTimeout)
	defer cancel()
	if err := n.config.Queue.Finalise(ctx, lease, outcomes); err != nil {
		n.failed(ctx, "finalise", err)
	}
}

// collect deletes what is old, now and then.
func (n *Notifier) collect(ctx context.Context) {
	ticker := time.NewTicker(collectInterval)
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
