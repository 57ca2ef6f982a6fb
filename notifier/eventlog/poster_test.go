package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// patience is how long tests wait for what must happen.
const patience = 30 * time.Second

// receiver is what events are posted to. It takes what its behaviour lets it take.
type receiver struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	behave   func(count int, w http.ResponseWriter, request *http.Request) (taken bool)
	requests []time.Time
	batches  [][]storage.Happening // that were taken
	unsigned int
}

func newReceiver(t testing.TB) *receiver {
	r := &receiver{t: t}
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

// mark is the signature of these tests.
func mark(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

func (r *receiver) serve(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, time.Now())
	if request.Method != http.MethodPost || request.Header.Get("Content-Type") != "application/json" ||
		request.Header.Get("X-Mark") != mark(body) {
		r.unsigned++
	}
	if r.behave != nil && !r.behave(len(r.requests), w, request) {
		return
	}
	var posted struct{ Events []storage.Happening }
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&posted); err != nil {
		r.unsigned++
	}
	r.batches = append(r.batches, posted.Events)
}

// taken are the ids that were taken, in order, without those that were posted again.
func (r *receiver) taken() (ids []int64, repeated int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, batch := range r.batches {
		for _, event := range batch {
			if len(ids) > 0 && event.ID <= ids[len(ids)-1] {
				repeated++
				continue
			}
			ids = append(ids, event.ID)
		}
	}
	return ids, repeated
}

// waitFor waits until all events up to an id were taken, and checks that none is missing.
func (r *receiver) waitFor(first, last int64) (repeated int) {
	r.t.Helper()
	var ids []int64
	require.Eventually(r.t, func() bool {
		ids, repeated = r.taken()
		return len(ids) > 0 && ids[len(ids)-1] >= last
	}, patience, 5*time.Millisecond, "event %d", last)
	for i, id := range ids {
		require.Equal(r.t, first+int64(i), id)
	}
	require.Equal(r.t, last, ids[len(ids)-1])
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Zero(r.t, r.unsigned)
	return repeated
}

// world is a database with a log.
type world struct {
	t      *testing.T
	path   string
	store  *sqlstore.Store
	count  int
	log    *bytes.Buffer // to be read when nobody writes to it
	logger *slog.Logger
}

func newWorld(t *testing.T, keep int) *world {
	w := &world{t: t, path: filepath.Join(t.TempDir(), "decree.db"), log: &bytes.Buffer{}}
	w.logger = slog.New(slog.NewTextHandler(w.log, nil))
	w.open(keep)
	return w
}

// open opens the database, as after a restart.
func (w *world) open(keep int) {
	w.t.Helper()
	store, err := sqlite.Open(context.Background(), w.path, sqlstore.Options{KeepEvents: keep})
	require.NoError(w.t, err)
	w.store = store
	w.t.Cleanup(func() { _ = store.Close() })
}

// happen has events happen, and get their place in the log.
func (w *world) happen(count int) {
	w.t.Helper()
	for range count {
		w.count++
		_, err := w.store.ApplyEvent(w.t.Context(), storage.Event{
			Kind: storage.EventTokenUpdate, ID: fmt.Sprintf("<%d>", w.count), Tally: 1, At: time.Now(),
		}, storage.EventOptions{})
		require.NoError(w.t, err)
	}
	for more := true; more; {
		var err error
		_, more, err = w.store.AdvanceHappenings(w.t.Context(), 50)
		require.NoError(w.t, err)
	}
}

// poster starts a poster that is in a hurry.
func (w *world) poster(url string) *Poster {
	w.t.Helper()
	p := NewPoster(PosterConfig{
		Deliveries: w.store, URL: url, Timeout: 300 * time.Millisecond, Interval: 5 * time.Millisecond,
		Sign:   func(header http.Header, body []byte) { header.Set("X-Mark", mark(body)) },
		Logger: w.logger,
	})
	w.t.Cleanup(p.Stop)
	p.Start()
	return p
}

// begun makes sure that the place from which events are posted is known.
func (w *world) begun() {
	w.t.Helper()
	lease := storage.Lease{ID: 1, Duration: time.Minute}
	delivery, err := w.store.TakeDelivery(w.t.Context(), lease, 1)
	require.NoError(w.t, err)
	require.Nil(w.t, delivery)
	require.NoError(w.t, w.store.GiveUpDelivery(w.t.Context(), lease))
}

// TestPoster posts to a receiver that refuses, hangs, hangs up, answers nonsense and is gone for a while: it gets every
// event, in order.
func TestPoster(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.behave = func(count int, w http.ResponseWriter, request *http.Request) bool {
		switch count {
		case 1, 2:
			w.WriteHeader(http.StatusInternalServerError)
			return false
		case 3:
			w.WriteHeader(http.StatusNotFound)
			return false
		case 4:
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusFound)
			return false
		case 5: // for longer than is waited for
			<-request.Context().Done()
			return false
		case 6, 9:
			panic(http.ErrAbortHandler)
		case 8: // it takes them, and the answer is lost
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
			return true
		case 10:
			w.WriteHeader(http.StatusAccepted)
		}
		return true
	}
	w := newWorld(t, 0)
	w.happen(3) // before events are posted at all
	p := w.poster(r.URL)
	w.begun()
	w.happen(250)
	p.Wake()
	require.Equal(t, 100, r.waitFor(4, 253), "the batch whose answer was lost")
	r.mu.Lock()
	require.Equal(t, "<4>", r.batches[0][0].EnrollmentID)
	require.Len(t, r.batches[0], 100)
	r.mu.Unlock()

	address := r.Listener.Addr().String()
	r.Close()
	w.happen(5)
	p.Wake()
	again := newReceiver(t)
	p.Stop()
	require.Contains(t, w.log.String(), "the receiver answered 500")
	require.Contains(t, w.log.String(), "events are posted again")
	require.NotContains(t, w.log.String(), "http://"+address, "the URL may have a secret in it")

	// Another process goes on where this one was.
	require.NoError(t, w.store.Close())
	w.open(0)
	p = w.poster(again.URL)
	require.Zero(t, again.waitFor(254, 258))
	w.happen(1)
	p.Wake()
	require.Zero(t, again.waitFor(254, 259))
	p.Stop()
	p.Stop()
}

