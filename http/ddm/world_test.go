package ddm_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	protocol "github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/compositor"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var (
	change = storage.ChangeOptions{ChangeID: "change"}
	start  = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
)

// world is the device endpoints over a database whose clock stands still unless it is moved.
type world struct {
	*testing.T
	store   *countingStore
	raw     *sql.DB // the same database
	server  *httptest.Server
	logs    *strings.Builder
	elapsed atomic.Int64
	dumped  [][]byte
	results []string // what became of reports
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, logs: &strings.Builder{}}
	path := filepath.Join(t.TempDir(), "decree.db")
	store, err := sqlite.Open(context.Background(), path, sqlstore.Options{NotifyDelay: -1, Clock: w.now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	w.raw, err = sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.raw.Close()) })
	w.store = &countingStore{Store: store}
	w.serve(compositor.Options{})
	return w
}

// serve makes a new server over the same database.
func (w *world) serve(options compositor.Options) {
	mux := edge.NewMux(slog.New(slog.NewTextHandler(&lockedWriter{w: w.logs}, &slog.HandlerOptions{Level: slog.LevelDebug})))
	var mu sync.Mutex
	ddm.Register(mux, ddm.Config{
		Store: w.store, Compositor: compositor.New(w.store, options),
		DumpStatus: func(_ string, report []byte) {
			mu.Lock()
			defer mu.Unlock()
			w.dumped = append(w.dumped, report)
		},
		Reported: func(result string) {
			mu.Lock()
			defer mu.Unlock()
			w.results = append(w.results, result)
		},
	})
	w.server = httptest.NewServer(mux)
	w.Cleanup(w.server.Close)
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(line)
}

func (w *world) now() time.Time { return start.Add(time.Duration(w.elapsed.Load())) }

func (w *world) advance(by time.Duration) { w.elapsed.Add(int64(by)) }

// answer is what a device's request gets.
type answer struct {
	code   int
	body   string
	header http.Header
}

// request sends a request with headers, given as name and value.
func (w *world) request(method, path, body string, headers ...string) answer {
	w.Helper()
	request, err := http.NewRequestWithContext(w.Context(), method, w.server.URL+path, strings.NewReader(body))
	require.NoError(w, err)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	return w.send(request)
}

