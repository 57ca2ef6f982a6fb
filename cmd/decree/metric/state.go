package metric

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/compositor"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// State is what this process knows without asking the database. Nothing is nil.
type State struct {
	Caches func() []compositor.CacheStats
	Store  func() sqlstore.Stats
	Bodies func() edge.BodyStats
	// Connections returns how many clients' connections are open, and how many were dropped because there was no room.
	Connections func() (open int, dropped int64)
	Breaker     func() notifier.BreakerState
	// Census returns the last count of enrollments, and when it was; the zero time: there was none.
	Census func() (storage.FleetCount, time.Time)
}

// state collects a State.
type state struct{ State }

// NewState returns what collects a State.
func NewState(s State) prometheus.Collector { return state{s} }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+name, help, labels, nil)
}

var (
	cacheHits    = desc("cache_hits_total", "What was found in a cache.", "cache")
	cacheMisses  = desc("cache_misses_total", "What was not found in a cache.", "cache")
	cacheBytes   = desc("cache_bytes", "Memory that a cache takes, roughly.", "cache")
	cacheLimit   = desc("cache_limit_bytes", "Memory that a cache may take.", "cache")
	cacheEntries = desc("cache_entries", "How much is in a cache.", "cache")

	poolConnections = desc("database_connections", "Connections to the database.", "pool", "state")
	poolLimit       = desc("database_connections_limit", "How many connections there may be; 0: no limit.", "pool")
	poolWaits       = desc("database_waits_total", "How often a connection had to be waited for.", "pool")
	poolWaited      = desc("database_wait_seconds_total", "How long connections were waited for.", "pool")
	databaseUp      = desc("database_up",
		"Whether the database answered when that was last tried, and could be written to: 1, or 0.")
	operations = desc("database_operations_in_flight", "Operations on the database that are under way, or wait.")
	refusals   = desc("database_refusals_total",
		"Operations that were not begun because the database was away, or too much waited for it.")
	bodyBytes   = desc("http_body_bytes", "Memory that is reserved for the bodies of requests.")
	bodyLimit   = desc("http_body_limit_bytes", "How much of it there may be.")
	bodyRefused = desc("http_bodies_refused_total", "Requests that were refused because there was no memory for their bodies.")

	connections = desc("http_connections", "Connections of clients that are open.")
	dropped     = desc("http_connections_dropped_total", "Connections that were dropped because there was no room for them, or for their headers.")

	retries = desc("database_transaction_retries_total",
		"Transactions that lost against others and were tried again.")
	leftOut = desc("status_items_left_out_total",
		"What status reports said that is kept in the stored report only, because it is more than is kept of a device.")

	breakerOpen     = desc("mdm_breaker_open", "Whether the MDM is taken to be down: 1, or 0.")
	breakerFailures = desc("mdm_breaker_failures", "How many requests to the MDM have failed in a row.")

	enrollments = desc("enrollments",
		"Enrollments in the database, by whether they were found to have what they should when they were last looked at.", "state")
	enrollmentsAt = desc("enrollments_counted_timestamp_seconds", "When the count of enrollments was finished.")
)

func (s state) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		cacheHits, cacheMisses, cacheBytes, cacheLimit, cacheEntries, poolConnections, poolLimit, poolWaits, poolWaited,
		databaseUp, operations, refusals, bodyBytes, bodyLimit, bodyRefused, connections, dropped, retries, leftOut,
		breakerOpen, breakerFailures, enrollments, enrollmentsAt,
	} {
		descs <- d
	}
}

func (s state) Collect(metrics chan<- prometheus.Metric) {
	for _, cache := range s.Caches() {
		counter(metrics, cacheHits, float64(cache.Hits), cache.Name)
		counter(metrics, cacheMisses, float64(cache.Misses), cache.Name)
		gauge(metrics, cacheBytes, float64(cache.Bytes), cache.Name)
		gauge(metrics, cacheLimit, float64(cache.MaxBytes), cache.Name)
		gauge(metrics, cacheEntries, float64(cache.Entries), cache.Name)
	}
	stats := s.Store()
	for name, pool := range stats.Pools {
		gauge(metrics, poolConnections, float64(pool.InUse), name, "in_use")
		gauge(metrics, poolConnections, float64(pool.Idle), name, "idle")
		gauge(metrics, poolLimit, float64(pool.MaxOpenConnections), name)
		counter(metrics, poolWaits, float64(pool.WaitCount), name)
		counter(metrics, poolWaited, pool.WaitDuration.Seconds(), name)
	}
	gauge(metrics, databaseUp, boolean(stats.Works))
	gauge(metrics, operations, float64(stats.InFlight))
	counter(metrics, refusals, float64(stats.Refused))
	counter(metrics, retries, float64(stats.Retries))
	counter(metrics, leftOut, float64(stats.LeftOut))

	bodies := s.Bodies()
	gauge(metrics, bodyBytes, float64(bodies.Held))
	gauge(metrics, bodyLimit, float64(bodies.Limit))
	counter(metrics, bodyRefused, float64(bodies.Refused))

	open, closed := s.Connections()
	gauge(metrics, connections, float64(open))
	counter(metrics, dropped, float64(closed))

	breaker := s.Breaker()
	gauge(metrics, breakerOpen, boolean(breaker.Open))
	gauge(metrics, breakerFailures, float64(breaker.Failures))

	if count, at := s.Census(); !at.IsZero() {
		gauge(metrics, enrollments, float64(count.InSync), "in_sync")
		gauge(metrics, enrollments, float64(count.OutOfSync), "out_of_sync")
		gauge(metrics, enrollments, float64(count.Left), "left")
		gauge(metrics, enrollmentsAt, float64(at.UnixMilli())/1000)
	}
}

// boolean is 1 for true.
func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func gauge(metrics chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func counter(metrics chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
}