// TestPosterTraces checks that each post is a trace of its own, by whose id the log tells what became of it.
func TestPosterTraces(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	var traces []string
	r.behave = func(count int, w http.ResponseWriter, request *http.Request) bool {
		if values := request.Header.Values("Traceparent"); len(values) == 1 {
			traces = append(traces, values[0])
		}
		if count < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return count >= 3
	}
	w := newWorld(t, 0)
	w.logger = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p := w.poster(r.URL)
	w.begun()
	w.happen(1)
	p.Wake()
	r.waitFor(1, 1)
	p.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Len(t, traces, 3)
	log := w.log.String()
	for i, message := range []string{"events were not taken", "events were not taken", "events posted"} {
		require.Regexp(t, "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]$", traces[i])
		id := strings.Split(traces[i], "-")[1]
		require.Regexp(t, `msg="`+message+`" first=1 last=1 trace_id=`+id+` duration=`, log)
		require.Equal(t, i, slices.IndexFunc(traces, func(other string) bool { return strings.Contains(other, id) }), "it is another's too")
	}
	require.Regexp(t, `msg="events are posted again" first=1 last=1 trace_id=`+strings.Split(traces[2], "-")[1], log)
}

// TestPosterThatIsPruned checks that posting goes on with what is there, and that what is not is said.
func TestPosterThatIsPruned(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.behave = func(count int, w http.ResponseWriter, _ *http.Request) bool {
		if count < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return count >= 3
	}
	w := newWorld(t, 10)
	p := w.poster(r.URL)
	w.begun()
	p.Stop()
	w.happen(25)
	p.Start()
	r.waitFor(16, 25)
	p.Stop()
	require.Contains(t, w.log.String(), "lost=15 first=1 last=15")
	require.Equal(t, 1, bytes.Count(w.log.Bytes(), []byte("lost=15")), "it is said once")
}

// TestPosterIsAskedToWait checks that a receiver is left alone for as long as it asks for, by other servers too.
func TestPosterIsAskedToWait(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.behave = func(count int, w http.ResponseWriter, _ *http.Request) bool {
		if count == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		return count > 1
	}
	w := newWorld(t, 0)
	first := w.poster(r.URL)
	w.begun()
	second := w.poster(r.URL)
	w.happen(1)
	first.Wake()
	second.Wake()
	r.waitFor(1, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Len(t, r.requests, 2)
	require.GreaterOrEqual(t, r.requests[1].Sub(r.requests[0]), 900*time.Millisecond)
}

// TestPosterOfMany has several posters share the work: whichever is stopped, all is posted, once.
func TestPosterOfMany(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	w := newWorld(t, 0)
	posters := []*Poster{w.poster(r.URL), w.poster(r.URL), w.poster(r.URL)}
	w.begun()
	for i, p := range posters {
		w.happen(30)
		for _, other := range posters {
			other.Wake()
		}
		require.Zero(t, r.waitFor(1, int64(30*(i+1))))
		p.Stop()
	}
}

// TestPosterStops checks that a receiver that hangs does not keep the server from stopping.
func TestPosterStops(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	asked := make(chan struct{}, 10)
	r.behave = func(_ int, _ http.ResponseWriter, request *http.Request) bool {
		asked <- struct{}{}
		<-request.Context().Done()
		return false
	}
	w := newWorld(t, 0)
	p := NewPoster(PosterConfig{Deliveries: w.store, URL: r.URL, Logger: slog.New(slog.DiscardHandler)})
	p.Start()
	w.begun()
	w.happen(1)
	p.Wake()
	<-asked
	start := time.Now()
	p.Stop()
	require.Less(t, time.Since(start), stopGrace+5*time.Second)
	delivery, err := w.store.TakeDelivery(t.Context(), storage.Lease{ID: 1, Duration: time.Minute}, 1)
	require.NoError(t, err)
	require.Len(t, delivery.Happenings, 1, "it is free for others, and still to be delivered")
}

func TestPosterIntervals(t *testing.T) {
	t.Parallel()
	p := NewPoster(PosterConfig{})
	for failures, longest := range map[int]time.Duration{
		0: time.Second, 1: 2 * time.Second, 5: 32 * time.Second, 6: time.Minute, 100: time.Minute,
	} {
		p.failures = failures
		for range 100 {
			interval := p.interval()
			require.GreaterOrEqual(t, interval, longest/2)
			require.LessOrEqual(t, interval, longest)
		}
	}
}
