package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// serve returns a mux that logs to a buffer. The buffer is safe to read when ServeHTTP has returned.
func serve() (*Mux, *bytes.Buffer) {
	log := &bytes.Buffer{}
	return NewMux(slog.New(slog.NewJSONHandler(log, nil))), log
}

func request(mux *Mux, method, target string) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequest(method, target, nil))
	return recorder
}

func ok(w http.ResponseWriter, r *http.Request) error {
	_, err := fmt.Fprint(w, r.PathValue("id"))
	return err
}

func TestNothingIsRedirected(t *testing.T) {
	t.Parallel()
	mux, _ := serve()
	mux.Handle("GET /things", ok)
	mux.Handle("GET /things/{id...}", ok)
	mux.Handle("DELETE /things/{id...}", ok)
	for target, want := range map[string]string{
		"/things":            "",
		"/things/":           "",
		"/things/a":          "a",
		"/things/a/b":        "a/b",
		"/things/a/b/":       "a/b/",
		"/things/a%2F%2Fb":   "a//b",
		"/things/a%2F..%2Fb": "a/../b",
		"/things/..%2F":      "../",
		"/things/...":        "...",
	} {
		got := request(mux, "GET", target)
		require.Equal(t, http.StatusOK, got.Code, target)
		require.Equal(t, want, got.Body.String(), target)
	}
	for _, target := range []string{
		"//things", "/things//", "/things/a//b", "/things/./a", "/things/../a", "/things/a/..", "/./things", "/x/../things",
	} {
		for _, method := range []string{"GET", "DELETE", "PUT"} {
			got := request(mux, method, target)
			require.Equal(t, http.StatusBadRequest, got.Code, target)
			require.Contains(t, got.Body.String(), "%2F", target)
		}
	}
	got := request(mux, "DELETE", "/things")
	require.Equal(t, http.StatusMethodNotAllowed, got.Code)
	require.Equal(t, "GET, HEAD", got.Header().Get("Allow"))
	for _, target := range []string{"/", "//", "/other", "/thing"} {
		require.Equal(t, http.StatusNotFound, request(mux, "GET", target).Code, target)
	}
}

func TestBeforeSeesEveryRequest(t *testing.T) {
	t.Parallel()
	mux, _ := serve()
	mux.Before(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Path", r.URL.Path) })
	mux.Handle("GET /fine", ok)
	mux.Handle("GET /fails", func(http.ResponseWriter, *http.Request) error { return errors.New("no") })
	for target, code := range map[string]int{"/fine": 200, "/fails": 500, "/unknown": 404, "/a//b": 400} {
		got := request(mux, "GET", target)
		require.Equal(t, code, got.Code)
		require.Equal(t, target, got.Header().Get("X-Path"))
	}
	require.Equal(t, "/fine", request(mux, "PUT", "/fine").Header().Get("X-Path"))
}

func TestAnErrorIsLoggedAndNotShown(t *testing.T) {
	t.Parallel()
	mux, log := serve()
	mux.Handle("GET /fails", func(http.ResponseWriter, *http.Request) error { return errors.New("table is gone") })
	mux.Handle("GET /panics", func(http.ResponseWriter, *http.Request) error { panic("table is gone") })
	mux.HandleOpaque("GET /opaque", func(http.ResponseWriter, *http.Request) error {
		return NewError(http.StatusNotFound, "a secret")
	}, "")
	for _, target := range []string{"/fails", "/panics"} {
		got := request(mux, "GET", target)
		require.Equal(t, http.StatusInternalServerError, got.Code)
		require.NotContains(t, got.Body.String(), "table")
		require.Contains(t, got.Body.String(), "trace id")
		require.Contains(t, log.String(), "table is gone")
		log.Reset()
	}
	got := request(mux, "GET", "/opaque")
	require.JSONEq(t, `{"error":"not found"}`, got.Body.String())
	require.Contains(t, log.String(), "a secret")
}

// TestLongTextsAreShortened: who may send much cannot fill the log with it.
func TestLongTextsAreShortened(t *testing.T) {
	t.Parallel()
	mux, log := serve()
	long := strings.Repeat("é", 1<<20)
	mux.Handle("GET /things", func(_ http.ResponseWriter, r *http.Request) error {
		EventOf(r.Context()).Set("thing", long)
		return NewError(http.StatusBadRequest, "there is no %s", long)
	})
	got := request(mux, "GET", "/things")
	require.Equal(t, http.StatusBadRequest, got.Code)
	require.Contains(t, log.String(), `"thing":"éé`)
	require.Contains(t, log.String(), `"error":"there is no éé`)
	require.Less(t, log.Len(), 20<<10)
	log.Reset()

	r := httptest.NewRequest(http.MethodGet, "/things", nil)
	r.Method = strings.Repeat("M", 1<<20)
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, r)
	require.Equal(t, http.StatusMethodNotAllowed, recorder.Code)
	require.Contains(t, log.String(), `"method":"MM`)
	require.Less(t, log.Len()+recorder.Body.Len(), 10<<10)
}

