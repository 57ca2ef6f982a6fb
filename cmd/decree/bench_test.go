package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// benchConnections is how many connections load a server at once.
const benchConnections = 16

// seed puts enrollments, each with the set "fleet", into a database: more than could be put through the API in time.
func (s *server) seed(enrollments int) {
	s.t.Helper()
	tx, err := s.database.Begin()
	require.NoError(s.t, err)
	const chunk = 500
	for first := 0; first < enrollments; first += chunk {
		n := min(chunk, enrollments-first)
		var rows, sets []any
		for i := first; i < first+n; i++ {
			rows = append(rows, fleetID(i), 1)
			sets = append(sets, fleetID(i), "fleet")
		}
		values := strings.TrimSuffix(strings.Repeat("(?,?),", n), ",")
		_, err = tx.Exec(`INSERT INTO enrollments (id, created_at) VALUES `+values, rows...)
		require.NoError(s.t, err)
		_, err = tx.Exec(`INSERT INTO enrollment_sets (enrollment_id, set_name) VALUES `+values, sets...)
		require.NoError(s.t, err)
	}
	require.NoError(s.t, tx.Commit())
}

func fleetID(i int) string {
	return fmt.Sprintf("%08X-0000-4000-8000-%012X", uint32(i)*2654435761, i)
}

// fleet starts a server with so many enrollments that have the same ten declarations.
func fleet(b *testing.B, db database, enrollments int, flags ...string) *server {
	s := startDecree(b, append(db.flags(b), flags...)...)
	for i := range 10 {
		identifier := fmt.Sprintf("com.example.declaration.%d", i)
		s.putTest(identifier, "fleet")
		s.addToSet("fleet", identifier)
	}
	s.seed(enrollments)
	return s
}

// connection is a client that does next to nothing, to leave the machine to the server.
type connection struct {
	conn   net.Conn
	reader *bufio.Reader
}

func dial(address string) (*connection, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReaderSize(conn, 16<<10)}, nil
}

// do sends a request and reads the answer, which must be a 200 with a Content-Length. It returns the body's length.
func (c *connection) do(request []byte) (int, error) {
	if _, err := c.conn.Write(request); err != nil {
		return 0, err
	}
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("answered %q", line)
	}
	length := -1
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) == 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("no Content-Length")
	}
	_, err = c.reader.Discard(length)
	return length, err
}

// load sends b.N requests over some connections, of the enrollments by turns.
func load(b *testing.B, address string, requests [][]byte) {
	loadWith(b, address, benchConnections, func() []byte { return requests[rand.IntN(len(requests))] })
}

// loadWith sends b.N requests over some connections; request makes one, for several of them at once.
func loadWith(b *testing.B, address string, connections int, request func() []byte) {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	dialled := make([]*connection, connections)
	for i := range dialled {
		c, err := dial(address)
		require.NoError(b, err)
		defer c.conn.Close()
		dialled[i] = c
		_, err = c.do(request())
		require.NoError(b, err)
	}
	b.ResetTimer()
	for _, c := range dialled {
		group.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if _, err := c.do(request()); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func deviceRequest(path, id string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: decree\r\nX-Enrollment-ID: " + id +
		"\r\nX-Enrollment-Type: Device\r\n\r\n")
}

// BenchmarkDevice compares device requests in the steady state with a handler that answers constant bytes.
func BenchmarkDevice(b *testing.B) {
	const enrollments = 10_000
	b.Run("Constant", func(b *testing.B) {
		body := bytes.Repeat([]byte("x"), 1000)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(body)
		})}
		go func() { _ = server.Serve(listener) }()
		defer server.Close()
		load(b, listener.Addr().String(), [][]byte{deviceRequest("/", "x")})
	})
	for _, db := range databases() {
		b.Run(db.name, func(b *testing.B) {
			s := fleet(b, db, enrollments)
			address := strings.TrimPrefix(s.url, "http://")
			for _, path := range []string{
				"/tokens", "/declaration-items", "/declaration/configuration/com.example.declaration.3",
			} {
				b.Run(strings.Split(path, "/")[1], func(b *testing.B) {
					requests := make([][]byte, enrollments)
					for i := range requests {
						requests[i] = deviceRequest(path, fleetID(i))
					}
					s.settle()
					load(b, address, requests)
				})
			}
		})
	}
}

// settle makes all enrollments in sync and seen, which is where they spend their lives.
func (s *server) settle() {
	s.t.Helper()
	token := s.token(fleetID(0))
	now := time.Now().UnixMicro()
	_, err := s.database.Exec(`UPDATE enrollments SET type = 'Device', synced_token = ?, fetched_token = ?,
		desired_token = ?, fetched_at = ?, last_seen = ?, notify_at = NULL`, token, token, token, now, now)
	require.NoError(s.t, err)
	_, err = s.database.Exec(`DELETE FROM fanouts`)
	require.NoError(s.t, err)
}
