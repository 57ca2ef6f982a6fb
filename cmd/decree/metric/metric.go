// Package metric has the numbers that are told to Prometheus: their names and labels, and where they come from. What
// happens often is counted as it happens, by observers that the other packages declare; the rest is read when it is asked
// for. Labels have few values, which are known beforehand: never one that a client or a device can choose.
package metric

import (
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/notifier"
)

// namespace is what the names begin with.
const namespace = "decree_"

// Metrics are the numbers that are counted as they happen. They implement the observers of other packages.
type Metrics struct {
	registry *prometheus.Registry

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	inFlight  prometheus.Gauge

	settled map[string]prometheus.Counter
	asked   map[[2]string]prometheus.Observer
	marked  prometheus.Counter
	reports map[string]prometheus.Counter
}

var (
	_ edge.Observer     = (*Metrics)(nil)
	_ notifier.Observer = (*Metrics)(nil)
)

// New returns metrics that are registered with a registry of their own.
func New(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.vector("build_info", "The version that runs. The value is always 1.", "version", "go_version").
		WithLabelValues(version, runtime.Version()).Inc()
	m.registerRequests()
	m.registerNotifications()
	m.reports = m.counters("status_reports_total",
		"Status reports of devices, by what became of them.", "result", ReportResults)
	return m
}

// Register adds what is read when it is asked for.
func (m *Metrics) Register(collectors ...prometheus.Collector) {
	m.registry.MustRegister(collectors...)
}

// Registry is what has been registered.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// maxScrapes is how many may be under way at once.
const maxScrapes = 4

// Handler answers with the numbers. What could not be read is left out of the answer, which never fails for it.
func (m *Metrics) Handler(logger *slog.Logger) edge.HandlerFunc {
	handler := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	})
	return func(w http.ResponseWriter, r *http.Request) error {
		edge.EventOf(r.Context()).Quiet()
		handler.ServeHTTP(w, r)
		return nil
	}
}

func (m *Metrics) vector(name, help string, labels ...string) *prometheus.GaugeVec {
	vector := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: namespace + name, Help: help}, labels)
	m.registry.MustRegister(vector)
	return vector
}

// counters returns a counter for each value of a label, all of which are there from the beginning.
func (m *Metrics) counters(name, help, label string, values []string) map[string]prometheus.Counter {
	vector := prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help}, []string{label})
	m.registry.MustRegister(vector)
	counters := map[string]prometheus.Counter{}
	for _, value := range values {
		counters[value] = vector.WithLabelValues(value)
	}
	return counters
}

// ReportResults are what may become of a status report.
var ReportResults = []string{"folded", "refused", "failed"}

// Reported counts a status report, with one of ReportResults.
func (m *Metrics) Reported(result string) {
	if counter, known := m.reports[result]; known {
		counter.Inc()
	}
}

// registerNotifications makes the numbers of what the notifier does.
func (m *Metrics) registerNotifications() {
	m.settled = m.counters("notifications_total",
		"Enrollments that were looked at because they may have to be told, by what became of that.", "outcome", notifier.Verdicts)
	vector := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: namespace + "mdm_request_duration_seconds", Help: "Requests to the MDM, by kind and by what came of them.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"request", "answer"})
	m.asked = map[[2]string]prometheus.Observer{}
	for _, request := range notifier.Requests {
		for _, answer := range notifier.Answers {
			m.asked[[2]string{request, answer}] = vector.WithLabelValues(request, answer)
		}
	}
	m.marked = prometheus.NewCounter(prometheus.CounterOpts{
		Name: namespace + "fanout_marks_total", Help: "Enrollments that changes of their sets have reached.",
	})
	m.registry.MustRegister(vector, m.marked)
}

// Settled implements notifier.Observer.
func (m *Metrics) Settled(verdict string, enrollments int) {
	if counter, known := m.settled[verdict]; known {
		counter.Add(float64(enrollments))
	}
}

// Asked implements notifier.Observer.
func (m *Metrics) Asked(request, answer string, duration time.Duration) {
	if histogram, known := m.asked[[2]string{request, answer}]; known {
		histogram.Observe(duration.Seconds())
	}
}

// Marked implements notifier.Observer.
func (m *Metrics) Marked(enrollments int) { m.marked.Add(float64(enrollments)) }
