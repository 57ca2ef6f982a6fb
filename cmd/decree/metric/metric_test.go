package metric

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/compositor"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var silent = slog.New(slog.DiscardHandler)

// base is some time of a database.
var base = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// source has numbers, or is slow, or fails.
type source struct {
	mu    sync.Mutex
	asked int
	slow  bool
	err   error
}

func (s *source) ask(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.slow {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.err
}

func (s *source) set(slow bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow, s.err = slow, err
}

func (s *source) QueueNumbers(ctx context.Context) (storage.QueueNumbers, error) {
	return storage.QueueNumbers{
		Due: 4, Leased: 3, Waiting: 2, Failing: 1, Fanouts: 5, Bound: 10000, Now: base,
		OldestDue: base.Add(-time.Minute), OldestFanout: base.Add(-time.Second),
	}, s.ask(ctx)
}

func (s *source) HappeningNumbers(ctx context.Context) (storage.HappeningNumbers, error) {
	return storage.HappeningNumbers{OldestID: 11, LastID: 20, DeliveredID: 17, Delivers: true, Waiting: 6}, s.ask(ctx)
}

// everything returns metrics with all collectors.
func everything(s *source) *Metrics {
	m := New("v1.2.3")
	m.Register(NewNumbers(s, silent), NewState(State{
		Caches: func() []compositor.CacheStats { return compositor.New(nil, compositor.Options{}).Caches() },
		Store: func() sqlstore.Stats {
			return sqlstore.Stats{Pools: map[string]sql.DBStats{"read": {}, "write": {}}, Retries: 7}
		},
		Bodies:      func() edge.BodyStats { return edge.BodyStats{Held: 1, Limit: 2, Refused: 3} },
		Connections: func() (int, int64) { return 5, 8 },
		Breaker:     func() notifier.BreakerState { return notifier.BreakerState{Open: true, Failures: 3} },
		Census: func() (storage.FleetCount, time.Time) {
			return storage.FleetCount{InSync: 30, OutOfSync: 20, Left: 10}, base
		},
	}))
	return m
}

func TestNamesAreAsPrometheusWantsThem(t *testing.T) {
	t.Parallel()
	m := everything(&source{})
	m.Route("GET /v1/sets").Ended(http.StatusOK, time.Second)
	problems, err := testutil.GatherAndLint(m.Registry())
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	m := everything(&source{})
	require.NoError(t, testutil.GatherAndCompare(m.Registry(), strings.NewReader(`
# HELP decree_queue_enrollments Enrollments in the queue. Counting stops at decree_queue_bound.
# TYPE decree_queue_enrollments gauge
decree_queue_enrollments{state="due"} 4
decree_queue_enrollments{state="failing"} 1
decree_queue_enrollments{state="leased"} 3
decree_queue_enrollments{state="waiting"} 2
# HELP decree_queue_oldest_due_seconds For how long the enrollment is due that waits longest to be looked at.
# TYPE decree_queue_oldest_due_seconds gauge
decree_queue_oldest_due_seconds 60
# HELP decree_events_undelivered Events that were not yet posted to -event-url.
# TYPE decree_events_undelivered gauge
decree_events_undelivered 3
# HELP decree_events_stored Events that are kept.
# TYPE decree_events_stored gauge
decree_events_stored 10
# HELP decree_http_connections Connections of clients that are open.
# TYPE decree_http_connections gauge
decree_http_connections 5
# HELP decree_http_connections_dropped_total Connections that were dropped because there was no room for them, or for their headers.
# TYPE decree_http_connections_dropped_total counter
decree_http_connections_dropped_total 8
# HELP decree_mdm_breaker_open Whether the MDM is taken to be down: 1, or 0.
# TYPE decree_mdm_breaker_open gauge
decree_mdm_breaker_open 1
`), "decree_queue_enrollments", "decree_queue_oldest_due_seconds", "decree_events_undelivered", "decree_events_stored",
		"decree_http_connections", "decree_http_connections_dropped_total", "decree_mdm_breaker_open"))
}

// scrape is what a server answers.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	mux := edge.NewMux(silent)
	mux.Handle("GET /metrics", m.Handler(silent))
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, recorder.Code)
	return recorder.Body.String()
}

