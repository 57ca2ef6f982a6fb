// Package edge is what Decree's HTTP handlers share: handlers that return errors, the one mapping of errors to answers,
// bounded bodies, and one log line a request. It knows no route.
package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/decree-ddm/decree/http/trace"
)

// HandlerFunc answers a request, or returns an error before it has written anything; the Mux then answers. After an
// error later on the connection is cut.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Mux routes requests by the patterns of net/http, and logs each once. It is safe for concurrent use after the last
// Handle.
type Mux struct {
	mux      *http.ServeMux
	before   []func(http.ResponseWriter, *http.Request)
	routes   []*route
	notFound http.Handler
	observer Observer // nil: nobody
	bodies   *Bodies
	logger   *slog.Logger
	now      func() time.Time
}

// NewMux returns a mux that logs to logger.
func NewMux(logger *slog.Logger) *Mux {
	m := &Mux{mux: http.NewServeMux(), bodies: NewBodies(), logger: logger, now: time.Now}
	m.notFound = m.adapt("", false, m.unrouted)
	m.mux.Handle("/", m.notFound)
	return m
}

// Handle registers a handler. Its errors are explained to the client.
func (m *Mux) Handle(pattern string, handler HandlerFunc) {
	m.mux.Handle(pattern, m.adapt(pattern, false, handler))
}

// HandleOpaque registers a handler whose errors tell the client nothing but the meaning of the status code: for what
// devices can reach. With a key, every answer is signed.
func (m *Mux) HandleOpaque(pattern string, handler HandlerFunc, key string) {
	m.mux.Handle(pattern, signed(key, m.adapt(pattern, true, handler)))
}

// Before has fn see every request before it is routed: for headers that belong on every answer, errors included. Like
// Handle, it is for the time before the first request.
func (m *Mux) Before(fn func(w http.ResponseWriter, r *http.Request)) {
	m.before = append(m.before, fn)
}

// ShareBodies has the mux share room for bodies with others. Like Handle, it is for the time before the first request.
func (m *Mux) ShareBodies(bodies *Bodies) { m.bodies = bodies }

func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Whoever reads a large body gives it longer.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(m.bodies.grace)) // what is no connection has none
	}
	for _, fn := range m.before {
		fn(w, r)
	}
	if handler, _ := m.mux.Handler(r); !isOurs(handler) {
		// ServeMux would redirect to a cleaned path or to one with a slash at its end. Few clients follow that with a
		// method and body, and an identifier in the path would have become another one.
		m.notFound.ServeHTTP(w, r)
		return
	}
	m.mux.ServeHTTP(w, r)
}

// routed is a handler that adapt made, as opposed to those that ServeMux makes itself.
type routed func(http.ResponseWriter, *http.Request)

func (h routed) ServeHTTP(w http.ResponseWriter, r *http.Request) { h(w, r) }

func isOurs(handler http.Handler) bool {
	_, ours := handler.(routed)
	return ours
}

// unrouted answers what no pattern matches.
func (m *Mux) unrouted(w http.ResponseWriter, r *http.Request) error {
	inner := strings.TrimSuffix(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	for segment := range strings.SplitSeq(inner, "/") {
		if inner != "" && (segment == "" || segment == "." || segment == "..") {
			return NewError(http.StatusBadRequest,
				`the path has an empty segment, or one that is "." or "..": write a slash that is part of a name as %%2F`)
		}
	}
	var allowed []string
	for _, method := range []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if handler, pattern := m.mux.Handler(probe); isOurs(handler) && pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return NewError(http.StatusNotFound, "there is nothing at this path")
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return NewError(http.StatusMethodNotAllowed, "%s is not allowed here", shortened(r.Method, maxText))
}

// adapt turns a handler that returns errors into one of net/http's, and logs.
func (m *Mux) adapt(pattern string, opaque bool, handler HandlerFunc) http.Handler {
	route := m.newRoute(pattern)
	return routed(func(w http.ResponseWriter, r *http.Request) {
		start := m.now()
		route.observer.Began()
		event := &Event{header: r.Header, bodies: m.bodies}
		defer func() { event.room.giveBack() }()
		answer := &answer{ResponseWriter: w}
		var err error
		defer func() { route.observer.Ended(outcome(r, answer, err), m.now().Sub(start)) }()
		err = m.call(handler, answer, r.WithContext(context.WithValue(r.Context(), eventKey{}, event)))
		cut := err != nil && answer.wrote
		if err != nil && !cut {
			writeProblem(answer, problemOf(err), event, opaque)
		}
		m.log(r, pattern, event, answer, err, m.now().Sub(start))
		if cut {
			// Half an answer must not look like a whole one.
			panic(http.ErrAbortHandler)
		}
	})
}

// call turns a panic into an error.
func (m *Mux) call(handler HandlerFunc, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			err = &panicError{p, debug.Stack()}
		}
	}()
	return handler(w, r)
}

