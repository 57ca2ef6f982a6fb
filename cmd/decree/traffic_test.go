package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// traffic is clients of every kind, each of which makes one request after the other until it is stopped. It knows what was
// promised: every change that was answered with a 2xx.
type traffic struct {
	t   *testing.T
	url string
	// fill is how much each status report has in it that no other has.
	fill atomic.Int64

	stopped chan struct{}
	group   sync.WaitGroup

	mu sync.Mutex
	// codes counts the answers, and reasons those of them with 503 that say why.
	codes   map[int]int
	reasons map[string]int
	slowest time.Duration // of those whose requests were made after settled
	settled time.Time
	// refused counts connections that were not taken, and broken has what else kept requests from being answered. Odd are
	// answers that should not be.
	refused     int
	broken, odd []string

	declarations []promise  // by writer
	sets         [][]string // by writer
	values       []promise  // by reporter
	events       []string   // enrollments
}

// promise is the number of what was answered last, and of what was sent last.
type promise struct{ kept, tried atomic.Int64 }

const (
	loadWriters   = 6
	loadReporters = 6
	loadReaders   = 6
	loadMDMs      = 3
)

// startTraffic begins with so much in each status report.
func startTraffic(t *testing.T, url string, fill int64) *traffic {
	l := newTraffic(t, url)
	l.fill.Store(fill)
	l.sets = make([][]string, loadWriters)
	l.declarations, l.values = make([]promise, loadWriters), make([]promise, loadReporters)
	for i := range loadWriters {
		l.client(func(c *trafficClient, n int64) { c.write(i, n) })
	}
	for i := range loadReporters {
		l.client(func(c *trafficClient, n int64) { c.report(i, n) })
	}
	for i := range loadReaders {
		l.client(func(c *trafficClient, n int64) { c.sync(i, n) })
	}
	for i := range loadMDMs {
		l.client(func(c *trafficClient, n int64) { c.event(i, n) })
	}
	return l
}

// newTraffic returns one without clients.
func newTraffic(t *testing.T, url string) *traffic {
	l := &traffic{t: t, url: url, stopped: make(chan struct{}), codes: map[int]int{}, reasons: map[string]int{}}
	t.Cleanup(l.end)
	return l
}

// end stops the clients, and waits for what they have begun. Further calls do nothing.
func (l *traffic) end() {
	select {
	case <-l.stopped:
	default:
		close(l.stopped)
	}
	l.group.Wait()
}

// trafficClient is one client, with connections of its own.
type trafficClient struct {
	*traffic
	client *http.Client
}

// client has a client do something again and again.
func (l *traffic) client(do func(c *trafficClient, n int64)) {
	l.group.Go(func() {
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		c := &trafficClient{l, &http.Client{Transport: transport, Timeout: 2 * patience}}
		for n := int64(1); ; n++ {
			select {
			case <-l.stopped:
				return
			default:
				do(c, n)
			}
		}
	})
}

// do makes a request, and reports whether it was answered with a 2xx.
func (c *trafficClient) do(method, path, body string, header http.Header) bool {
	request, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.note(func() { c.odd = append(c.odd, err.Error()) })
		return false
	}
	request.SetBasicAuth("kmfddm", testKey)
	maps.Copy(request.Header, header)
	reused := false
	request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
	}))
	begin := time.Now()
	response, err := c.client.Do(request)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(response.Body)
		_ = response.Body.Close() // it was read to its end, or that has failed
	}
	took := time.Since(begin)
	var network *net.OpError
	switch {
	case errors.As(err, &network) && network.Op == "dial":
		c.note(func() { c.refused++ })
		c.rest()
	case err != nil:
		c.note(func() {
			c.broken = append(c.broken, fmt.Sprintf("%s %s on a connection that is used again (%v), after %v: %v", method, path, reused, took, err))
		})
		c.rest()
	default:
		c.answered(method+" "+path, response, text, took)
		return response.StatusCode < 300
	}
	return false
}

// answered notes an answer.
func (c *trafficClient) answered(request string, response *http.Response, text []byte, took time.Duration) {
	code := response.StatusCode
	c.note(func() {
		c.codes[code]++
		if time.Now().Add(-took).After(c.settled) {
			c.slowest = max(c.slowest, took)
		}
		var problem struct{ Error string }
		switch {
		case code < 300:
		case code != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" || json.Unmarshal(text, &problem) != nil:
			c.odd = append(c.odd, fmt.Sprintf("%s: %d %v %s", request, code, response.Header, text))
		default:
			c.reasons[problem.Error]++
		}
	})
	if code >= 300 {
		c.rest()
	}
}

// rest is what a client does that could not do what it wanted: less than it is told to, and enough to leave processors to
// others.
func (c *trafficClient) rest() {
	select {
	case <-c.stopped:
	case <-time.After(20 * time.Millisecond):
	}
}

