package metric

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/decree-ddm/decree/storage"
)

// Numbers is what is read from the database when it is asked for; see storage.Numbers.
type Numbers interface {
	QueueNumbers(ctx context.Context) (storage.QueueNumbers, error)
	HappeningNumbers(ctx context.Context) (storage.HappeningNumbers, error)
}

const (
	// keepNumbers is for how long what was read is told again, whoever asks how often.
	keepNumbers = 5 * time.Second
	// readTimeout bounds the reading, far below what Prometheus waits for a scrape.
	readTimeout = 2 * time.Second
)

// numbers collects Numbers.
type numbers struct {
	source  Numbers
	logger  *slog.Logger
	keep    time.Duration
	timeout time.Duration

	mu         sync.Mutex
	readAt     time.Time
	queue      *storage.QueueNumbers     // nil: could not be read
	happenings *storage.HappeningNumbers // nil: could not be read
	errors     map[string]int
}

// NewNumbers returns what collects Numbers. What cannot be read in time is left out, and counted.
func NewNumbers(source Numbers, logger *slog.Logger) prometheus.Collector {
	return &numbers{
		source: source, logger: logger, keep: keepNumbers, timeout: readTimeout,
		errors: map[string]int{sourceQueue: 0, sourceEvents: 0},
	}
}

// What numbers are read from.
const (
	sourceQueue  = "queue"
	sourceEvents = "events"
)

var (
	queueEnrollments = desc("queue_enrollments",
		"Enrollments in the queue. Counting stops at decree_queue_bound.", "state")
	queueBound  = desc("queue_bound", "Where counting stops: what is this large may be larger.")
	queueOldest = desc("queue_oldest_due_seconds",
		"For how long the enrollment is due that waits longest to be looked at.")
	fanoutsPending = desc("fanouts_pending", "Sets whose change is on its way to their enrollments.")
	fanoutLag      = desc("fanout_lag_seconds",
		"For how long the change is due that waits longest for its next step to the enrollments of its set.")

	eventsLast    = desc("events_last_id", "The id of the newest event.")
	eventsStored  = desc("events_stored", "Events that are kept.")
	eventsWaiting = desc("events_waiting", "What has happened and has no place among the events yet, up to a bound.")
	eventsBehind  = desc("events_undelivered", "Events that were not yet posted to -event-url.")

	scrapeErrors = desc("scrape_errors_total", "How often numbers could not be read from the database in time.", "source")
)

func (n *numbers) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		queueEnrollments, queueBound, queueOldest, fanoutsPending, fanoutLag,
		eventsLast, eventsStored, eventsWaiting, eventsBehind, scrapeErrors,
	} {
		descs <- d
	}
}

func (n *numbers) Collect(metrics chan<- prometheus.Metric) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.readAt.IsZero() || time.Since(n.readAt) >= n.keep {
		n.read()
	}
	if q := n.queue; q != nil {
		gauge(metrics, queueEnrollments, float64(q.Due), "due")
		gauge(metrics, queueEnrollments, float64(q.Leased), "leased")
		gauge(metrics, queueEnrollments, float64(q.Waiting), "waiting")
		gauge(metrics, queueEnrollments, float64(q.Failing), "failing")
		gauge(metrics, queueBound, float64(q.Bound))
		gauge(metrics, queueOldest, age(q.Now, q.OldestDue))
		gauge(metrics, fanoutsPending, float64(q.Fanouts))
		gauge(metrics, fanoutLag, age(q.Now, q.OldestFanout))
	}
	if h := n.happenings; h != nil {
		gauge(metrics, eventsLast, float64(h.LastID))
		gauge(metrics, eventsStored, float64(h.LastID-h.OldestID+1))
		gauge(metrics, eventsWaiting, float64(h.Waiting))
		if h.Delivers {
			gauge(metrics, eventsBehind, float64(h.LastID-h.DeliveredID))
		}
	}
	for source, count := range n.errors {
		counter(metrics, scrapeErrors, float64(count), source)
	}
}

// read reads everything anew. What fails is not tried again before the rest is: the database may be busy enough.
func (n *numbers) read() {
	ctx, cancel := context.WithTimeout(context.Background(), n.timeout)
	defer cancel()
	n.queue, n.happenings = nil, nil
	if queue, err := n.source.QueueNumbers(ctx); err == nil {
		n.queue = &queue
	} else {
		n.failed(ctx, sourceQueue, err)
	}
	if happenings, err := n.source.HappeningNumbers(ctx); err == nil {
		n.happenings = &happenings
	} else {
		n.failed(ctx, sourceEvents, err)
	}
	n.readAt = time.Now()
}

func (n *numbers) failed(ctx context.Context, source string, err error) {
	n.errors[source]++
	n.logger.WarnContext(ctx, "numbers for /metrics could not be read", "source", source, "error", err)
}

// age is for how long something waits, by the database's clock; 0 for what does not.
func age(now, since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(0, now.Sub(since).Seconds())
}
