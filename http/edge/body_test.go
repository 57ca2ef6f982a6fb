package edge

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"
)

const mebibyte = 1 << 20

// bodyServer is a server that reads bodies, and answers when it is let.
type bodyServer struct {
	*httptest.Server
	t      *testing.T
	bodies *Bodies
	// read gets the length of each body that was read, at PUT /hold, whose answer waits for something in answer.
	read   chan int
	answer chan struct{}
}

func newBodyServer(t *testing.T, bodies *Bodies) *bodyServer {
	mux, _ := serve()
	mux.ShareBodies(bodies)
	s := &bodyServer{t: t, bodies: bodies, read: make(chan int, 100), answer: make(chan struct{}, 100)}
	const limit = 2 * mebibyte
	mux.Handle("PUT /echo", func(w http.ResponseWriter, r *http.Request) error {
		body, err := ReadBody(w, r, limit)
		if err != nil {
			return err
		}
		again, err := ReadBody(w, r, limit)
		if err == nil && !bytes.Equal(body, again) {
			err = fmt.Errorf("%d octets, and then %d", len(body), len(again))
		}
		if err == nil {
			_, err = w.Write(body)
		}
		return err
	})
	mux.Handle("PUT /hold", func(w http.ResponseWriter, r *http.Request) error {
		body, err := ReadBody(w, r, limit)
		if err != nil {
			return err
		}
		s.read <- len(body)
		select {
		case <-s.answer:
			return nil
		case <-r.Context().Done():
			return r.Context().Err()
		}
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// answered is an answer.
type answered struct {
	code   int
	body   string
	header http.Header
}

// put sends a body of a length, or one that does not say how long it is.
func (s *bodyServer) put(path string, body []byte, length int64) (answered, error) {
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut, s.URL+path, io.NopCloser(bytes.NewReader(body)))
	if err != nil {
		return answered{}, err
	}
	request.ContentLength = length
	response, err := s.Client().Do(request)
	if err != nil {
		return answered{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answered{response.StatusCode, string(text), response.Header}, err
}

// start does the same beside the test, and returns what waits for the answer.
func (s *bodyServer) start(path string, size int) (wait func() answered) {
	answer, failed := make(chan answered, 1), make(chan error, 1)
	go func() {
		got, err := s.put(path, make([]byte, size), int64(size))
		failed <- err
		answer <- got
	}()
	return func() answered {
		s.t.Helper()
		require.NoError(s.t, <-failed)
		return <-answer
	}
}

// stuck sends a part of a body, and returns the connection.
func (s *bodyServer) stuck(path string, size, sent int) net.Conn {
	s.t.Helper()
	return s.begin(fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, size, strings.Repeat("x", sent)))
}

// begin sends something on a connection of its own, and returns that.
func (s *bodyServer) begin(text string) net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(s.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, text)
	require.NoError(s.t, err)
	return conn
}

// held waits until bodies take so much.
func (s *bodyServer) held(octets int64) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.bodies.Stats().Held == octets }, 10*time.Second, time.Millisecond,
		"%d octets held", octets)
}

// answerOf is the first line of what a connection is answered with.
func answerOf(t *testing.T, conn net.Conn) string {
	t.Helper()
	text, err := io.ReadAll(conn)
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(text), "\r\n")
	return line
}

func TestBodiesOfAnySize(t *testing.T) {
	t.Parallel()
	s := newBodyServer(t, NewBodies())
	for _, size := range []int{
		0, 1, freeBody - 1, freeBody, freeBody + 1, smallBody - 1, smallBody, smallBody + 1, mebibyte, 2*mebibyte - 1, 2 * mebibyte,
	} {
		body := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		for _, length := range []int64{int64(size), -1} {
			got, err := s.put("/echo", body, length)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, got.code, "%d as %d", size, length)
			require.Equal(t, string(body), got.body, "%d as %d", size, length)
		}
	}
	for _, length := range []int64{2*mebibyte + 1, -1} {
		got, err := s.put("/echo", make([]byte, 2*mebibyte+1), length)
		require.NoError(t, err)
		require.Equal(t, http.StatusRequestEntityTooLarge, got.code)
	}
	s.held(0)
}

func TestLargeBodiesWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := newBodyServer(t, newBodies(mebibyte, 2*mebibyte))
	first, second := s.start("/hold", mebibyte), s.start("/hold", mebibyte)
	require.Equal(t, mebibyte, <-s.read)
	require.Equal(t, mebibyte, <-s.read)
	third := s.start("/hold", mebibyte)
	// Small ones do not wait for large ones.
	for range 3 {
		got, err := s.put("/echo", make([]byte, smallBody), smallBody)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, got.code)
	}
	require.Empty(t, s.read, "there is no room")
	s.held(2 * mebibyte)
	s.answer <- struct{}{}
	require.Equal(t, mebibyte, <-s.read, "there is, as soon as one is answered")
	s.answer <- struct{}{}
	s.answer <- struct{}{}
	for _, wait := range []func() answered{first, second, third} {
		require.Equal(t, http.StatusOK, wait().code)
	}
	s.held(0)
	require.Zero(t, s.bodies.Stats().Refused)
}

func TestNobodyWaitsForRoomForLong(t *testing.T) {
	t.Parallel()
	bodies := newBodies(mebibyte, 2*mebibyte)
	bodies.patience = 50 * time.Millisecond
	s := newBodyServer(t, bodies)
	first := s.start("/hold", 2*mebibyte)
	<-s.read
	got, err := s.put("/hold", make([]byte, mebibyte), mebibyte)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, got.code)
	require.Equal(t, "5", got.header.Get("Retry-After"))
	require.Contains(t, got.body, "too many large bodies")
	require.EqualValues(t, 1, bodies.Stats().Refused)
	s.answer <- struct{}{}
	require.Equal(t, http.StatusOK, first().code)
}

// TestSlowBodiesKeepNoRoom: who has room and sends nothing is let go, soon where somebody waits for it.
func TestSlowBodiesKeepNoRoom(t *testing.T) {
	t.Parallel()
	for _, size := range []int{smallBody, mebibyte} {
		bodies := newBodies(smallBody, mebibyte)
		bodies.pressed = 10 * time.Millisecond
		s := newBodyServer(t, bodies)
		slow := s.stuck("/echo", size, freeBody+1)
		s.held(int64(size))
		begin := time.Now()
		got, err := s.put("/echo", make([]byte, size), int64(size))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, got.code)
		require.Less(t, time.Since(begin), bodies.patience)
		require.Equal(t, "HTTP/1.1 408 Request Timeout", answerOf(t, slow))
		s.held(0)

		bodies.grace = 10 * time.Millisecond
		require.Equal(t, "HTTP/1.1 408 Request Timeout", answerOf(t, s.stuck("/echo", size, freeBody+1)), "nobody waits")
		s.held(0)
	}
}

// TestSlowBeginningsTakeNoRoom: what has sent little takes nothing, however much it says will come.
func TestSlowBeginningsTakeNoRoom(t *testing.T) {
	t.Parallel()
	s := newBodyServer(t, newBodies(smallBody, mebibyte))
	for range 50 {
		s.stuck("/echo", mebibyte, freeBody-1)
	}
	got, err := s.put("/echo", make([]byte, mebibyte), mebibyte)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, got.code)
	s.held(0)
}

// TestAnswersMayTakeLongerThanBodies: the time for the body is not one for the answer.
func TestAnswersMayTakeLongerThanBodies(t *testing.T) {
	t.Parallel()
	bodies := newBodies(mebibyte, mebibyte)
	bodies.grace = 500 * time.Millisecond
	s := newBodyServer(t, bodies)
	first := s.start("/hold", smallBody)
	<-s.read
	timer := time.AfterFunc(2*bodies.grace, func() { s.answer <- struct{}{} })
	defer timer.Stop()
	require.Equal(t, http.StatusOK, first().code)
}

// chunk is a part of a body that does not say how long it is.
func chunk(size int) string { return fmt.Sprintf("%x\r\n%s\r\n", size, strings.Repeat("x", size)) }

