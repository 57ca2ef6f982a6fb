package nanomdm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/micromdm/nanomdm/mdm"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

const (
	patience = 30 * time.Second
	key      = "a-secret-key"
)

func newClient(t *testing.T, url, key string) *Client {
	t.Helper()
	c, err := New(url, key)
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

// answering is a server that answers every request in one way.
func answering(t *testing.T, handler http.HandlerFunc) (enqueueURL string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL + "/v1/enqueue/"
}

func TestRequest(t *testing.T) {
	t.Parallel()
	type seen struct {
		method, uri, user, password, contentType string
		body                                     []byte
		length                                   int64
	}
	requests := make(chan seen, 10)
	url := answering(t, func(w http.ResponseWriter, r *http.Request) {
		s := seen{method: r.Method, uri: r.RequestURI, contentType: r.Header.Get("Content-Type"), length: r.ContentLength}
		s.user, s.password, _ = r.BasicAuth()
		s.body, _ = io.ReadAll(r.Body)
		requests <- s
		_, _ = io.WriteString(w, `{"command_uuid":"u"}`)
	})
	c := newClient(t, strings.TrimSuffix(url, "/"), key)
	for i := range 3 {
		command := newCommand()
		results, err := c.Enqueue(testContext(t), []string{"A", "B:C", "D/E"}, command)
		require.NoError(t, err)
		require.Equal(t, map[string]notifier.Result{"A": {}, "B:C": {}, "D/E": {}}, results)
		s := <-requests
		require.Equal(t, http.MethodPut, s.method)
		require.Equal(t, "/v1/enqueue/A,B:C,D%2FE", s.uri)
		require.Equal(t, []string{"nanomdm", key}, []string{s.user, s.password})
		require.Equal(t, "application/xml", s.contentType)
		require.Equal(t, int64(len(s.body)), s.length)
		decoded, err := mdm.DecodeCommand(s.body)
		require.NoError(t, err, "request %d has a whole body", i)
		require.Equal(t, command.UUID, decoded.CommandUUID)
	}
}

// TestBrokenConnections: a request whose connection breaks is not sent again by itself, or the second time whole.
func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	uuids := map[string]int{}
	url := answering(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		decoded, err := mdm.DecodeCommand(body)
		if err != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		uuids[decoded.CommandUUID]++
		if len(uuids)%2 == 0 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"command_uuid":"u"}`)
	})
	c := newClient(t, url, key)
	for i := range 6 {
		_, err := c.Enqueue(testContext(t), []string{"A"}, newCommand())
		require.Equal(t, i%2 == 1, err != nil, "%d: %v", i, err)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, uuids, 6)
	for _, times := range uuids {
		require.Equal(t, 1, times, "a CommandUUID may be used once")
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	for _, code := range []int{301, 302, 303, 307, 308} {
		followed := make(chan struct{}, 1)
		target := answering(t, func(w http.ResponseWriter, r *http.Request) {
			followed <- struct{}{}
			_, _ = io.WriteString(w, `{"command_uuid":"u"}`)
		})
		url := answering(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target, code) })
		_, err := newClient(t, url, key).Enqueue(testContext(t), []string{"A"}, newCommand())
		require.ErrorContains(t, err, fmt.Sprint(code))
		require.Empty(t, followed, "nor does the key go elsewhere")
	}
}

// requireDiscreet checks that an error gives away neither the key nor whom the request was for.
func requireDiscreet(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	for _, secret := range []string{key, "DEVICE", "enqueue/"} {
		require.NotContains(t, err.Error(), secret)
	}
}

var devices = []string{"DEVICE-1", "DEVICE-2"}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	c := newClient(t, "http://"+listener.Addr().String()+"/v1/enqueue/", key)
	results, err := c.Enqueue(testContext(t), devices, newCommand())
	requireDiscreet(t, err)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Nil(t, results)
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	for name, before := range map[string]string{"before the answer": "", "within the answer": `{"command_uuid":"u"`} {
		t.Run(name, func(t *testing.T) {
			arrived := make(chan struct{}, 1)
			url := answering(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.ReadAll(r.Body)
				if before != "" {
					_, _ = io.WriteString(w, before)
					_ = http.NewResponseController(w).Flush()
				}
				arrived <- struct{}{}
				select {
				case <-release:
				case <-r.Context().Done():
				}
			})
			ctx, cancel := context.WithCancel(testContext(t))
			done := make(chan error, 1)
			c := newClient(t, url, key)
			go func() {
				_, err := c.Enqueue(ctx, devices, newCommand())
				done <- err
			}()
			<-arrived
			cancel()
			select {
			case err := <-done:
				requireDiscreet(t, err)
				require.ErrorIs(t, err, context.Canceled)
			case <-time.After(patience):
				require.Fail(t, "it does not end with its context")
			}

			ctx, cancel = context.WithTimeout(testContext(t), 50*time.Millisecond)
			defer cancel()
			_, err := c.Enqueue(ctx, devices, newCommand())
			requireDiscreet(t, err)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
	close(release)
}

func TestHugeAnswers(t *testing.T) {
	t.Parallel()
	line := []byte(strings.Repeat(" ", 1<<20))
	url := answering(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"command_uuid":"u"`)
		for {
			if _, err := w.Write(line); err != nil {
				return // the client has had enough
			}
		}
	})
	_, err := newClient(t, url, key).Enqueue(testContext(t), devices, newCommand())
	requireDiscreet(t, err)
	require.ErrorContains(t, err, "other than its JSON")
}

