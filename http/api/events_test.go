package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// enrolls has enrollments enroll, and has that told in the log.
func (s *server) enrolls(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		_, err := s.store.ApplyEvent(s.t.Context(), storage.Event{
			Kind: storage.EventTokenUpdate, ID: id, Type: "Device", Tally: 1, At: time.Now(),
		}, storage.EventOptions{})
		require.NoError(s.t, err)
	}
	s.advanceLog()
}

func (s *server) advanceLog() {
	s.t.Helper()
	for more := true; more; {
		var err error
		_, more, err = s.store.AdvanceHappenings(s.t.Context(), 100)
		require.NoError(s.t, err)
	}
}

// events are the ids and enrollments of an answer.
func (a *answer) events() (told []string, next, last int64) {
	a.t.Helper()
	a.is(http.StatusOK)
	var page events
	require.NoError(a.t, json.Unmarshal([]byte(a.body), &page))
	for _, event := range page.Events {
		told = append(told, fmt.Sprint(event.ID, " ", event.EnrollmentID))
	}
	return told, page.Next, page.LastID
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/v1/events").is(200).json(`{"events":[],"next":0,"last_id":0}`)
	s.do("GET", "/v1/events?after=0").is(200).json(`{"events":[],"next":0,"last_id":0}`)
	s.enrolls("a", "b", "c", "b")

	got := s.do("GET", "/v1/events?after=1&limit=1")
	var page events
	require.NoError(t, json.Unmarshal([]byte(got.body), &page))
	require.WithinDuration(t, time.Now(), page.Events[0].At, time.Minute)
	got.json(fmt.Sprintf(`{"events":[{"id":2,"at":%q,"kind":"enrollment.enrolled","enrollment_id":"b",
		"detail":{"type":"Device"}}],"next":2,"last_id":4}`, page.Events[0].At.Format(time.RFC3339Nano)))
	require.Equal(t, `</v1/events?after=2&limit=1>; rel="next"`, got.header.Get("Link"))

	for target, want := range map[string]string{
		"/v1/events":                         "[1 a 2 b 3 c 4 b] 4 4",
		"/v1/events?after=0&limit=2":         "[1 a 2 b] 2 4",
		"/v1/events?limit=1000&after=3":      "[4 b] 4 4",
		"/v1/events?after=4":                 "[] 4 4",
		"/v1/events?enrollment_id=b":         "[2 b 4 b] 4 4",
		"/v1/events?enrollment_id=b&limit=1": "[2 b] 2 4",
		"/v1/events?kind=enrollment.left":    "[] 4 4",
		"/v1/events?kind=enrollment.in-sync&kind=enrollment.enrolled&after=2": "[3 c 4 b] 4 4",
	} {
		got := s.do("GET", target)
		told, next, last := got.events()
		require.Equal(t, want, fmt.Sprint(told, next, last), target)
		require.Equal(t, next < last, got.header.Get("Link") != "", target)
	}
	for target, mentions := range map[string]string{
		"/v1/events?after=-1":          "after",
		"/v1/events?after=x":           "after",
		"/v1/events?limit=0":           "limit",
		"/v1/events?limit=1001":        "limit",
		"/v1/events?kind=enrolled":     "enrollment.enrolled",
		"/v1/events?kind=":             "kind",
		"/v1/events?enrollment_id=":    "enrollment_id",
		"/v1/events?enrollment_id=%ff": "enrollment_id",
		"/v1/events?wait=31":           "wait",
	} {
		s.do("GET", target).fails(http.StatusBadRequest, mentions)
	}
	s.do("GET", "/v1/events?after=5").fails(http.StatusGone, "event 5", "newest is 4")
}

// TestEventsThatAreGone checks that who comes late is told so.
func TestEventsThatAreGone(t *testing.T) {
	t.Parallel()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "decree.db"), sqlstore.Options{KeepEvents: 2})
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	s := newServer(t, func(c *Config) { c.Store = store })
	s.store = store
	s.enrolls("a", "b", "c", "d", "e")
	s.do("GET", "/v1/events?after=0").fails(http.StatusGone, "after event 0 is gone", "still there is 4")
	s.do("GET", "/v1/events?after=2&enrollment_id=e").fails(http.StatusGone, "still there is 4")
	told, _, _ := s.do("GET", "/v1/events?after=3").events()
	require.Equal(t, []string{"4 d", "5 e"}, told)
	told, _, _ = s.do("GET", "/v1/events").events()
	require.Equal(t, []string{"4 d", "5 e"}, told)
}

// TestEventsWaitedFor checks that a request can wait for an event.
func TestEventsWaitedFor(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	s := newServer(t, func(c *Config) { c.Stopping = stopping })
	s.enrolls("a")
	start := time.Now()
	told, _, _ := s.do("GET", "/v1/events?after=0&wait=30").events()
	require.Equal(t, []string{"1 a"}, told)
	require.Less(t, time.Since(start), 10*time.Second, "there is one")
	told, next, _ := s.do("GET", "/v1/events?after=1&wait=1").events()
	require.Empty(t, told)
	require.Equal(t, int64(1), next)

	got := make(chan *answer)
	for range 2 {
		go func() { got <- s.do("GET", "/v1/events?wait=30&after=1&enrollment_id=b") }()
	}
	s.enrolls("c", "b")
	for range 2 {
		told, _, _ = (<-got).events()
		require.Equal(t, []string{"3 b"}, told)
	}

	// Nobody waits for a server that is being stopped.
	go func() { got <- s.do("GET", "/v1/events?wait=30&after=3") }()
	start = time.Now()
	close(stopping)
	told, _, _ = (<-got).events()
	require.Empty(t, told)
	require.Less(t, time.Since(start), 10*time.Second)
}

// emptyLog is a store whose log stays empty.
type emptyLog struct{ Store }

// TestEventsWaitedForByMany checks that only so many requests wait at once, and that one that goes away makes room.
func TestEventsWaitedForByMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &api{Config: Config{Store: emptyLog{}}, eventWaiters: make(chan struct{}, maxEventWaiters)}
		wait := func() error {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/events?wait=30", nil)
			require.NoError(t, err)
			_, err = a.waitForEvents(r, storage.HappeningQuery{}, &storage.HappeningPage{}, 30*time.Second)
			return err
		}
		ended := make(chan error, maxEventWaiters)
		start := time.Now()
		for range maxEventWaiters {
			go func() { ended <- wait() }()
		}
		synctest.Wait()
		var refused *edge.Error
		require.ErrorAs(t, wait(), &refused)
		require.Equal(t, http.StatusServiceUnavailable, refused.Status)
		for range maxEventWaiters {
			require.NoError(t, <-ended)
		}
		require.Equal(t, 30*time.Second, time.Since(start))
		require.NoError(t, wait())
	})
}

func (emptyLog) Happenings(context.Context, storage.HappeningQuery) (*storage.HappeningPage, error) {
	return &storage.HappeningPage{}, nil
}

// TestEventKindsAreDocumented checks that the document has every kind.
func TestEventKindsAreDocumented(t *testing.T) {
	t.Parallel()
	var documented []string
	for _, kind := range document(t).Components.Schemas["EventKind"].Value.Enum {
		documented = append(documented, kind.(string))
	}
	require.ElementsMatch(t, strings.Split(eventKinds(), ", "), documented)
}