// TestAScrapeNeverFails: neither for a database that is slow nor for one that fails. What it does not say is left out.
func TestAScrapeNeverFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		m := everything(s)
		require.Contains(t, scrape(t, m), "decree_queue_enrollments")
		require.Equal(t, 2, s.asked)
		scrape(t, m)
		require.Equal(t, 2, s.asked, "what was just read is told again")

		s.set(true, nil)
		time.Sleep(keepNumbers)
		began := time.Now()
		text := scrape(t, m)
		require.LessOrEqual(t, time.Since(began), readTimeout)
		require.NotContains(t, text, "decree_queue_enrollments")
		require.NotContains(t, text, "decree_events")
		require.Contains(t, text, `decree_enrollments{state="out_of_sync"} 20`, "it was counted before")
		require.Contains(t, text, `decree_scrape_errors_total{source="queue"} 1`)
		require.Contains(t, text, `decree_scrape_errors_total{source="events"} 1`)
		asked := s.asked
		scrape(t, m)
		require.Equal(t, asked, s.asked, "a database in trouble is left alone for as long as one that is not")

		s.set(false, errors.New("the database is away"))
		time.Sleep(keepNumbers)
		require.Contains(t, scrape(t, m), `decree_scrape_errors_total{source="queue"} 2`)

		s.set(false, nil)
		time.Sleep(keepNumbers)
		require.Contains(t, scrape(t, m), "decree_queue_enrollments")
	})
}

// TestRoutes: whatever strangers ask for, the values of labels are few.
func TestRoutes(t *testing.T) {
	t.Parallel()
	m := New("v1.2.3")
	mux := edge.NewMux(silent)
	mux.Handle("GET /things/{id...}", func(w http.ResponseWriter, r *http.Request) error {
		if r.PathValue("id") == "missing" {
			return storage.ErrNotFound
		}
		require.Equal(t, 1.0, testutil.ToFloat64(m.inFlight))
		return edge.WriteJSON(w, http.StatusOK, nil)
	})
	mux.Observe(m)
	mux.Handle("GET /panics", func(http.ResponseWriter, *http.Request) error { panic("no") })
	mux.Handle("GET /gone", func(http.ResponseWriter, *http.Request) error { return context.Canceled })
	ask := func(ctx context.Context, method, path string) {
		mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, method, path, nil))
	}
	for i := range 100 {
		ask(t.Context(), "GET", fmt.Sprint("/things/", i))
		ask(t.Context(), "GET", fmt.Sprint("/other/", i))
		ask(t.Context(), fmt.Sprint("METHOD", i), "/panics")
	}
	ask(t.Context(), "GET", "/things/missing")
	ask(t.Context(), "GET", "/things//")
	ask(t.Context(), "GET", "/panics")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	ask(gone, "GET", "/gone")
	require.NoError(t, testutil.GatherAndCompare(m.Registry(), strings.NewReader(`
# HELP decree_http_requests_total Requests, by route and by the code of the answer. 499: the client went away before it.
# TYPE decree_http_requests_total counter
decree_http_requests_total{code="200",route="GET /things/{id...}"} 100
decree_http_requests_total{code="404",route="GET /things/{id...}"} 1
decree_http_requests_total{code="499",route="GET /gone"} 1
decree_http_requests_total{code="500",route="GET /panics"} 1
decree_http_requests_total{code="400",route="other"} 1
decree_http_requests_total{code="404",route="other"} 100
decree_http_requests_total{code="405",route="other"} 100
# HELP decree_http_requests_in_flight Requests that are being answered.
# TYPE decree_http_requests_in_flight gauge
decree_http_requests_in_flight 0
`), "decree_http_requests_total", "decree_http_requests_in_flight"))
	require.Equal(t, 4, testutil.CollectAndCount(m.durations), "a histogram for each route")
}

func TestUnknownLabelsAreNotCounted(t *testing.T) {
	t.Parallel()
	m := New("v1.2.3")
	before := testutil.CollectAndCount(m.marked)
	m.Settled("what nobody knows", 1)
	m.Asked("what nobody knows", "taken", time.Second)
	m.Reported("what nobody knows")
	require.Equal(t, before, testutil.CollectAndCount(m.marked))
	require.NotContains(t, scrape(t, m), "nobody")
}

// BenchmarkRequest is what a request costs that does nothing, not observed and observed.
func BenchmarkRequest(b *testing.B) {
	for _, observed := range []bool{false, true} {
		b.Run(fmt.Sprint("observed=", observed), func(b *testing.B) {
			mux := edge.NewMux(silent)
			mux.Handle("GET /things", func(w http.ResponseWriter, _ *http.Request) error { return nil })
			if observed {
				mux.Observe(New("v1.2.3"))
			}
			b.RunParallel(func(pb *testing.PB) {
				recorder, request := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/things", nil)
				for pb.Next() {
					mux.ServeHTTP(recorder, request)
				}
			})
		})
	}
}
