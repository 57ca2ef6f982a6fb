package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/edge"
)

// crowdedSite serves at a site with such connections. A request for /wait is answered when the test receives from asked.
func crowdedSite(t *testing.T, of *connections, secure *tls.Config) (address string, asked <-chan string) {
	t.Helper()
	s, asked := startSite(t, of, secure)
	return s.listener.Addr().String(), asked
}

func startSite(t *testing.T, of *connections, secure *tls.Config) (_ *site, asked <-chan string) {
	t.Helper()
	s := newSite("-listen", "127.0.0.1:0", secure, of, slog.New(slog.DiscardHandler))
	waiting := make(chan string)
	answer := func(w http.ResponseWriter, r *http.Request) error {
		switch path := r.PathValue("path"); path {
		case "now":
		case "large":
			_, err := w.Write(make([]byte, largeAnswer))
			return err
		default:
			waiting <- path
		}
		if _, err := edge.ReadBody(w, r, 1<<20); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	s.mux.Handle("GET /{path}", answer)
	s.mux.Handle("POST /{path}", answer)
	require.NoError(t, sites{main: s, ddm: s, metrics: s}.listen(t.Context()))
	served := make(chan error, 1)
	go func() { served <- s.serve() }()
	t.Cleanup(func() {
		s.stopping.Store(true)
		require.NoError(t, s.server.Close())
		require.NoError(t, <-served)
		// Connections are told of when who serves them comes to its end.
		require.Eventually(t, func() bool { return of.open() == 0 }, patience, time.Millisecond)
		require.Empty(t, of.heads.places, "every place is given back")
	})
	return s, waiting
}

// largeAnswer is the size of the answer to /large.
const largeAnswer = 32 << 20

// rawClient is a connection of a client that writes what it likes.
type rawClient struct {
	t *testing.T
	net.Conn
}

func newRawClient(t *testing.T, address string) rawClient {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, patience)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // the server may have
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return rawClient{t, conn}
}

func (c rawClient) send(text string) rawClient {
	c.t.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(c.t, err)
	return c
}

// ask begins a request, whose headers do not end.
func (c rawClient) ask(path string) rawClient {
	c.t.Helper()
	return c.send("GET /" + path + " HTTP/1.1\r\nHost: decree\r\n")
}

func (c rawClient) requireAnswer() {
	c.t.Helper()
	answer := make([]byte, 12)
	_, err := io.ReadFull(c, answer)
	require.NoError(c.t, err)
	require.Equal(c.t, "HTTP/1.1 204", string(answer))
	for !strings.HasSuffix(string(answer), "\r\n\r\n") {
		next := make([]byte, 1)
		_, err := io.ReadFull(c, next)
		require.NoError(c.t, err)
		answer = append(answer, next...)
	}
}

// requireDropped requires that the server ends the connection, without an answer.
func (c rawClient) requireDropped() {
	c.t.Helper()
	text, err := io.ReadAll(c)
	var timeout net.Error
	require.False(c.t, errors.As(err, &timeout) && timeout.Timeout(), "the connection is still open")
	require.Empty(c.t, string(text))
}

// TestNewcomersFindRoom checks that connections on which nothing comes, or nothing whole, make room for others, the longest
// waiting first, and that those whose request is being answered stay.
func TestNewcomersFindRoom(t *testing.T) {
	t.Parallel()
	const most = 20
	of := newConnections(most, newLongHeads(1, patience))
	address, asked := crowdedSite(t, of, nil)
	var answering, idle []rawClient
	for range most / 2 {
		answering = append(answering, newRawClient(t, address).ask("wait").send("\r\n"))
	}
	require.Eventually(t, func() bool { return active(of) == most/2 }, patience, time.Millisecond)
	for i := range most / 2 {
		client := newRawClient(t, address)
		switch i % 3 { // and else nothing at all
		case 0:
			client.ask("now")
		case 1:
			client.ask("now").send("\r\n").requireAnswer()
		}
		idle = append(idle, client)
		require.Eventually(t, func() bool { return of.open() == most/2+i+1 }, patience, time.Millisecond)
	}
	for range most {
		client := newRawClient(t, address)
		client.ask("now").send("\r\n").requireAnswer()
		client.ask("now").send("\r\n").requireAnswer()
		require.LessOrEqual(t, of.open(), most)
	}
	for _, client := range idle {
		client.requireDropped()
	}
	require.GreaterOrEqual(t, of.dropped.Load(), int64(most/2))
	for range answering {
		require.Equal(t, "wait", <-asked)
	}
	for _, client := range answering {
		client.requireAnswer()
	}
}

