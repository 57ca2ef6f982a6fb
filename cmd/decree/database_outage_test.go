package main

import (
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
)

// databaseOutage is how long a database is away: half a minute where nobody waits for the test.
func databaseOutage() time.Duration { return outage() / 2 }

const (
	// longestWait is how long a request may take while the database is away, on a busy machine: what the guide says, twice for
	// one that asks for two things, and then some.
	longestWait = 25 * time.Second
	// atOnce is how long it may take when it is known that the database is away.
	atOnce = 2 * time.Second
)

// TestDatabaseOutage checks what becomes of requests while MariaDB hangs, or is away in one way or another, for half a minute
// under load, and that all goes on by itself when it is there again.
func TestDatabaseOutage(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]struct {
		begin, end func(*mysqltest.Server)
	}{
		"hangs":   {(*mysqltest.Server).Pause, (*mysqltest.Server).Continue},
		"stopped": {(*mysqltest.Server).Stop, (*mysqltest.Server).Start},
		"killed":  {(*mysqltest.Server).Kill, (*mysqltest.Server).Start},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := mysqltest.Start(t)
			flags := []string{"-storage", "mysql", "-storage-dsn", server.DSN()}
			config, err := parseConfig(t.Context(), append(flags, "-api", testKey), nil, io.Discard)
			require.NoError(t, err)
			p := startBinary(t, flags...)
			s := p.server()
			s.database = openDatabase(t, config)
			l := startTraffic(t, s.url, 1000)
			s.eventually(func() bool { return l.answers(http.StatusOK) > 500 }, "some load")
			goroutines := s.scrape().values["go_goroutines"]

			outage.begin(server)
			began := time.Now()
			s.eventually(func() bool {
				code, text := s.do(http.MethodGet, "/readyz", "")
				return code == http.StatusServiceUnavailable && strings.Contains(string(text), "the database cannot be reached")
			}, "it to say that it is not ready, and why")
			s.eventually(func() bool { return s.scrape().values["decree_database_up"] == 0 }, "the metric to say so")
			s.eventually(func() bool { return l.answers(http.StatusServiceUnavailable) > 200 }, "requests to be refused: %v", l)
			t.Logf("noticed after %v: %v", time.Since(began).Round(time.Millisecond), l)
			require.Less(t, l.slowestAnswer(), longestWait)
			l.settle()
			pauses := time.NewTicker(50 * time.Millisecond)
			defer pauses.Stop()
			for last := false; !last; {
				last = time.Since(began) >= databaseOutage()
				begin := time.Now()
				for path, code := range map[string]int{"/livez": 200, "/readyz": 503, "/v1/sets": 503, "/v1/declarations/load.0": 503} {
					got, text := s.do(http.MethodGet, path, "")
					require.Equal(t, code, got, "%s: %s", path, text)
				}
				require.Less(t, time.Since(begin), 4*atOnce)
				<-pauses.C
			}
			require.Less(t, l.slowestAnswer(), atOnce, "when it is known: %v", l)
			t.Logf("while it was known: %v", l)
			outage.end(server)
			ended := time.Now()
			s.eventually(func() bool {
				code, _ := s.do(http.MethodGet, "/readyz", "")
				return code == http.StatusOK
			}, "it to be ready again")
			require.Less(t, time.Since(ended), 15*time.Second)
			l.waitWorks(s)
			t.Logf("works again after %v: %v", time.Since(ended).Round(time.Millisecond), l)
			l.end()
			t.Logf("memory: %d MiB", p.memory()>>20)
			require.Empty(t, l.broken)
			require.Zero(t, l.refused)
			require.Contains(t, p.stderr.String(), "the database works again")
			require.Equal(t, 1, strings.Count(p.stderr.String(), "msg=listening"))
			l.requireKept(s)
			s.eventually(func() bool { return s.scrape().values["go_goroutines"] < goroutines+20 }, "goroutines to end")
			if memory := p.memory(); memory != 0 {
				require.Less(t, memory, 256<<20)
			}
		})
	}
}

