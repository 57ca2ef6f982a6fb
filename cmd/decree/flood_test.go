package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// openable is how many connections a test may open at once, of those that it wants: files are limited.
func openable(t *testing.T, wanted int) int {
	t.Helper()
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	const others = 1000 // which the tests that run at the same time have open
	if limit.Cur < others+100 {
		t.Skip("too few files may be open")
	}
	return min(wanted, int(min(limit.Cur, 1<<20))-others)
}

// memory is how much memory a process has had at most, in bytes, or 0 where that is not to be learned.
func (p *process) memory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if match == nil {
		return 0
	}
	kilobytes, _ := strconv.Atoi(string(match[1]))
	return kilobytes << 10
}

// quickly requires that the API answers a right key without delay, of which a busy machine has some.
func (s *server) quickly(when string) {
	s.t.Helper()
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	for range 5 {
		request, err := http.NewRequest(http.MethodGet, s.url+"/v1/sets", nil)
		require.NoError(s.t, err)
		request.SetBasicAuth("x", testKey)
		response, err := fresh.Do(request)
		require.NoError(s.t, err, when)
		require.NoError(s.t, response.Body.Close())
		require.Equal(s.t, http.StatusOK, response.StatusCode, when)
	}
}

// TestSlowAndIdleConnections checks that clients which hold connections open, and send little or nothing, do not keep
// others from being answered, and are let go.
func TestSlowAndIdleConnections(t *testing.T) {
	t.Parallel()
	p := startBinary(t)
	s := p.server()
	address := strings.TrimPrefix(s.url, "http://")
	var opened []net.Conn
	t.Cleanup(func() {
		for _, connection := range opened {
			_ = connection.Close() // the server may have
		}
	})
	dial := func(text string) net.Conn {
		connection, err := net.DialTimeout("tcp", address, patience)
		require.NoError(t, err)
		opened = append(opened, connection)
		_, err = io.WriteString(connection, text)
		require.NoError(t, err)
		return connection
	}

	var slow []net.Conn
	for range 50 {
		slow = append(slow, dial("PUT /v1/declarations HTTP/1.1\r\nHost: decree\r\n"))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-stopped }()
	go func() { // a header now and then, without an end
		defer close(stopped)
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
			for _, connection := range slow {
				_, _ = io.WriteString(connection, "X-Slow: x\r\n") // the server may have had enough
			}
		}
	}()
	s.quickly("slow headers")

	idle := openable(t, 5000)
	for i := range idle {
		if i%2 == 0 {
			dial("") // says nothing at all
		} else {
			dial("HEAD /livez HTTP/1.1\r\nHost: decree\r\n\r\n") // was answered, and stays
		}
	}
	s.quickly(fmt.Sprintf("%d idle connections", idle))
	code, text := s.device("device", http.MethodGet, "/tokens", "")
	require.Equal(t, http.StatusOK, code, "%s", text)

	// Who never comes to the end of its headers is let go after 10 seconds.
	for _, connection := range slow {
		require.NoError(t, connection.SetReadDeadline(time.Now().Add(patience)))
		_, err := io.Copy(io.Discard, connection)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
	}
	s.quickly("they are gone")
	if memory := p.memory(); memory != 0 {
		require.Less(t, memory, 256<<20)
	}
}

// TestLongHeadsAtOnce checks that five hundred clients that send megabytes of headers, and never come to their end, take as
// much memory as some, and keep nobody from being answered.
func TestLongHeadsAtOnce(t *testing.T) {
	t.Parallel()
	const clients = 500
	p := startBinary(t)
	s := p.server()
	headers := []string{
		"X-Long: " + strings.Repeat("x", 64<<10-20) + "\r\n",
		"",
	}
	for i := range 4 << 10 { // each of which is a header of its own
		headers[1] += fmt.Sprintf("x%x:\r\n", i)
	}
	var flood sync.WaitGroup
	sent := atomic.Int64{}
	for i := range clients {
		header := headers[i%2]
		flood.Go(func() {
			conn, err := net.DialTimeout("tcp", strings.TrimPrefix(s.url, "http://"), patience)
			if !assert.NoError(t, err) {
				return
			}
			defer func() { _ = conn.Close() }() // the server has, most likely
			_, err = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: decree\r\n")
			for range 15 {
				if err == nil {
					_, err = io.WriteString(conn, header)
					sent.Add(int64(len(header)))
				}
			}
			answer, _ := io.ReadAll(conn)
			assert.Empty(t, string(answer))
		})
	}
	ended := make(chan struct{})
	go func() {
		flood.Wait()
		close(ended)
	}()
	for flooded := true; flooded; {
		s.quickly("long heads")
		select {
		case <-ended:
			flooded = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	numbers := s.scrape().values
	t.Logf("%d MiB sent, memory %d MiB, %v dropped", sent.Load()>>20, p.memory()>>20, numbers["decree_http_connections_dropped_total"])
	require.GreaterOrEqual(t, numbers["decree_http_connections_dropped_total"], float64(clients-2*maxLongHeads-50))
	if memory := p.memory(); memory != 0 {
		require.Less(t, memory, 400<<20)
	}
}

// spaces is a body of spaces that counts how many of them were taken.
type spaces struct{ left, taken int64 }

func (s *spaces) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), s.left)
	for i := range n {
		b[i] = ' '
	}
	s.left -= n
	atomic.AddInt64(&s.taken, n)
	return int(n), nil
}