func (w *world) send(request *http.Request) answer {
	w.Helper()
	response, err := w.server.Client().Do(request)
	require.NoError(w, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(w, err)
	return answer{response.StatusCode, string(text), response.Header}
}

func (w *world) get(id, path string) answer {
	w.Helper()
	return w.request(http.MethodGet, path, "", "X-Enrollment-ID", id, "X-Enrollment-Type", "Device")
}

// ok gets what must be there.
func (w *world) ok(id, path string) string {
	w.Helper()
	got := w.get(id, path)
	require.Equal(w, http.StatusOK, got.code, "GET %s: %s", path, got.body)
	return got.body
}

func (w *world) status(id, report string) answer {
	w.Helper()
	return w.request(http.MethodPut, "/status", report, "X-Enrollment-ID", id, "X-Enrollment-Type", "Device")
}

func configuration(identifier, echo string) *protocol.Declaration {
	return &protocol.Declaration{
		Identifier: identifier, Type: "com.apple.configuration.management.test", Class: protocol.ClassConfiguration,
		Payload: fmt.Appendf(nil, `{"Echo":%q}`, echo),
	}
}

func (w *world) put(declaration *protocol.Declaration) {
	w.Helper()
	_, err := w.store.PutDeclaration(w.Context(), declaration, change)
	require.NoError(w, err)
}

func (w *world) fill(set string, identifiers ...string) {
	w.Helper()
	for _, identifier := range identifiers {
		w.put(configuration(identifier, "first"))
		_, err := w.store.PutSetDeclaration(w.Context(), set, identifier, change)
		require.NoError(w, err)
	}
}

func (w *world) assign(id, set string) {
	w.Helper()
	_, err := w.store.PutEnrollmentSet(w.Context(), id, set, change)
	require.NoError(w, err)
}

func (w *world) unassign(id, set string) {
	w.Helper()
	changed, err := w.store.DeleteEnrollmentSet(w.Context(), id, set, change)
	require.NoError(w, err)
	require.True(w, changed)
}

func (w *world) enrollment(id string) *storage.Enrollment {
	w.Helper()
	enrollment, _, err := w.store.Store.Enrollment(w.Context(), id)
	require.NoError(w, err)
	return enrollment
}

// token is what an enrollment should have, found out without a request.
func (w *world) token(id string) string {
	w.Helper()
	return w.composition(id).Token
}

func (w *world) composition(id string) *storage.Composition {
	w.Helper()
	_, vector, err := w.store.Store.Enrollment(w.Context(), id)
	require.NoError(w, err)
	composition, err := compositor.New(w.store.Store, compositor.Options{}).Compose(w.Context(), id, vector)
	require.NoError(w, err)
	return composition
}

// dump is the content of all tables that a device's request could write to.
func (w *world) dump() string {
	w.Helper()
	var text strings.Builder
	for _, table := range []string{
		"enrollments", "manifests", "status_reports", "status_declarations", "status_values", "status_errors", "fanouts",
	} {
		rows, err := w.raw.QueryContext(w.Context(), `SELECT * FROM `+table+` ORDER BY 1, 2`)
		require.NoError(w, err)
		columns, err := rows.Columns()
		require.NoError(w, err)
		for rows.Next() {
			values := make([]any, len(columns))
			pointers := make([]any, len(columns))
			for i := range values {
				pointers[i] = &values[i]
			}
			require.NoError(w, rows.Scan(pointers...))
			fmt.Fprintf(&text, "%s: %v\n", table, values)
		}
		require.NoError(w, rows.Err())
		require.NoError(w, rows.Close())
	}
	return text.String()
}

// countingStore counts the calls that cost a query, and can fail.
type countingStore struct {
	*sqlstore.Store
	queries, writes atomic.Int64
	failure         atomic.Pointer[error]
	onlyWrites      atomic.Bool
}

// counts returns the calls since the last time.
func (s *countingStore) counts() (queries, writes int64) {
	return s.queries.Swap(0), s.writes.Swap(0)
}

func (s *countingStore) fail(err error) {
	if err == nil {
		s.failure.Store(nil)
		return
	}
	s.failure.Store(&err)
}

func (s *countingStore) failWrites(err error) {
	s.onlyWrites.Store(err != nil)
	s.fail(err)
}

func (s *countingStore) failed(count *atomic.Int64) error {
	count.Add(1)
	if err := s.failure.Load(); err != nil && (count == &s.writes || !s.onlyWrites.Load()) {
		return *err
	}
	return nil
}

func (s *countingStore) DeviceEnrollment(ctx context.Context, id string) (*storage.Enrollment, storage.Vector, error) {
	if err := s.failed(&s.queries); err != nil {
		return nil, nil, err
	}
	return s.Store.DeviceEnrollment(ctx, id)
}

func (s *countingStore) VectorContents(
	ctx context.Context, enrollmentID string, known storage.Vector,
) (storage.Vector, map[string][]protocol.Item, error) {
	if err := s.failed(&s.queries); err != nil {
		return nil, nil, err
	}
	return s.Store.VectorContents(ctx, enrollmentID, known)
}

func (s *countingStore) DeclarationVersion(
	ctx context.Context, identifier, serverToken string,
) (*protocol.Declaration, error) {
	if err := s.failed(&s.queries); err != nil {
		return nil, err
	}
	return s.Store.DeclarationVersion(ctx, identifier, serverToken)
}

func (s *countingStore) Manifest(ctx context.Context, token string) ([]byte, error) {
	if err := s.failed(&s.queries); err != nil {
		return nil, err
	}
	return s.Store.Manifest(ctx, token)
}

func (s *countingStore) SaveManifest(ctx context.Context, token string, declarationItems []byte) error {
	if err := s.failed(&s.writes); err != nil {
		return err
	}
	return s.Store.SaveManifest(ctx, token, declarationItems)
}

func (s *countingStore) UpdateDevice(ctx context.Context, update storage.DeviceUpdate) error {
	if err := s.failed(&s.writes); err != nil {
		return err
	}
	return s.Store.UpdateDevice(ctx, update)
}

func (s *countingStore) PutStatus(ctx context.Context, status storage.ReceivedStatus) error {
	if err := s.failed(&s.writes); err != nil {
		return err
	}
	return s.Store.PutStatus(ctx, status)
}
