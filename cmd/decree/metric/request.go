package metric

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/decree-ddm/decree/http/edge"
)

// unmatched is the route of requests that no pattern matches.
const unmatched = "other"

// registerRequests makes the numbers of requests to this server.
func (m *Metrics) registerRequests() {
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: namespace + "http_requests_total",
		Help: "Requests, by route and by the code of the answer. 499: the client went away before it.",
	}, []string{"route", "code"})
	m.durations = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: namespace + "http_request_duration_seconds", Help: "How long requests took, by route.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"route"})
	m.inFlight = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: namespace + "http_requests_in_flight", Help: "Requests that are being answered.",
	})
	m.registry.MustRegister(m.requests, m.durations, m.inFlight)
}

// Route implements edge.Observer.
func (m *Metrics) Route(pattern string) edge.RouteObserver {
	if pattern == "" {
		pattern = unmatched
	}
	r := &route{
		inFlight: m.inFlight,
		duration: m.durations.WithLabelValues(pattern),
		requests: m.requests.MustCurryWith(prometheus.Labels{"route": pattern}),
	}
	r.byCode.Store(&map[int]prometheus.Counter{})
	return r
}

// route counts the requests of one route. Nothing is looked up by labels for a request but the first with its code.
type route struct {
	inFlight prometheus.Gauge
	duration prometheus.Observer
	requests *prometheus.CounterVec

	mu     sync.Mutex // for replacing byCode, which is never written to
	byCode atomic.Pointer[map[int]prometheus.Counter]
}

func (r *route) Began() { r.inFlight.Inc() }

func (r *route) Ended(code int, duration time.Duration) {
	r.inFlight.Dec()
	r.duration.Observe(duration.Seconds())
	counter, known := (*r.byCode.Load())[code]
	if !known {
		counter = r.add(code)
	}
	counter.Inc()
}

func (r *route) add(code int) prometheus.Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	byCode := maps.Clone(*r.byCode.Load())
	byCode[code] = r.requests.WithLabelValues(strconv.Itoa(code))
	r.byCode.Store(&byCode)
	return byCode[code]
}