func TestStrangeServers(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]string{
		"not HTTP":   "220 mail.example.org ESMTP\r\n",
		"hangs up":   "",
		"bad header": "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
		"cut off":    "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"command_uuid\":\"u\"}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var served sync.WaitGroup
			served.Go(func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				buffer := make([]byte, 64<<10)
				_, _ = conn.Read(buffer)
				_, _ = io.WriteString(conn, say)
				_ = conn.Close()
			})
			t.Cleanup(served.Wait)
			t.Cleanup(func() { _ = listener.Close() })
			c := newClient(t, "http://"+listener.Addr().String()+"/v1/enqueue/", key)
			_, err = c.Enqueue(testContext(t), devices, newCommand())
			requireDiscreet(t, err)
		})
	}
}

// strangeIDs are enrollment ids that a path has to hide from the URL.
var strangeIDs = []string{
	"PLAIN", "DEVICE:USER", "a/b", "/a/", "a//b", "a%b", "%2F", "%2C", "a?b", "a#b", "a b", "a+b", "a&b=c;d", "..x", "a\\b",
	"ü", "日本語", "👩‍💻", "a@b", "$!*'()", "~", `"quoted"`, "<tag>", "[x]", "{x}", "a|b^c`", "\u00a0x",
}

func TestStrangeIDsReachNanoMDM(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	c := newClient(t, server.EnqueueURL(), server.APIKey())
	for _, id := range strangeIDs {
		results, err := c.Enqueue(ctx, []string{id}, newCommand())
		require.NoError(t, err, "%q", id)
		require.Empty(t, results[id].CommandError)
		require.NotEmpty(t, results[id].PushError, "%q is the key of the answer: it was never enrolled", id)
		enqueued := server.Enqueued()
		require.Equal(t, []string{id}, enqueued[len(enqueued)-1].IDs)
	}
	command := newCommand()
	results, err := c.Enqueue(ctx, strangeIDs, command)
	require.NoError(t, err)
	require.Len(t, results, len(strangeIDs))
	enqueued := server.Enqueued()
	last := enqueued[len(enqueued)-1]
	require.ElementsMatch(t, strangeIDs, last.IDs)
	require.Equal(t, command.UUID, last.CommandUUID)
	require.Equal(t, command.Data, last.Data)
}

