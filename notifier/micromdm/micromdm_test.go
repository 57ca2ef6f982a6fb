package micromdm

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/micromdm/nanomdm/mdm"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
)

const (
	patience = 30 * time.Second
	key      = "a-secret-key"
)

// server stands for MicroMDM: it takes requests and answers with a code.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // method and URI
	uuids    []string // of the commands, as they came
	codes    map[string]int
	header   http.Header
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{codes: map[string]int{}, header: http.Header{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	request := r.Method + " " + r.RequestURI
	s.requests = append(s.requests, request)
	if user, password, _ := r.BasicAuth(); user != "micromdm" || password != key {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, _ := io.ReadAll(r.Body)
	if len(body) > 0 {
		command, err := mdm.DecodeCommand(body)
		if err != nil || r.Header.Get("Content-Type") != "application/xml" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		s.uuids = append(s.uuids, command.CommandUUID)
	}
	for name, values := range s.header {
		w.Header()[name] = values
	}
	code, scripted := s.codes[request]
	switch {
	case scripted:
	case r.Method == http.MethodPost:
		code = http.StatusCreated
	default:
		code = http.StatusOK
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, `{"payload":{"command_uuid":"u"}}`)
}

// answer has a request be answered with a code.
func (s *server) answer(request string, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[request] = code
}

// take returns the requests since the last take.
func (s *server) take() (requests, uuids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests, uuids = s.requests, s.uuids
	s.requests, s.uuids = nil, nil
	return requests, uuids
}

func (s *server) client(t *testing.T, key string) *Client {
	t.Helper()
	c, err := New(s.URL+"/v1/commands/", key)
	require.NoError(t, err)
	return c
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newCommand() notifier.Command {
	return notifier.Command{UUID: uuid.NewString(), Data: []byte(`{"SyncTokens":{}}`)}
}

func TestEnqueueAndPush(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.client(t, key)
	for id, path := range map[string]string{
		"PLAIN": "PLAIN", "a/b": "a%2Fb", "a,b": "a%2Cb", "a?b#c": "a%3Fb%23c", "a%b": "a%25b", "a b": "a%20b", "ü": "%C3%BC",
		"..%2Fversion": "..%252Fversion",
	} {
		for range 2 {
			command := newCommand()
			results, err := c.Enqueue(testContext(t), []string{id}, command)
			require.NoError(t, err)
			require.Equal(t, map[string]notifier.Result{id: {}}, results)
			requests, uuids := s.take()
			require.Equal(t, []string{"POST /v1/commands/" + path}, requests)
			require.Equal(t, []string{command.UUID}, uuids, "each request has a whole body")
		}
		results, err := c.Push(testContext(t), []string{id})
		require.NoError(t, err)
		require.Equal(t, map[string]notifier.Result{id: {}}, results)
		requests, uuids := s.take()
		require.Equal(t, []string{"GET /push/" + path}, requests)
		require.Empty(t, uuids)
	}

	// One id a request.
	results, err := c.Enqueue(testContext(t), []string{"A", "B"}, newCommand())
	require.NoError(t, err)
	require.Equal(t, map[string]notifier.Result{"A": {}, "B": {}}, results)
	requests, uuids := s.take()
	require.Equal(t, []string{"POST /v1/commands/A", "POST /v1/commands/B"}, requests)
	require.Len(t, uuids, 2)
}

func TestCodes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.client(t, key)
	ids := []string{"A"}
	for _, code := range []int{200, 201, 202, 204} {
		s.answer("POST /v1/commands/A", code)
		results, err := c.Enqueue(testContext(t), ids, newCommand())
		require.NoError(t, err)
		require.Equal(t, map[string]notifier.Result{"A": {}}, results)
	}
	for _, code := range []int{400, 404, 405, 413, 499} {
		text := fmt.Sprintf("MicroMDM answered %d", code)
		s.answer("POST /v1/commands/A", code)
		results, err := c.Enqueue(testContext(t), ids, newCommand())
		require.NoError(t, err, "it concerns the enrollment")
		require.Contains(t, results["A"].CommandError, text)
		require.Empty(t, results["A"].PushError)
		s.answer("GET /push/A", code)
		results, err = c.Push(testContext(t), ids)
		require.NoError(t, err)
		require.Empty(t, results["A"].CommandError)
		require.Contains(t, results["A"].PushError, text)
	}

	// 500 is what it answers for an enrollment that it cannot find or push to, and also when it is broken.
	s.answer("POST /v1/commands/A", 500)
	_, err := c.Enqueue(testContext(t), ids, newCommand())
	var refused *notifier.RefusedError
	require.ErrorAs(t, err, &refused)
	s.answer("GET /push/A", 500)
	results, err := c.Push(testContext(t), ids)
	require.NoError(t, err)
	require.Contains(t, results["A"].PushError, "500")

	for _, code := range []int{301, 302, 307, 401, 403, 429, 502, 503, 504} {
		s.answer("POST /v1/commands/A", code)
		s.answer("GET /push/A", code)
		s.answer("GET /version", code)
		_, err := c.Enqueue(testContext(t), ids, newCommand())
		require.ErrorContains(t, err, fmt.Sprint(code))
		require.NotErrorAs(t, err, &refused)
		_, err = c.Push(testContext(t), ids)
		require.ErrorContains(t, err, fmt.Sprint(code))
		require.ErrorContains(t, c.Probe(testContext(t)), fmt.Sprint(code))
	}
	s.mu.Lock()
	s.header.Set("Retry-After", "9")
	s.mu.Unlock()
	s.answer("POST /v1/commands/A", 503)
	_, err = c.Enqueue(testContext(t), ids, newCommand())
	var busy *notifier.BusyError
	require.ErrorAs(t, err, &busy)
	require.Equal(t, 9*time.Second, busy.After)
}

func TestProbe(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	require.NoError(t, s.client(t, key).Probe(testContext(t)))
	requests, _ := s.take()
	require.Equal(t, []string{"GET /version"}, requests)
	s.answer("GET /version", 404)
	require.ErrorContains(t, s.client(t, key).Probe(testContext(t)), "404")

	for name, do := range map[string]func(c *Client) error{
		"enqueue": func(c *Client) error {
			_, err := c.Enqueue(testContext(t), []string{"A"}, newCommand())
			return err
		},
		"push": func(c *Client) error {
			_, err := c.Push(testContext(t), []string{"A"})
			return err
		},
		"probe": func(c *Client) error { return c.Probe(testContext(t)) },
	} {
		err := do(s.client(t, "another-key"))
		require.ErrorContains(t, err, "the enqueue key is wrong", name)
		require.NotContains(t, err.Error(), "another-key")
	}
	c := s.client(t, key)
	s.Close()
	require.Error(t, c.Probe(testContext(t)))
	_, err := c.Enqueue(testContext(t), []string{"DEVICE"}, newCommand())
	require.Error(t, err)
	require.NotContains(t, err.Error(), "DEVICE")
}

func TestNew(t *testing.T) {
	t.Parallel()
	for good, server := range map[string]string{
		"https://mdm.example.org/v1/commands/":       "https://mdm.example.org",
		"https://mdm.example.org/v1/commands":        "https://mdm.example.org",
		"http://127.0.0.1:8080/behind/v1/commands/":  "http://127.0.0.1:8080/behind",
		"https://mdm.example.org/a%2Fb/v1/commands/": "https://mdm.example.org/a%2Fb",
	} {
		c, err := New(good, key)
		require.NoError(t, err)
		require.Equal(t, server, c.server)
	}
	for _, bad := range []string{
		"", "https://mdm.example.org", "https://mdm.example.org/", "https://mdm.example.org/v1/enqueue/",
		"https://mdm.example.org/v1/commands/A", "https://mdm.example.org/commands/", "/v1/commands/",
		"https://mdm.example.org/v1/commands/?a=1", "https://user:" + key + "@mdm.example.org/v1/commands/",
	} {
		_, err := New(bad, key)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), key)
	}
}
