package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stuckRequest sends a part of a request, and returns the connection.
func stuckRequest(t *testing.T, s *server, size, sent int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(2*patience)))
	_, err = fmt.Fprintf(conn, "PUT /status HTTP/1.1\r\nHost: decree\r\nX-Enrollment-ID: stuck\r\nContent-Length: %d\r\n\r\n%s",
		size, strings.Repeat(" ", sent))
	require.NoError(t, err)
	return conn
}

// hangingMDM returns the flags for an MDM that takes requests and never answers, and a channel that gets something when it is
// asked.
func hangingMDM(t *testing.T) (flags []string, asked <-chan struct{}) {
	requests, done := make(chan struct{}, 100), make(chan struct{})
	mdm := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case requests <- struct{}{}:
		default:
		}
		<-done
	}))
	t.Cleanup(mdm.Close)
	t.Cleanup(func() { close(done) })
	return []string{"-enqueue", mdm.URL + "/v1/enqueue/", "-enqueue-key", "key"}, requests
}

// maxReset is how many connections may be reset that nobody can tell from refused ones: the system had taken them when the
// server closed its port, and the server had not.
const maxReset = 3

// TestStopUnderLoad checks that the real program, told to stop under load, answers all that it has taken, ends well and in
// time whatever hangs, and has kept what it has promised.
func TestStopUnderLoad(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		config, err := parseConfig(t.Context(), append(flags, "-api", testKey), nil, io.Discard)
		require.NoError(t, err)
		mdm, asked := hangingMDM(t)
		p := startBinary(t, append(flags, mdm...)...)
		s := p.server()
		s.putTest("test.a", "first")
		s.addToSet("base", "test.a")
		s.assign("device-0", "base")
		<-asked // and is not answered until the end
		l := startTraffic(t, s.url, 1000)
		stuck := []net.Conn{
			stuckRequest(t, s, 1000, 0), stuckRequest(t, s, 50_000, 10_000), stuckRequest(t, s, 1_000_000, 500_000),
		}
		s.eventually(func() bool { return l.answers(http.StatusOK) > 300 && l.answers(http.StatusNoContent) > 100 }, "some load")
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
		signalled := time.Now()
		require.NoError(t, p.wait(patience), "exit code 0")
		took := time.Since(signalled)
		require.Less(t, took, 10*time.Second)
		l.end()
		t.Logf("ended after %v: %v", took.Round(time.Millisecond), l)
		require.Empty(t, l.reasons)
		resets := 0
		for _, broken := range l.broken {
			// The last of a connection says so: a client that goes on with it is one that the server has not told.
			require.Contains(t, broken, "used again (false)")
			resets++
		}
		require.LessOrEqual(t, resets, maxReset, "%v", l.broken)
		for _, conn := range stuck {
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, http.StatusRequestTimeout, response.StatusCode)
		}

		s = startBinary(t, flags...).server()
		s.database = openDatabase(t, config)
		l.requireKept(s)
	})
}