func (l *traffic) note(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// write changes a declaration, puts it into a set of its own, and gives that to an enrollment.
func (c *trafficClient) write(i int, n int64) {
	identifier, set := fmt.Sprint("load.", i), fmt.Sprintf("load-%d-%d", i, n)
	c.declarations[i].tried.Store(n)
	if !c.do(http.MethodPut, "/v1/declarations", declarationJSON(identifier, "com.apple.configuration.management.test",
		fmt.Sprintf(`{"Echo":"%d"}`, n)), nil) {
		return
	}
	c.declarations[i].kept.Store(n)
	if n%8 == 0 && c.do(http.MethodPut, "/v1/set-declarations/"+set+"?declaration="+identifier, "", nil) {
		c.note(func() { c.sets[i] = append(c.sets[i], set) })
	}
	if n%8 == 1 {
		c.do(http.MethodPut, fmt.Sprintf("/v1/enrollment-sets/device-%d?set=%s", i, set), "", nil)
	}
}

// deviceHeader names a device, as the MDM does.
func deviceHeader(id string) http.Header {
	return http.Header{"X-Enrollment-Id": {id}, "X-Enrollment-Type": {"Device"}}
}

// report sends a status report.
func (c *trafficClient) report(i int, n int64) {
	fill := make([]byte, c.fill.Load()*3/4)
	_, _ = rand.Read(fill) // never fails
	c.values[i].tried.Store(n)
	if c.do(http.MethodPut, "/status", fmt.Sprintf(`{"StatusItems":{"test":{"n":%d,"fill":"%s"}}}`, n,
		base64.RawStdEncoding.EncodeToString(fill)), deviceHeader(fmt.Sprint("device-", i))) {
		c.values[i].kept.Store(n)
	}
}

// sync asks for what a device asks for.
func (c *trafficClient) sync(i int, n int64) {
	path := []string{"/tokens", "/declaration-items", "/tokens"}[n%3]
	c.do(http.MethodGet, path, "", deviceHeader(fmt.Sprint("device-", i)))
}

// event tells of an enrollment that is new.
func (c *trafficClient) event(i int, n int64) {
	id := fmt.Sprintf("event-%d-%d", i, n)
	if c.do(http.MethodPost, "/webhook", fmt.Sprintf(`{"topic":"mdm.TokenUpdate","created_at":%q,
		"checkin_event":{"ids":{"id":%q,"type":"Device"},"token_update_tally":1}}`,
		time.Now().UTC().Format(time.RFC3339Nano), id), nil) {
		c.note(func() { c.events = append(c.events, id) })
	}
}

// answers is how many requests were answered with a code.
func (l *traffic) answers(code int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.codes[code]
}

// reason is how many answers gave a reason.
func (l *traffic) reason(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reasons[text]
}

// slowestAnswer is how long an answer has taken at most.
func (l *traffic) slowestAnswer() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slowest
}

// settle forgets how long answers have taken, those too that are under way.
func (l *traffic) settle() {
	l.note(func() { l.slowest, l.settled = 0, time.Now() })
}

// waitWorks waits until the load gets the answers that it should.
func (l *traffic) waitWorks(s *server) {
	l.t.Helper()
	s.eventually(func() bool {
		before := l.answers(http.StatusServiceUnavailable)
		all := l.answers(http.StatusOK) + l.answers(http.StatusNoContent)
		more := func() int { return l.answers(http.StatusOK) + l.answers(http.StatusNoContent) - all }
		for until := time.Now().Add(5 * time.Second); more() < 200 && time.Now().Before(until); {
			time.Sleep(10 * time.Millisecond)
		}
		return more() >= 200 && l.answers(http.StatusServiceUnavailable) == before
	}, "requests to be answered as they should")
}

// String is how the answers were.
func (l *traffic) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("answers %v, 503 for %v, slowest %v, %d connections refused, %d requests broken",
		l.codes, l.reasons, l.slowest.Round(time.Millisecond), l.refused, len(l.broken))
}

// requireKept checks that all is there that was promised, and that decree check has no finding. The load has ended.
func (l *traffic) requireKept(s *server) {
	l.t.Helper()
	require.Empty(l.t, l.odd)
	for i := range l.declarations {
		promised := &l.declarations[i]
		identifier := fmt.Sprint("load.", i)
		if promised.kept.Load() == 0 {
			continue
		}
		var declaration struct{ Payload struct{ Echo string } }
		s.get("/v1/declarations/"+identifier, &declaration)
		promised.requireKept(l.t, identifier, declaration.Payload.Echo)
		var held []string
		for after := ""; ; after = held[len(held)-1] {
			var page []string
			s.get("/v1/declaration-sets/"+identifier+"?limit=1000&after="+after, &page)
			if held = append(held, page...); len(page) < 1000 {
				break
			}
		}
		require.Subset(l.t, held, l.sets[i])
	}
	for i := range l.values {
		promised := &l.values[i]
		id := fmt.Sprint("device-", i)
		if promised.kept.Load() == 0 {
			continue
		}
		var values map[string][]struct {
			Path  string
			Value json.RawMessage
		}
		s.get("/v1/status-values/"+id+"?prefix=.StatusItems.test.n", &values)
		require.Len(l.t, values[id], 1)
		promised.requireKept(l.t, id, string(bytes.Trim(values[id][0].Value, `"`)))
	}
	for chunk := range slices.Chunk(l.events, 100) {
		require.Equal(l.t, len(chunk), s.count(`SELECT COUNT(*) FROM enrollments WHERE enrolled_at IS NOT NULL AND id IN ('`+
			strings.Join(chunk, "','")+`')`))
	}
	s.check()
}

func (p *promise) requireKept(t *testing.T, what, found string) {
	t.Helper()
	var n int64
	_, err := fmt.Sscan(found, &n)
	require.NoError(t, err, "%s: %s", what, found)
	require.GreaterOrEqual(t, n, p.kept.Load(), "%s is behind what was promised", what)
	require.LessOrEqual(t, n, p.tried.Load(), what)
}
