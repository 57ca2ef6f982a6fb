package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// scraped is what a server told of itself: values by name and labels as they were written, and types by name.
type scraped struct {
	values map[string]float64
	types  map[string]string
}

var sampleLine = regexp.MustCompile(`^([a-z0-9_]+(?:\{.*\})?) (\S+)$`)

// scrape reads /metrics.
func (s *server) scrape() scraped {
	s.t.Helper()
	code, text := s.do(http.MethodGet, "/metrics", "")
	require.Equal(s.t, http.StatusOK, code, "%s", text)
	return parseScrape(s.t, string(text))
}

// scrapeAll reads /metrics when it has what is read from the database too, which may be slow for a while.
func (s *server) scrapeAll() (found scraped) {
	s.t.Helper()
	s.eventually(func() bool {
		found = s.scrape()
		series := found.series()
		return series["decree_queue_enrollments"] && series["decree_events_undelivered"]
	}, "all numbers")
	return found
}

func parseScrape(t testing.TB, text string) scraped {
	t.Helper()
	found := scraped{map[string]float64{}, map[string]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, isType := strings.CutPrefix(line, "# TYPE "); isType {
			name, kind, _ := strings.Cut(rest, " ")
			found.types[name] = kind
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		match := sampleLine.FindStringSubmatch(line)
		require.NotNil(t, match, line)
		value, err := strconv.ParseFloat(match[2], 64)
		require.NoError(t, err, line)
		found.values[match[1]] = value
	}
	return found
}

// series are the names of what was told, with what belongs to a histogram.
func (s scraped) series() map[string]bool {
	names := map[string]bool{}
	for sample := range s.values {
		name, _, _ := strings.Cut(sample, "{")
		names[name] = true
	}
	return names
}

// watched is an MDM that takes commands, and what it got.
type watched struct {
	*httptest.Server
	mu      sync.Mutex
	parents []string
}

// newWatched returns one that refuses whoever is called "refused", and cannot wake who is called "asleep".
func newWatched(t testing.TB) *watched {
	m := &watched{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.parents = append(m.parents, r.Header.Get("traceparent"))
		m.mu.Unlock()
		status := map[string]map[string]string{}
		for id := range strings.SplitSeq(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:], ",") {
			status[id] = map[string]string{}
			switch id {
			case "refused":
				status[id]["command_error"] = "the MDM does not know it"
			case "asleep":
				status[id]["push_error"] = "there is no push token"
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "command_uuid": "x"})
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *watched) seen() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.parents)
}

// secretText is in every payload of the story, and no log may have it.
const secretText = "nobody-may-read-this"

// lived starts a server and has it live through a story: three devices of which one comes, and reports.
func lived(t *testing.T, flags ...string) *server {
	t.Helper()
	inbox := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(inbox.Close)
	s := startDecree(t, append(flags, "-enqueue", newWatched(t).URL+"/v1/enqueue", "-enqueue-key", "key-of-the-mdm",
		"-event-url", inbox.URL, "-event-hmac-key", "key-of-events", "-notify-delay", "0s")...)
	s.putTest("com.example.a", secretText)
	s.addToSet("S", "com.example.a")
	s.waitFanouts()
	for _, id := range []string{"well", "refused", "asleep"} {
		s.assign(id, "S")
	}
	for _, path := range []string{
		"/tokens", "/declaration-items", "/declaration/configuration/com.example.a", "/tokens",
	} {
		code, _ := s.device("well", http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, code)
	}
	s.report("well", `{"StatusItems":{"device":{"model":{"identifier":"`+secretText+`"}}}}`)
	code, _ := s.device("well", http.MethodPut, "/status", `{"`+secretText)
	require.Equal(t, http.StatusBadRequest, code)
	code, _ = s.do(http.MethodGet, "/v1/declarations/missing", "")
	require.Equal(t, http.StatusNotFound, code)
	s.waitInSync("well")
	s.eventually(func() bool {
		return s.count(`SELECT COUNT(*) FROM enrollments WHERE (attempts > 0 OR push_failures > 0)`) == 2
	}, "failures")
	s.eventually(func() bool {
		return s.count(`SELECT COUNT(*) FROM event_log WHERE delivered_id = last_id AND last_id > 0`) == 1
	}, "events")
	s.countNow()
	return s
}