func TestWrongKey(t *testing.T) {
	t.Parallel()
	server := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	_, err := newClient(t, server.EnqueueURL(), key).Enqueue(testContext(t), devices, newCommand())
	requireDiscreet(t, err)
	require.ErrorContains(t, err, "401")
	require.NotContains(t, err.Error(), server.APIKey())

	_, err = newClient(t, server.URL()+"/v2/enqueue/", server.APIKey()).Enqueue(testContext(t), devices, newCommand())
	requireDiscreet(t, err)
	require.ErrorContains(t, err, "404")
	require.Empty(t, server.Enqueued())
}

// TestRefusedPath checks that what stands before NanoMDM and does not like one id is no sign that NanoMDM does not work.
func TestRefusedPath(t *testing.T) {
	t.Parallel()
	for code, one := range map[int]bool{400: true, 404: true, 414: true, 401: false, 403: false, 429: false, 502: false, 418: true} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<html>", code)
		}))
		_, err := newClient(t, server.URL+"/v1/enqueue/", key).Enqueue(testContext(t), devices, newCommand())
		server.Close()
		requireDiscreet(t, err)
		var refused *notifier.RefusedError
		require.Equal(t, one, errors.As(err, &refused), code)
	}
}

func TestPushFaults(t *testing.T) {
	t.Parallel()
	for name, backend := range map[string]nanomdmtest.Option{
		"file": nanomdmtest.WithFileStorage(), "memory": nanomdmtest.WithMemoryStorage(), "postgres": nanomdmtest.WithPostgres(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			server := nanomdmtest.Start(t, backend, nanomdmtest.WithoutPushCertificate())
			c := newClient(t, server.EnqueueURL(), server.APIKey())
			var ids []string
			for range 3 {
				device := server.NewDevice(t)
				require.NoError(t, device.Enroll(ctx))
				ids = append(ids, device.ID())
			}

			requireQueued := func(unwoken int) {
				t.Helper()
				command := newCommand()
				results, err := c.Enqueue(ctx, ids, command)
				require.NoError(t, err)
				require.Len(t, results, len(ids))
				failed := 0
				for _, id := range ids {
					require.Empty(t, results[id].CommandError)
					if results[id].PushError != "" {
						failed++
					}
				}
				require.Equal(t, unwoken, failed)
				enqueued := server.Enqueued()
				require.Equal(t, command.UUID, enqueued[len(enqueued)-1].CommandUUID)
				require.ElementsMatch(t, ids, enqueued[len(enqueued)-1].IDs)
			}
			requireQueued(3) // there is no push certificate
			server.StorePushCertificate()
			requireQueued(0)
			server.FailPushes(func(string) error { return errors.New("APNs is down") })
			requireQueued(3)
			first := true
			server.FailPushes(func(string) error {
				if first {
					first = false
					return errors.New("BadDeviceToken")
				}
				return nil
			})
			requireQueued(1)
			require.Empty(t, server.Refused())
		})
	}
}

// TestUnknownIDs: a backend on SQL refuses the whole request for one id that it does not know.
func TestUnknownIDs(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := nanomdmtest.Start(t, nanomdmtest.WithPostgres())
	c := newClient(t, server.EnqueueURL(), server.APIKey())
	device := server.NewDevice(t)
	require.NoError(t, device.Enroll(ctx))
	results, err := c.Enqueue(ctx, []string{device.ID(), "DEVICE-NOBODY"}, newCommand())
	requireDiscreet(t, err)
	require.Nil(t, results)
	require.Empty(t, server.Enqueued())

	results, err = c.Enqueue(ctx, []string{device.ID()}, newCommand())
	require.NoError(t, err)
	require.Equal(t, map[string]notifier.Result{device.ID(): {}}, results)

	// A CommandUUID that was used is refused too.
	command := newCommand()
	_, err = c.Enqueue(ctx, []string{device.ID()}, command)
	require.NoError(t, err)
	_, err = c.Enqueue(ctx, []string{device.ID()}, command)
	requireDiscreet(t, err)
}