// TestWhoWentAway is logged as it is counted, and not with an answer that nobody got.
func TestWhoWentAway(t *testing.T) {
	t.Parallel()
	mux, log := serve()
	ctx, leave := context.WithCancel(t.Context())
	mux.Handle("GET /long", func(_ http.ResponseWriter, r *http.Request) error {
		leave()
		return fmt.Errorf("reading: %w", r.Context().Err())
	})
	mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/long", nil).WithContext(ctx))
	require.Contains(t, log.String(), `"level":"INFO"`)
	require.Contains(t, log.String(), `"status":499`)
	require.Contains(t, log.String(), "the client went away")
}

// TestHalfAnAnswer must be seen to be one: the connection is cut.
func TestHalfAnAnswer(t *testing.T) {
	t.Parallel()
	mux, _ := serve()
	mux.Handle("GET /half", func(w http.ResponseWriter, _ *http.Request) error {
		if _, err := io.WriteString(w, `["half",`+strings.Repeat(" ", 1<<16)); err != nil {
			return err
		}
		return errors.New("the other half is gone")
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/half", nil)
	require.NoError(t, err)
	response, err := server.Client().Do(r)
	require.NoError(t, err)
	_, err = io.ReadAll(response.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, response.Body.Close())
}

// TestAPanicInMidAnswer is an error in the log, though the answer had begun well.
func TestAPanicInMidAnswer(t *testing.T) {
	t.Parallel()
	mux, log := serve()
	mux.Handle("GET /half", func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		panic("the table is gone")
	})
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { request(mux, "GET", "/half") })
	require.Contains(t, log.String(), `"level":"ERROR"`)
	require.Contains(t, log.String(), "panic: the table is gone")
	require.Contains(t, log.String(), "edge_test.go", "the stack")
}

// TestTraces checks that a request is logged under the trace that it came with, and that who is told of an error is told of
// the same one.
func TestTraces(t *testing.T) {
	t.Parallel()
	mux, log := serve()
	mux.Handle("GET /fails", func(http.ResponseWriter, *http.Request) error { return errors.New("table is gone") })
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	for parent, kept := range map[string]bool{
		"00-" + id + "-00f067aa0ba902b7-01":      true,
		"cc-" + id + "-00f067aa0ba902b7-01-more": true,
		"00-" + id + "-00f067aa0ba902b7-01-more": false,
		"ff-" + id + "-00f067aa0ba902b7-01":      false,
		"nonsense":                               false,
		"":                                       false,
	} {
		log.Reset()
		request := httptest.NewRequest(http.MethodGet, "/fails", nil)
		request.Header.Set("traceparent", parent)
		recorder := httptest.NewRecorder()
		mux.ServeHTTP(recorder, request)
		var line struct {
			TraceID string `json:"trace_id"`
		}
		require.NoError(t, json.Unmarshal(log.Bytes(), &line), "one line: %s", log)
		require.Regexp(t, "^[0-9a-f]{32}$", line.TraceID)
		require.Equal(t, kept, line.TraceID == id, parent)
		require.Contains(t, recorder.Body.String(), line.TraceID)
	}
}