// countNow has the enrollments counted.
func (s *server) countNow() {
	s.t.Helper()
	_, before := s.program.census.Latest()
	s.program.census.Stop()
	s.program.census.Start()
	s.eventually(func() bool { _, at := s.program.census.Latest(); return at.After(before) }, "the census")
}

// TestMetrics tells what is scraped from a server that has something to tell.
func TestMetrics(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := lived(t, flags...)
		found := s.scrapeAll()
		for sample, value := range map[string]float64{
			`decree_http_requests_total{code="204",route="PUT /v1/declarations"}`:                   1,
			`decree_http_requests_total{code="204",route="PUT /v1/enrollment-sets/{id...}"}`:        3,
			`decree_http_requests_total{code="404",route="GET /v1/declarations/{id...}"}`:           1,
			`decree_http_requests_total{code="200",route="GET /tokens"}`:                            2,
			`decree_http_requests_total{code="400",route="PUT /status"}`:                            1,
			`decree_http_request_duration_seconds_count{route="PUT /status"}`:                       2,
			`decree_http_request_duration_seconds_count{route="GET /declaration-items"}`:            1,
			`decree_http_request_duration_seconds_bucket{route="GET /declaration-items",le="+Inf"}`: 1,
			`decree_http_requests_in_flight`:                                                        1,
			`decree_status_reports_total{result="folded"}`:                                          1,
			`decree_status_reports_total{result="refused"}`:                                         1,
			`decree_enrollments{state="in_sync"}`:                                                   1,
			`decree_enrollments{state="out_of_sync"}`:                                               2,
			`decree_enrollments{state="left"}`:                                                      0,
			`decree_queue_enrollments{state="failing"}`:                                             2,
			`decree_fanouts_pending`:                                                                0,
			`decree_mdm_breaker_open`:                                                               0,
			fmt.Sprintf(`decree_build_info{go_version=%q,version=%q}`, runtime.Version(), version):  1,
		} {
			got, told := found.values[sample]
			require.True(t, told, sample)
			require.Equal(t, value, got, sample)
		}
		for _, sample := range []string{
			`decree_notifications_total{outcome="refused"}`, `decree_notifications_total{outcome="unwoken"}`,
			`decree_mdm_request_duration_seconds_count{answer="taken",request="enqueue"}`,
			`decree_cache_hits_total{cache="compositions"}`, `decree_cache_misses_total{cache="compositions"}`,
			`decree_cache_bytes{cache="compositions"}`, `decree_cache_entries{cache="declarations"}`,
			`decree_events_last_id`, `decree_events_stored`, `decree_enrollments_counted_timestamp_seconds`,
			`go_goroutines`, `process_open_fds`,
		} {
			require.Positive(t, found.values[sample], sample)
		}

		problems, err := testutil.GatherAndLint(s.program.metrics.Registry())
		require.NoError(t, err)
		require.Empty(t, problems)
		for sample := range found.values {
			for _, chosen := range []string{"well", "asleep", "com.example", "missing", secretText} {
				require.False(t, strings.Contains(sample, chosen), "clients choose it: %s", sample)
			}
		}
	})
}

// TestMetricsNeedAKey unless they are at an address of their own.
func TestMetricsNeedAKey(t *testing.T) {
	t.Parallel()
	ask := func(url, key string) int {
		request, err := http.NewRequest(http.MethodGet, url+"/metrics", nil)
		require.NoError(t, err)
		if key != "" {
			request.Header.Set("Authorization", "Bearer "+key)
		}
		code, text, err := exchange(request)
		require.NoError(t, err)
		require.Equal(t, code == http.StatusOK, strings.Contains(string(text), "decree_"))
		return code
	}
	s := startDecree(t, databases()[0].flags(t)...)
	require.Equal(t, http.StatusUnauthorized, ask(s.url, ""))
	require.Equal(t, http.StatusUnauthorized, ask(s.url, "wrong"))
	require.Equal(t, http.StatusOK, ask(s.url, testKey))

	s = startDecree(t, append(databases()[0].flags(t), "-listen-metrics", "127.0.0.1:0")...)
	require.Equal(t, http.StatusNotFound, ask(s.url, testKey))
	require.Equal(t, http.StatusOK, ask("http://"+s.program.sites.metrics.listener.Addr().String(), ""))
}