// TestBodiesThatDoNotComeMakeRoom checks the same of requests whose bodies do not come, which are all that there are.
func TestBodiesThatDoNotComeMakeRoom(t *testing.T) {
	t.Parallel()
	certificatePEM, keyPEM := certificate(t, 1)
	server, client := tlsOf(t, certificatePEM, keyPEM)
	for name, secure := range map[string]*tls.Config{"plain": nil, "TLS": server} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const most = 20
			of := newConnections(most, newLongHeads(1, patience))
			address, _ := crowdedSite(t, of, secure)
			dial := func() rawClient {
				plain := newRawClient(t, address)
				if secure == nil {
					return plain
				}
				return rawClient{t, tls.Client(plain.Conn, client)}
			}
			var stuck []rawClient
			for range most {
				stuck = append(stuck, dial().ask("now").send("Content-Length: 10000\r\n\r\nbegun"))
				require.Eventually(t, func() bool { return active(of) == len(stuck) }, patience, time.Millisecond)
			}
			for range most {
				dial().ask("now").send("\r\n").requireAnswer()
			}
			for _, client := range stuck {
				client.requireDropped()
			}
		})
	}
}

// active counts the connections whose request is being answered.
func active(of *connections) (n int) {
	of.mu.Lock()
	defer of.mu.Unlock()
	for conn := range of.all {
		if !conn.waits() {
			n++
		}
	}
	return n
}

// TestLongHeads checks that only so many requests with long heads are under way at once, until they are answered, that one
// waits for its place, and that those who are like most wait for none. It is the same with TLS.
func TestLongHeads(t *testing.T) {
	t.Parallel()
	long := "X-Long: " + strings.Repeat("x", 2*freeHead) + "\r\n"
	t.Run("wait", func(t *testing.T) {
		t.Parallel()
		of := newConnections(100, newLongHeads(1, patience))
		address, asked := crowdedSite(t, of, nil)
		answering := newRawClient(t, address).ask("wait").send(long + "\r\n")
		require.Eventually(t, func() bool { return active(of) == 1 }, patience, time.Millisecond)
		waiting := newRawClient(t, address).ask("late").send(long + "\r\n")
		short := newRawClient(t, address)
		for range 3 {
			short.ask("now").send("\r\n").requireAnswer()
		}
		require.Eventually(t, func() bool { return active(of) == 1 }, patience, time.Millisecond, "the other one waits")
		require.Equal(t, "wait", <-asked)
		answering.requireAnswer()
		require.Equal(t, "late", <-asked)
		waiting.requireAnswer()
		require.Eventually(t, func() bool { return len(of.heads.places) == 0 }, patience, time.Millisecond)
		waiting.ask("now").send(long + "\r\n").requireAnswer()
		require.Zero(t, of.dropped.Load())
	})
	t.Run("come slowly", func(t *testing.T) {
		t.Parallel()
		const places = 3
		of := newConnections(100, newLongHeads(places, patience))
		address, asked := crowdedSite(t, of, nil)
		answering := newRawClient(t, address).ask("wait").send(long + "\r\n")
		require.Eventually(t, func() bool { return active(of) == 1 }, patience, time.Millisecond)
		var slow []rawClient
		for i := range 2 * places {
			slow = append(slow, newRawClient(t, address).ask("now").send(long))
			if i < places-1 {
				require.Eventually(t, func() bool { return len(of.heads.places) == 2+i }, patience, time.Millisecond)
			} else {
				slow[i-places+1].requireDropped()
			}
		}
		newRawClient(t, address).ask("now").send(long + "\r\n").requireAnswer()
		slow[places+1].requireDropped()
		slow[places+2].send("\r\n").requireAnswer()
		require.EqualValues(t, places+2, of.dropped.Load())
		require.Equal(t, "wait", <-asked)
		answering.requireAnswer()
	})
	certificatePEM, keyPEM := certificate(t, 1)
	server, client := tlsOf(t, certificatePEM, keyPEM)
	for name, secure := range map[string]*tls.Config{"in vain": nil, "TLS": server} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			of := newConnections(100, newLongHeads(1, 10*time.Millisecond))
			address, asked := crowdedSite(t, of, secure)
			dial := func() rawClient {
				plain := newRawClient(t, address)
				if secure == nil {
					return plain
				}
				return rawClient{t, tls.Client(plain.Conn, client)}
			}
			answering := dial().ask("wait").send(long + "\r\n")
			require.Eventually(t, func() bool { return active(of) == 1 }, patience, time.Millisecond)
			dial().ask("now").send(long).requireDropped()
			require.EqualValues(t, 1, of.dropped.Load())
			dial().ask("now").send("\r\n").requireAnswer()
			require.Equal(t, "wait", <-asked)
			answering.requireAnswer()
		})
	}
}

