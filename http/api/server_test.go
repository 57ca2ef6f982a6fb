package api

import (
	"bytes"
	"encoding/json"
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

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/compositor"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

const (
	testKey = "the key"
	readKey = "the-key-for-reading"
)

// server is the API over a database of its own. Every answer that it gives is held against the document.
type server struct {
	t     *testing.T
	store *sqlstore.Store
	url   string
	woken *atomic.Int32
	log   *logBuffer
}

func newServer(t *testing.T, configure ...func(*Config)) *server {
	t.Helper()
	s := &server{t: t, store: newStore(t), woken: &atomic.Int32{}, log: &logBuffer{}}
	keys, err := NewKeyring(testKey)
	require.NoError(t, err)
	require.NoError(t, keys.Load([]byte("reader read "+readKey)))
	config := Config{
		Store:      s.store,
		Compositor: compositor.New(s.store, compositor.Options{}),
		Keys:       keys,
		Version:    "v0.0.0-test",
		Wake:       func() { s.woken.Add(1) },
	}
	for _, f := range configure {
		f(&config)
	}
	mux := edge.NewMux(slog.New(slog.NewJSONHandler(s.log, nil)))
	Register(mux, config)
	RegisterHealth(mux, s.store)
	listener := httptest.NewServer(mux)
	t.Cleanup(listener.Close)
	s.url = listener.URL
	return s
}

// in is the server for a subtest.
func (s *server) in(t *testing.T) *server {
	copied := *s
	copied.t = t
	return &copied
}

func newStore(t *testing.T) *sqlstore.Store {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "decree.db"), sqlstore.Options{NotifyDelay: -1})
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() }) // some tests close it before
	return store
}

// logBuffer is a buffer that handlers may write to while a test reads it.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// answer is what a request got.
type answer struct {
	t      *testing.T
	code   int
	header http.Header
	body   string
}

type requestOption func(*http.Request)

func header(name, value string) requestOption {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// body sends a body with a Content-Length.
func body(text string) requestOption {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
	}
}

// chunked sends a body that does not say how long it is.
func chunked(text string) requestOption {
	return func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), -1 }
}

func form(text string) requestOption {
	return func(r *http.Request) {
		header("Content-Type", "application/x-www-form-urlencoded")(r)
		body(text)(r)
	}
}

var anonymous requestOption = func(r *http.Request) { r.Header.Del("Authorization") }

var readOnly requestOption = func(r *http.Request) { r.SetBasicAuth("kmfddm", readKey) }

// do makes a request with the API key. The target is sent as it is.
func (s *server) do(method, target string, options ...requestOption) *answer {
	s.t.Helper()
	got := s.undocumented(method, target, options...)
	document(s.t).check(s.t, method, target, got)
	return got
}

// undocumented is do for an answer that the document's schemas cannot be held against.
func (s *server) undocumented(method, target string, options ...requestOption) *answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+target, nil)
	require.NoError(s.t, err)
	r.SetBasicAuth("kmfddm", testKey)
	for _, option := range options {
		option(r)
	}
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(r)
	require.NoError(s.t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	require.NoError(s.t, response.Body.Close())
	return &answer{s.t, response.StatusCode, response.Header, string(text)}
}

func (a *answer) is(code int) *answer {
	a.t.Helper()
	require.Equal(a.t, code, a.code, a.body)
	return a
}

// json holds the body against JSON text.
func (a *answer) json(want string) *answer {
	a.t.Helper()
	require.Equal(a.t, "application/json", a.header.Get("Content-Type"))
	require.JSONEq(a.t, want, a.body)
	return a
}

// empty checks that there is no body.
func (a *answer) empty() *answer {
	a.t.Helper()
	require.Empty(a.t, a.body)
	return a
}

// fails checks that the answer is an error in JSON with each of these texts in it.
func (a *answer) fails(code int, texts ...string) *answer {
	a.t.Helper()
	a.is(code)
	require.Equal(a.t, "application/json", a.header.Get("Content-Type"))
	for _, text := range texts {
		require.Contains(a.t, a.problem().Error, text)
	}
	return a
}

type problem struct {
	Error   string
	Details []string
}

func (a *answer) problem() problem {
	a.t.Helper()
	var p problem
	require.NoError(a.t, json.Unmarshal([]byte(a.body), &p), a.body)
	return p
}

// declaration is the JSON of a configuration.
func declaration(identifier string) string {
	return `{"Identifier":"` + identifier + `","Type":"com.apple.configuration.test","Payload":{"Echo":"` +
		identifier + `"}}`
}

// given stores declarations.
func (s *server) given(identifiers ...string) {
	s.t.Helper()
	for _, identifier := range identifiers {
		s.do("PUT", "/v1/declarations", body(declaration(identifier))).is(204)
	}
}

// reported stores a status report of an enrollment.
func (s *server) reported(id, raw string) {
	s.t.Helper()
	report, err := ddm.ParseStatusReport([]byte(raw))
	require.NoError(s.t, err)
	enrollment, _, err := s.store.Enrollment(s.t.Context(), id)
	require.NoError(s.t, err)
	require.NoError(s.t, s.store.PutStatus(s.t.Context(), storage.ReceivedStatus{
		Raw: []byte(raw), Report: report, Device: storage.DeviceUpdate{ID: id, Epoch: enrollment.Epoch},
	}))
}

func (s *server) enrollment(id string) *storage.Enrollment {
	s.t.Helper()
	enrollment, _, err := s.store.Enrollment(s.t.Context(), id)
	require.NoError(s.t, err)
	return enrollment
}

// What a request logs is there soon after its answer.
const (
	eventually = 5 * time.Second
	tick       = 5 * time.Millisecond
)