// TestFloodWhileTheDatabaseHangs checks that of three thousand requests at once only so many wait for a database that does not
// answer, and that they take a bounded memory and end.
func TestFloodWhileTheDatabaseHangs(t *testing.T) {
	t.Parallel()
	flood := openable(t, 3000)
	if flood < 2500 {
		t.Skip("too few files may be open")
	}
	server := mysqltest.Start(t)
	p := startBinary(t, "-storage", "mysql", "-storage-dsn", server.DSN())
	s := p.server()
	s.putTest("test.a", "first")
	before := s.scrape().values["go_goroutines"]
	server.Pause()
	l := newTraffic(t, s.url)
	for range flood {
		l.group.Go(func() {
			transport := &http.Transport{DisableKeepAlives: true}
			c := &trafficClient{l, &http.Client{Transport: transport, Timeout: 2 * patience}}
			c.do(http.MethodGet, "/v1/declarations/test.a", "", nil)
		})
	}
	l.group.Wait()
	t.Logf("%v; memory %d MiB", l, p.memory()>>20)
	require.Equal(t, flood, l.answers(http.StatusServiceUnavailable))
	require.Positive(t, l.reason("too much waits for the database already"))
	require.Less(t, l.slowestAnswer(), longestWait)
	if memory := p.memory(); memory != 0 {
		require.Less(t, memory, 256<<20)
	}
	server.Continue()
	s.eventually(func() bool {
		code, _ := s.do(http.MethodGet, "/v1/declarations/test.a", "")
		return code == http.StatusOK
	}, "it to work again")
	s.eventually(func() bool {
		numbers := s.scrape().values
		return numbers["go_goroutines"] < before+50 && numbers["decree_database_operations_in_flight"] < 10
	}, "all to end that had waited")
}

// TestStopWhileTheDatabaseHangs checks that a database which does not answer holds nobody who stops the server.
func TestStopWhileTheDatabaseHangs(t *testing.T) {
	t.Parallel()
	server := mysqltest.Start(t)
	mdm, asked := hangingMDM(t)
	p := startBinary(t, append([]string{"-storage", "mysql", "-storage-dsn", server.DSN()}, mdm...)...)
	s := p.server()
	s.putTest("test.a", "first")
	s.addToSet("base", "test.a")
	s.assign("device-0", "base")
	<-asked
	l := startTraffic(t, s.url, 1000)
	s.eventually(func() bool { return l.answers(http.StatusOK) > 100 }, "some load")
	server.Pause()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	signalled := time.Now()
	<-p.ended
	t.Logf("ended after %v: %v", time.Since(signalled).Round(time.Millisecond), p.err)
	require.Less(t, time.Since(signalled), 10*time.Second)
	l.end()
	server.Continue()
	config, err := parseConfig(t.Context(), []string{"-api", testKey, "-storage", "mysql", "-storage-dsn", server.DSN()}, nil, io.Discard)
	require.NoError(t, err)
	s = startBinary(t, "-storage", "mysql", "-storage-dsn", server.DSN()).server()
	s.database = openDatabase(t, config)
	l.requireKept(s)
}

