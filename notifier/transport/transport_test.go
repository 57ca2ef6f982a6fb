package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
)

const (
	patience = 30 * time.Second
	key      = "a-secret-key"
)

func newClient(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := New("AnMDM", server.URL+"/v1/enqueue", "http://127.0.0.1/v1/enqueue/", "user", key)
	require.NoError(t, err)
	require.Equal(t, server.URL+"/v1/enqueue/", c.Endpoint())
	return c
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestRetryAfterForms(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "7": 7 * time.Second, "120": 2 * time.Minute, "86400": 24 * time.Hour,
		"86401": 24 * time.Hour, "9223372036854775807": 24 * time.Hour, "99999999999999999999999": 0,
		"1.5": 0, "soon": 0, "7 seconds": 0, "7, 8": 0, "0x10": 0, "\x00": 0,
		"Sun, 06 Nov 1994 08:49:37 GMT": 0, "Sun, 99 Nov 2094 08:49:37 GMT": 0,
	} {
		require.Equal(t, want, RetryAfter(header), header)
	}
	for _, layout := range []string{http.TimeFormat, time.RFC850, time.ANSIC} {
		after := RetryAfter(time.Now().Add(time.Hour).UTC().Format(layout))
		require.InDelta(t, time.Hour, after, float64(patience), layout)
	}
	require.Positive(t, RetryAfter("Fri, 31 Dec 9999 23:59:59 GMT"))
}

// TestAnswers is about which answers are the MDM's own.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code       int
		retryAfter string
		err        string // empty: none
		busy       time.Duration
	}{
		{code: 200}, {code: 200, retryAfter: "5"}, {code: 201}, {code: 207}, {code: 400}, {code: 404}, {code: 500},
		{code: 500, retryAfter: "5"},
		{code: 401, err: "AnMDM answered 401 Unauthorized: the enqueue key is wrong"},
		{code: 403, err: "AnMDM answered 403 Forbidden: the enqueue key is wrong"},
		{code: 301, err: "AnMDM answered 301 Moved Permanently"},
		{code: 302, err: "AnMDM answered 302 Found"},
		{code: 308, err: "AnMDM answered 308 Permanent Redirect"},
		{code: 502, err: "AnMDM answered 502 Bad Gateway"},
		{code: 504, err: "AnMDM answered 504 Gateway Timeout"},
		{code: 429, err: "AnMDM answered 429 Too Many Requests"},
		{code: 503, err: "AnMDM answered 503 Service Unavailable"},
		{code: 503, retryAfter: "0", err: "AnMDM answered 503 Service Unavailable"},
		{code: 503, retryAfter: "later", err: "AnMDM answered 503 Service Unavailable"},
		{code: 429, retryAfter: "30", err: "AnMDM answered 429 Too Many Requests", busy: 30 * time.Second},
		{code: 503, retryAfter: "600", err: "AnMDM answered 503 Service Unavailable", busy: 10 * time.Minute},
	} {
		c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			if test.retryAfter != "" {
				w.Header().Set("Retry-After", test.retryAfter)
			}
			w.WriteHeader(test.code)
			_, _ = io.WriteString(w, "text "+r.URL.Path)
		})
		code, text, err := c.Do(testContext(t), http.MethodPut, c.Endpoint()+"A", []byte("body"))
		if test.err == "" {
			require.NoError(t, err, test.code)
			require.Equal(t, test.code, code)
			require.Equal(t, "text /v1/enqueue/A", string(text))
			continue
		}
		require.ErrorContains(t, err, test.err, test.code)
		require.NotContains(t, err.Error(), key)
		require.NotContains(t, err.Error(), "enqueue/")
		var busy *notifier.BusyError
		require.Equal(t, test.busy > 0, errors.As(err, &busy), test.code)
		if busy != nil {
			require.Equal(t, test.busy, busy.After)
		}
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	type seen struct {
		method, uri, user, password, contentType string
		body                                     string
		length                                   int64
	}
	requests := make(chan seen, 1)
	c := newClient(t, func(_ http.ResponseWriter, r *http.Request) {
		s := seen{method: r.Method, uri: r.RequestURI, contentType: r.Header.Get("Content-Type"), length: r.ContentLength}
		s.user, s.password, _ = r.BasicAuth()
		body, _ := io.ReadAll(r.Body)
		s.body = string(body)
		requests <- s
	})
	for range 3 { // each has a body of its own
		_, _, err := c.Do(testContext(t), http.MethodPut, c.Endpoint()+Path([]string{"A", "b/ü?"}), []byte("body"))
		require.NoError(t, err)
		require.Equal(t, seen{
			http.MethodPut, "/v1/enqueue/A,b%2F%C3%BC%3F", "user", key, "application/xml", "body", 4,
		}, <-requests)
	}
	_, _, err := c.Do(testContext(t), http.MethodGet, c.Endpoint()+"A", nil)
	require.NoError(t, err)
	require.Equal(t, seen{http.MethodGet, "/v1/enqueue/A", "user", key, "", "", 0}, <-requests)
}

func TestPath(t *testing.T) {
	t.Parallel()
	require.Equal(t, "", Path(nil))
	require.Equal(t, "A", Path([]string{"A"}))
	require.Equal(t, "A:B,c%2Fd,%2C,%25", Path([]string{"A:B", "c/d", ",", "%"}))
}

func TestEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	_, _, err := c.Do(ctx, http.MethodGet, c.Endpoint()+"A", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotContains(t, err.Error(), "enqueue/")
	var busy *notifier.BusyError
	require.NotErrorAs(t, err, &busy)
}