// chunked begins a request with such a body.
func (s *bodyServer) chunked(size int) net.Conn {
	s.t.Helper()
	return s.begin("PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunk(size))
}

// TestBodiesOfUnknownLengthHaveTheirTime: as much as those have that say how long they are.
func TestBodiesOfUnknownLengthHaveTheirTime(t *testing.T) {
	t.Parallel()
	bodies := newBodies(smallBody, 2*mebibyte) // for which there are two seconds, beside the grace
	bodies.grace = 500 * time.Millisecond
	s := newBodyServer(t, bodies)
	conn := s.chunked(2 * smallBody)
	s.held(2 * mebibyte)
	sent := make(chan error, 1)
	time.AfterFunc(2*bodies.grace, func() {
		_, err := io.WriteString(conn, chunk(mebibyte)+chunk(0))
		sent <- err
	})
	require.Equal(t, "HTTP/1.1 200 OK", answerOf(t, conn))
	require.NoError(t, <-sent)
}

// TestBodiesThatWaitForRoomAreNotSlow: nor are they hurried for the room they have meanwhile.
func TestBodiesThatWaitForRoomAreNotSlow(t *testing.T) {
	t.Parallel()
	bodies := newBodies(smallBody, 2*mebibyte)
	bodies.pressed = 10 * time.Millisecond
	s := newBodyServer(t, bodies)
	first := s.start("/hold", 2*mebibyte)
	<-s.read
	waits := func(of *semaphore.Weighted) {
		t.Helper()
		require.Eventually(t, func() bool {
			bodies.mu.Lock()
			defer bodies.mu.Unlock()
			return bodies.waiting[of] == 1
		}, 10*time.Second, time.Millisecond)
	}
	conn := s.chunked(mebibyte)
	_, err := io.WriteString(conn, chunk(0))
	require.NoError(t, err)
	waits(bodies.large)
	small := s.start("/echo", smallBody)
	waits(bodies.small)
	time.AfterFunc(10*bodies.pressed, func() { s.answer <- struct{}{} })
	require.Equal(t, "HTTP/1.1 200 OK", answerOf(t, conn))
	for _, wait := range []func() answered{first, small} {
		require.Equal(t, http.StatusOK, wait().code)
	}
}

// TestStoppedBodies: who has not sent its body when the server is stopped has a moment for that, and no longer.
func TestStoppedBodies(t *testing.T) {
	t.Parallel()
	bodies := NewBodies()
	bodies.stopGrace, bodies.grace = 500*time.Millisecond, time.Minute
	s := newBodyServer(t, bodies)
	var stuck []net.Conn
	for _, sent := range []int{0, 10, freeBody + 1} {
		stuck = append(stuck, s.stuck("/echo", smallBody, sent))
	}
	soon := s.stuck("/echo", 10, 5)
	done := s.start("/hold", smallBody)
	<-s.read
	stuck = append(stuck, s.chunked(freeBody+1))
	s.held(3 * smallBody)
	bodies.Stop()
	_, err := io.WriteString(stuck[len(stuck)-1], chunk(smallBody))
	require.NoError(t, err, "it gets new room")
	_, err = io.WriteString(soon, "yyyyy")
	require.NoError(t, err)
	require.NoError(t, soon.(*net.TCPConn).CloseWrite())
	require.Equal(t, "HTTP/1.1 200 OK", answerOf(t, soon))
	for _, conn := range stuck {
		require.Equal(t, "HTTP/1.1 408 Request Timeout", answerOf(t, conn))
	}
	s.answer <- struct{}{}
	require.Equal(t, http.StatusOK, done().code, "it was read")
}

// TestBodiesThatDoNotCome checks that those which need no room, and those which nobody reads, are not waited for longer.
func TestBodiesThatDoNotCome(t *testing.T) {
	t.Parallel()
	bodies := newBodies(smallBody, mebibyte)
	bodies.grace = 50 * time.Millisecond
	s := newBodyServer(t, bodies)
	begin := time.Now()
	require.Equal(t, "HTTP/1.1 408 Request Timeout", answerOf(t, s.stuck("/echo", 100, 50)))
	require.Equal(t, "HTTP/1.1 404 Not Found", answerOf(t, s.stuck("/nothing", 100, 50)))
	require.Less(t, time.Since(begin), 10*time.Second)

	// What has come is answered, whenever that is.
	wait := s.start("/hold", 100)
	require.Equal(t, 100, <-s.read)
	require.Equal(t, "HTTP/1.1 408 Request Timeout", answerOf(t, s.stuck("/echo", 100, 50)), "meanwhile")
	s.answer <- struct{}{}
	require.Equal(t, http.StatusOK, wait().code)
}