// panicError is a defect of the program's, whatever was answered before.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

func (m *Mux) log(
	r *http.Request, pattern string, event *Event, answer *answer, err error, duration time.Duration,
) {
	level, text := slog.LevelInfo, ""
	switch {
	case err == nil:
		if r.Method == http.MethodGet || event.quiet {
			level = slog.LevelDebug
		}
	case wentAway(r, err):
		text = "the client went away"
	default:
		text = err.Error()
		var panicked *panicError
		switch {
		case errors.As(err, &panicked):
			level = slog.LevelError
		case answer.status() == http.StatusServiceUnavailable:
			level = slog.LevelWarn // what is in the way is logged where it is found
		case answer.status() >= 500:
			level = slog.LevelError
		}
	}
	if !m.logger.Enabled(r.Context(), level) {
		return
	}
	attributes := []slog.Attr{
		slog.String("trace_id", event.TraceID()),
		slog.String("method", shortened(r.Method, maxText)),
		slog.String("route", pattern),
		slog.Int("status", outcome(r, answer, err)),
		slog.Duration("duration", duration),
		slog.String("remote", r.RemoteAddr),
	}
	attributes = append(attributes, event.attributes()...)
	if text != "" {
		attributes = append(attributes, slog.String("error", shortened(text, maxErrorText)))
	}
	m.logger.LogAttrs(r.Context(), level, "request", attributes...)
}

// outcome is the code that a request is counted and logged with.
func outcome(r *http.Request, answer *answer, err error) int {
	if wentAway(r, err) {
		return StatusClientGone
	}
	return answer.status()
}

// What strangers send is in log lines, which must not be as long as what they may send. Errors have stacks in them.
const (
	maxText      = 1 << 10
	maxErrorText = 16 << 10
)

// shortened returns what a log line has of a text, of which it keeps limit octets.
func shortened(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	wrote bool
	code  int
}

func (a *answer) WriteHeader(code int) {
	if !a.wrote {
		a.wrote, a.code = true, code
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(b []byte) (int, error) {
	if !a.wrote {
		a.wrote, a.code = true, http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) status() int {
	if !a.wrote {
		return http.StatusOK
	}
	return a.code
}

// Event is what is logged of a request, filled in along the way.
type Event struct {
	header http.Header // of the request

	// bodies is where the body takes room, body what was read of it, and room what that takes.
	bodies *Bodies
	body   []byte
	room   *room

	mu    sync.Mutex
	trace trace.Trace // none until somebody asks for it: few requests are logged
	quiet bool
	attrs []slog.Attr
}

type eventKey struct{}

// EventOf returns the event of the request that a context belongs to.
func EventOf(ctx context.Context) *Event {
	if event, ok := ctx.Value(eventKey{}).(*Event); ok {
		return event
	}
	return &Event{}
}

// TraceID is the id of the trace that the request belongs to, by its traceparent (W3C Trace Context), or that of a new one.
func (e *Event) TraceID() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.trace == (trace.Trace{}) {
		e.trace = trace.Of(e.header)
	}
	return e.trace.ID()
}

// Set adds an attribute, of which what is long is shortened. Payloads and secrets have no place in it.
func (e *Event) Set(key, value string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attrs = append(e.attrs, slog.String(key, shortened(value, maxText)))
}

// Quiet says that a success is worth a debug line only.
func (e *Event) Quiet() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.quiet = true
}

func (e *Event) attributes() []slog.Attr {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.attrs
}