// TestHeldRow checks that a row of MariaDB which somebody holds keeps those waiting, for a bounded time, who need it, and
// nobody else.
func TestHeldRow(t *testing.T) {
	t.Parallel()
	flags := databases()[1].flags(t)
	config, err := parseConfig(t.Context(), append(flags, "-api", testKey), nil, io.Discard)
	require.NoError(t, err)
	p := startBinary(t, flags...)
	s := p.server()
	s.database = openDatabase(t, config)
	s.putTest("test.held", "first")
	held, err := s.database.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = held.Exec(`SELECT identifier FROM declarations WHERE identifier = 'test.held' FOR UPDATE`)
	require.NoError(t, err)
	heldUp := s.waitForIt(t, func(n int) (string, string, string) {
		return http.MethodPut, "/v1/declarations", declarationJSON("test.held", "com.apple.configuration.management.test",
			fmt.Sprintf(`{"Echo":"%d"}`, n))
	})
	l := startTraffic(t, s.url, 1000)
	waiting := func() int {
		return s.count(`SELECT COUNT(*) FROM information_schema.innodb_trx trx
			JOIN information_schema.processlist thread ON thread.id = trx.trx_mysql_thread_id
			WHERE trx.trx_state = 'LOCK WAIT' AND thread.db = DATABASE()`)
	}
	s.eventually(func() bool { return waiting() == 1 }, "one to wait for the row")
	for range 50 {
		require.LessOrEqual(t, waiting(), 1, "the others of those who need it have no connection")
	}
	s.eventually(func() bool { return heldUp.refused() > 20 }, "those to be refused who need it")
	l.end()
	require.Less(t, l.slowestAnswer(), longestWait/2)
	require.Greater(t, l.answers(http.StatusNoContent), 100, "others write meanwhile")
	t.Logf("others: %v; those who need it: %v", l, heldUp.traffic)
	require.Positive(t, heldUp.reason("somebody else holds for too long what is to be changed"))
	require.Less(t, heldUp.slowestAnswer(), longestWait)
	require.Zero(t, l.answers(http.StatusServiceUnavailable), "%v", l)
	require.Empty(t, l.broken)
	code, text := s.do(http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusOK, code, "%s", text)
	require.NoError(t, held.Rollback())
	s.eventually(func() bool { return heldUp.answers(http.StatusNoContent) > 10 }, "it to be changed")
	heldUp.end()
	require.Empty(t, heldUp.odd)
	l.requireKept(s)
}

// TestHeldDatabase checks that an SQLite database which another process holds keeps those waiting, for a bounded time, who
// change something, and nobody else.
func TestHeldDatabase(t *testing.T) {
	t.Parallel()
	flags := databases()[0].flags(t)
	config, err := parseConfig(t.Context(), append(flags, "-api", testKey), nil, io.Discard)
	require.NoError(t, err)
	p := startBinary(t, flags...)
	s := p.server()
	s.database = openDatabase(t, config)
	s.putTest("test.a", "first")
	other, err := sql.Open("sqlite", "file:"+config.storageDSN+"?_pragma=busy_timeout(10000)&_txlock=exclusive")
	require.NoError(t, err)
	defer other.Close()
	held, err := other.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	l := startTraffic(t, s.url, 1000)
	s.eventually(func() bool { return l.reason("another process holds the database for too long") > 0 }, "changes to be refused: %v", l)
	t.Logf("held: %v", l)
	require.Less(t, l.slowestAnswer(), longestWait)
	for _, path := range []string{"/livez", "/readyz", "/v1/declarations/test.a", "/v1/enrollments", "/v1/sets"} {
		begin := time.Now()
		code, text := s.do(http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, code, "%s: %s", path, text)
		require.Less(t, time.Since(begin), atOnce, path)
	}
	require.NoError(t, held.Rollback())
	l.waitWorks(s)
	l.end()
	require.Empty(t, l.broken)
	t.Logf("then: %v", l)
	l.requireKept(s)
}

// waiting are requests that wait for one thing.
type waiting struct{ *traffic }

func (w waiting) refused() int { return w.answers(http.StatusServiceUnavailable) }

// waitForIt starts many who want to change one thing.
func (s *server) waitForIt(t *testing.T, request func(n int) (method, path, body string)) waiting {
	w := waiting{newTraffic(t, s.url)}
	var mu sync.Mutex
	n := 0
	for range 40 {
		w.client(func(c *trafficClient, _ int64) {
			mu.Lock()
			n++
			method, path, body := request(n)
			mu.Unlock()
			c.do(method, path, body, nil)
		})
	}
	return w
}