// tlsOf returns the configurations of both sides.
func tlsOf(t *testing.T, certificatePEM, keyPEM string) (server, client *tls.Config) {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(certificatePEM), []byte(keyPEM))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM([]byte(certificatePEM)))
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		&tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}

// TestLines checks that a head of many lines takes a place whatever its size, that one of more has no place, and that the
// lines of a body do not count.
func TestLines(t *testing.T) {
	t.Parallel()
	of := newConnections(100, newLongHeads(1, patience))
	address, _ := crowdedSite(t, of, nil)
	lines := func(n int) string { return strings.Repeat("a:\r\n", n) }
	places := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return len(of.heads.places) == n }, patience, time.Millisecond)
	}
	few := newRawClient(t, address).ask("now").send(lines(freeLines - 3))
	few.send("\r\n").requireAnswer()
	body := lines(500)
	few.send(fmt.Sprintf("GET /now HTTP/1.1\r\nHost: decree\r\nContent-Length: %d\r\n\r\n%s", len(body), body)).requireAnswer()
	few.ask("now").send("\r\n").requireAnswer()
	places(0)
	many := newRawClient(t, address).ask("now").send(lines(freeLines + 1))
	places(1)
	many.send(lines(100)).send("\r\n").requireAnswer()
	places(0)
	newRawClient(t, address).ask("now").send(lines(maxLines)).requireDropped()
	places(0)
	require.EqualValues(t, 1, of.dropped.Load())
}

// TestBeginningsOfHeads checks that a head is counted whatever came before it.
func TestBeginningsOfHeads(t *testing.T) {
	t.Parallel()
	of := newConnections(100, newLongHeads(1, patience))
	address, _ := crowdedSite(t, of, nil)
	long := strings.Repeat("a:\r\n", maxLines)
	post := "POST /now HTTP/1.1\r\nHost: decree\r\nContent-Length: 3\r\n\r\nabc"
	for name, story := range map[string]func(client rawClient) rawClient{
		"an empty line": func(client rawClient) rawClient {
			client.send(post).requireAnswer()
			return client.send("\r\n").ask("now")
		},
		"the end of a line": func(client rawClient) rawClient {
			client.ask("now").send("\r\nGET /now HTTP/1.1").requireAnswer()
			return client.send("\r\nHost: decree\r\n")
		},
	} {
		dropped := of.dropped.Load()
		story(newRawClient(t, address)).send(long).requireDropped()
		require.Equal(t, dropped+1, of.dropped.Load(), name)
		story(newRawClient(t, address)).send("\r\n").requireAnswer()
	}
}

// TestAnswersThatAreTaken checks that who takes a long answer all the time does not make room for those who never ask.
func TestAnswersThatAreTaken(t *testing.T) {
	t.Parallel()
	const most = 10
	of := newConnections(most, newLongHeads(1, patience))
	address, _ := crowdedSite(t, of, nil)
	client := newRawClient(t, address).ask("large").send("Connection: close\r\n\r\n")
	taken := 0
	// What is left when the last one comes is more than the system holds, so that it is still being written.
	for i, piece := 0, make([]byte, largeAnswer/2/most/4); i < 4*most; i++ {
		n, err := io.ReadFull(client, piece)
		require.NoError(t, err)
		taken += n
		before := of.dropped.Load() + int64(of.open())
		newRawClient(t, address) // and asks nothing
		require.Eventually(t, func() bool { return of.dropped.Load()+int64(of.open()) > before }, patience, time.Millisecond)
	}
	rest, err := io.Copy(io.Discard, client)
	require.NoError(t, err)
	require.Greater(t, taken+int(rest), largeAnswer)
	require.Greater(t, of.dropped.Load(), int64(most))
}

func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	require.LessOrEqual(t, connectionLimit(1), maxConnections)
	require.Equal(t, connectionLimit(1)/3, connectionLimit(3))
}