// TestTracesOfTheMDM checks that each request to the MDM is a trace of its own, whose id the log has.
func TestTracesOfTheMDM(t *testing.T) {
	t.Parallel()
	mdm := newWatched(t)
	log := &output{}
	s := startLogging(t, log, append(databases()[0].flags(t), "-log-format", "json", "-notify-delay", "0s",
		"-enqueue", mdm.URL+"/v1/enqueue", "-enqueue-key", "key-of-the-mdm")...)
	s.putTest("com.example.a", secretText)
	s.addToSet("S", "com.example.a")
	s.waitFanouts()
	for i := range 3 {
		s.assign(fmt.Sprint("e", i), "S")
		s.eventually(func() bool { return len(mdm.seen()) > i }, "a command")
	}
	s.stop()
	logged := map[string]bool{}
	for _, line := range logLines(t, log.String()) {
		if line["msg"] == "command sent" {
			logged[line["trace_id"].(string)] = true
			require.IsType(t, 0.0, line["duration"], "seconds")
		}
	}
	sent := mdm.seen()
	require.Len(t, logged, len(sent), "each has its own")
	for _, parent := range sent {
		require.Regexp(t, "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$", parent)
		require.True(t, logged[parent[3:35]], parent)
	}
}

// TestLogsAsJSON checks that each line is an object, that each request is one line under its trace, and that neither keys
// nor payloads are in any.
func TestLogsAsJSON(t *testing.T) {
	t.Parallel()
	log := &output{}
	s := startLogging(t, log, append(databases()[0].flags(t), "-log-format", "json", "-debug")...)
	s.putTest("com.example.a", secretText)
	s.addToSet("S", "com.example.a")
	s.assign("well", "S")
	s.report("well", `{"StatusItems":{"x":"`+secretText+`"}}`)
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	request, err := http.NewRequest(http.MethodGet, s.url+"/v1/sets", nil)
	require.NoError(t, err)
	request.SetBasicAuth("x", testKey+"-that-is-wrong")
	request.Header.Set("traceparent", "00-"+id+"-00f067aa0ba902b7-01")
	code, _ := s.send(request)
	require.Equal(t, http.StatusUnauthorized, code)
	s.stop()

	requests := map[string]int{}
	for _, line := range logLines(t, log.String()) {
		require.Contains(t, line, "time")
		require.Contains(t, line, "level")
		if line["msg"] != "request" {
			continue
		}
		requests[line["route"].(string)]++
		require.Regexp(t, "^[0-9a-f]{32}$", line["trace_id"])
		if line["status"] == 401.0 {
			require.Equal(t, id, line["trace_id"])
		}
	}
	require.Equal(t, map[string]int{
		"PUT /v1/declarations": 1, "PUT /v1/set-declarations/{set...}": 1, "PUT /v1/enrollment-sets/{id...}": 1,
		"PUT /status": 1, "GET /v1/sets": 1,
	}, requests)
	require.NotContains(t, log.String(), secretText)
	require.NotContains(t, log.String(), testKey)
}

// startLogging starts a server whose log goes to a buffer.
func startLogging(t *testing.T, log io.Writer, flags ...string) *server {
	t.Helper()
	config, err := parseConfig(t.Context(), append([]string{"-listen", "127.0.0.1:0", "-api", testKey}, flags...), nil, io.Discard)
	require.NoError(t, err)
	p, err := start(t.Context(), config, io.Discard, log)
	require.NoError(t, err)
	s := &server{t: t, program: p, url: "http://" + p.sites.main.listener.Addr().String()}
	t.Cleanup(s.stop)
	s.database = openDatabase(t, config)
	return s
}

// logLines are the lines of a log in JSON.
func logLines(t *testing.T, log string) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(log) {
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		lines = append(lines, fields)
	}
	return lines
}