// TestBodyWithoutEnd checks that bodies of a gigabyte are cut off at the limit, whether they say how long they are or not,
// and take no memory to speak of.
func TestBodyWithoutEnd(t *testing.T) {
	t.Parallel()
	p := startBinary(t)
	s := p.server()
	s.quickly("at first")
	before := p.memory()
	const gigabyte = 1 << 30
	for _, request := range []string{"PUT /v1/declarations", "POST /v1/notify", "PUT /status", "POST /webhook"} {
		method, path, _ := strings.Cut(request, " ")
		for _, length := range []int64{-1, gigabyte} {
			body := &spaces{left: gigabyte}
			r, err := http.NewRequest(method, s.url+path, io.NopCloser(body))
			require.NoError(t, err)
			r.ContentLength = length
			r.SetBasicAuth("x", testKey)
			r.Header.Set("X-Enrollment-ID", "device")
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			response, err := client.Do(r)
			require.NoError(t, err, request)
			require.NoError(t, response.Body.Close())
			require.Equal(t, http.StatusRequestEntityTooLarge, response.StatusCode, request)
			require.Less(t, atomic.LoadInt64(&body.taken), int64(64<<20), request)
		}
	}
	// Without a key nothing is read that does not fit into a buffer.
	body := &spaces{left: gigabyte}
	r, err := http.NewRequest(http.MethodPut, s.url+"/v1/declarations", io.NopCloser(body))
	require.NoError(t, err)
	response, err := client.Do(r)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	require.Less(t, atomic.LoadInt64(&body.taken), int64(16<<20))
	if before != 0 {
		require.Less(t, p.memory()-before, 256<<20)
	}
	s.quickly("at last")
}

// TestWrongKeys checks that a thousand requests with wrong keys, some of them huge, do not slow one with the right key, nor
// lock anybody out.
func TestWrongKeys(t *testing.T) {
	t.Parallel()
	p := startBinary(t)
	s := p.server()
	huge := strings.Repeat("x", 500<<10)
	var wrong sync.WaitGroup
	var refused atomic.Int32
	for worker := range 20 {
		wrong.Go(func() {
			for i := range 50 {
				request, err := http.NewRequest(http.MethodGet, s.url+"/v1/sets", nil)
				if err != nil {
					return
				}
				key := fmt.Sprint(testKey, worker, i)
				if i%10 == 0 {
					key = huge
				}
				request.Header.Set("Authorization", "Bearer "+key)
				if code, _, err := exchange(request); err == nil && code == http.StatusUnauthorized {
					refused.Add(1)
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		wrong.Wait()
		close(ended)
	}()
	for flooded := true; flooded; {
		s.quickly("wrong keys")
		select {
		case <-ended:
			flooded = false
		default:
		}
	}
	require.EqualValues(t, 1000, refused.Load())
	begin := time.Now()
	s.quickly("after wrong keys")
	require.Less(t, time.Since(begin), 5*time.Second)
	require.False(t, strings.Contains(p.stderr.String(), testKey))
}

// TestLargeBodiesAtOnce checks that two hundred status reports of ten megabytes, sent at once, take as much memory as a few,
// that those which have no room are told to come again, and that small ones do not wait for them.
func TestLargeBodiesAtOnce(t *testing.T) {
	t.Parallel()
	const clients = 200
	p := startBinary(t)
	s := p.server()
	large := `{"StatusItems":{"x":"` + strings.Repeat("x", 10<<20) + `"}}`
	small := `{"StatusItems":{"x":"` + strings.Repeat("x", 20<<10) + `"}}`
	put := func(id, body string) (*http.Response, error) {
		request, err := http.NewRequest(http.MethodPut, s.url+"/status", strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		request.Header.Set("X-Enrollment-ID", id)
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 4 * patience}
		response, err := fresh.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		return response, err
	}
	var flood sync.WaitGroup
	var taken, refused atomic.Int32
	for i := range clients {
		flood.Go(func() {
			response, err := put(fmt.Sprint("large-", i), large)
			switch {
			case err != nil:
				// It goes on sending after the answer, whose rest the connection's end can take with it.
				refused.Add(1)
			case response.StatusCode == http.StatusOK:
				taken.Add(1)
			case response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") != "":
				refused.Add(1)
			default:
				t.Errorf("answered %s", response.Status)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		flood.Wait()
		close(ended)
	}()
	slowest := time.Duration(0)
	for flooded := true; flooded; {
		begin := time.Now()
		response, err := put("small", small)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, response.StatusCode)
		slowest = max(slowest, time.Since(begin))
		select {
		case <-ended:
			flooded = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Logf("%d taken, %d refused, slowest small one %v, memory %d MiB", taken.Load(), refused.Load(), slowest, p.memory()>>20)
	require.Positive(t, taken.Load())
	require.Less(t, slowest, 15*time.Second)
	if memory := p.memory(); memory != 0 {
		require.Less(t, memory, 700<<20) // all bodies would be 2000 MiB, and what is made of them more
	}
	numbers := s.scrape().values
	require.Zero(t, numbers["decree_http_body_bytes"])
	require.LessOrEqual(t, numbers["decree_http_bodies_refused_total"], float64(refused.Load()))
	response, err := put("large-0", large)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, "there is room again")
}
