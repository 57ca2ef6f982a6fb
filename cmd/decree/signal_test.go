package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startedRequest is a request that the server has begun to handle, and whose body is not sent yet.
type startedRequest struct {
	conn   net.Conn
	reader *bufio.Reader
	body   string
}

// startRequest sends a request's header, and returns when the server asks for the body.
func startRequest(t *testing.T, address, path, body string) *startedRequest {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	authorization := base64.StdEncoding.EncodeToString([]byte("kmfddm:" + testKey))
	_, err = fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: decree\r\nAuthorization: Basic %s\r\n"+
		"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, authorization, len(body))
	require.NoError(t, err)
	r := &startedRequest{conn, bufio.NewReader(conn), body}
	line, err := r.reader.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
	_, err = r.reader.ReadString('\n')
	require.NoError(t, err)
	return r
}

// finish sends the body and returns the status of the answer.
func (r *startedRequest) finish(t *testing.T) int {
	t.Helper()
	_, err := io.WriteString(r.conn, r.body)
	require.NoError(t, err)
	response, err := http.ReadResponse(r.reader, nil)
	require.NoError(t, err)
	defer response.Body.Close()
	return response.StatusCode
}

// TestTerminate checks that the real program, told to stop under load, answers what it has accepted, and ends well.
func TestTerminate(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		p := startBinary(t, flags...)
		s := p.server()
		address := strings.TrimPrefix(s.url, "http://")
		s.putTest("test.a", "first")

		// Background load, until the server is gone. No answer may be an error of the server.
		var load sync.WaitGroup
		for range 8 {
			load.Go(func() {
				for {
					request, err := http.NewRequest(http.MethodPost, s.url+"/v1/declarations/test.a/touch", nil)
					if err != nil {
						t.Error(err)
						return
					}
					request.SetBasicAuth("kmfddm", testKey)
					code, text, err := exchange(request)
					if err != nil {
						return
					}
					if code != http.StatusNoContent {
						t.Errorf("answered %d %s", code, text)
					}
				}
			})
		}
		var accepted []*startedRequest
		for i := range 10 {
			accepted = append(accepted, startRequest(t, address, "/v1/declarations",
				declarationJSON(fmt.Sprint("accepted.", i), "com.apple.configuration.management.test", "{}")))
		}
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
		signalled := time.Now()
		s.eventually(func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		}, "no new connections")
		for _, request := range accepted {
			require.Equal(t, http.StatusNoContent, request.finish(t))
		}
		load.Wait()
		require.NoError(t, p.wait(patience), "exit code 0")
		require.Less(t, time.Since(signalled), 10*time.Second)

		s = startBinary(t, flags...).server()
		var identifiers []string
		s.get("/v1/declarations", &identifiers)
		require.Len(t, identifiers, 1+len(accepted))
	})
}

// TestStopBesideHangingMDM checks that an MDM server that does not answer holds nobody who stops Decree.
func TestStopBesideHangingMDM(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		asked, done := make(chan struct{}, 100), make(chan struct{})
		mdm := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			<-done
		}))
		t.Cleanup(mdm.Close)
		t.Cleanup(func() { close(done) })
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var stderr output
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, append(flags, "-listen", "127.0.0.1:0", "-api", testKey,
				"-enqueue", mdm.URL+"/v1/enqueue/", "-enqueue-key", "key"), nil, io.Discard, &stderr)
		}()
		s := &server{t: t}
		s.eventually(func() bool {
			match := listening.FindStringSubmatch(stderr.String())
			if match != nil {
				s.url = "http://" + match[1]
			}
			return match != nil
		}, "the program to listen")
		s.putTest("test.a", "first")
		s.addToSet("base", "test.a")
		s.assign("device", "base")
		<-asked
		stop()
		start := time.Now()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(patience):
			require.Fail(t, "it does not stop")
		}
		require.Less(t, time.Since(start), 10*time.Second)
	})
}

// TestLogsKeepSecrets checks that the log, at its most talkative, has neither keys nor what declarations and status
// reports say.
func TestLogsKeepSecrets(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		const secret = "xyzzy"
		mdm := httptest.NewServer(http.NotFoundHandler())
		defer mdm.Close()
		p := startBinary(t, append(flags, "-debug", "-enqueue", mdm.URL+"/v1/enqueue/", "-enqueue-key", secret+"-enqueue-key")...)
		s := p.server()
		s.putTest("test.a", secret)
		for _, body := range []string{
			secret, `{"` + secret + `":1}`, `{"Identifier":"a","Type":"` + secret + `","Payload":{}}`,
			`{"Identifier":"a","Type":"com.apple.configuration.x","Payload":"` + secret + `"}`,
			`{"Identifier":"a","Type":"com.apple.configuration.x","Payload":{"a":` + secret + `}}`,
			`{"Identifier":"a","Type":"com.apple.configuration.x","Payload":{"a":"` + secret + `","a":"` + secret + `"}}`,
		} {
			code, _ := s.do(http.MethodPut, "/v1/declarations", body)
			require.Equal(t, http.StatusBadRequest, code, body)
		}
		s.addToSet("base", "test.a")
		s.assign("device", "base")
		s.assign("device that sleeps", "base")
		for report, expected := range map[string]int{
			`{"StatusItems":{"` + secret + `":"` + secret + `"},"Errors":[{"` + secret + `":1}]}`: http.StatusOK,
			`{"StatusItems":"` + secret + `"}`: http.StatusBadRequest,
			secret:                             http.StatusBadRequest,
			`{"StatusItems":{"a":"` + secret:   http.StatusBadRequest,
		} {
			code, text := s.device("device", http.MethodPut, "/status", report)
			require.Equal(t, expected, code, "%s: %s", report, text)
		}
		for _, path := range []string{"/tokens", "/declaration-items", "/declaration/configuration/test.a"} {
			code, _ := s.device("device", http.MethodGet, path, "")
			require.Equal(t, http.StatusOK, code)
		}
		for _, path := range []string{"/v1/declarations/test.a", "/v1/status-values/device", "/v1/status-report/device"} {
			code, _ := s.do(http.MethodGet, path, "")
			require.Equal(t, http.StatusOK, code, path)
		}
		request, err := http.NewRequest(http.MethodGet, s.url+"/v1/sets", nil)
		require.NoError(t, err)
		request.SetBasicAuth("kmfddm", secret+"-wrong-key")
		code, _ := s.send(request)
		require.Equal(t, http.StatusUnauthorized, code)
		s.eventually(func() bool { return strings.Contains(p.stderr.String(), "NanoMDM answered 404") }, "a failure to tell")
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
		require.NoError(t, p.wait(patience))

		log := p.stdout.String() + p.stderr.String()
		require.Contains(t, log, "test.a", "it is the log of this")
		require.NotContains(t, log, testKey)
		for line := range strings.Lines(log) {
			require.NotContains(t, line, secret)
		}
	})
}

// pipe is one for what a process writes.
func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = read.Close(), write.Close() }) // they may be closed
	return read, write
}

// TestReaderGone checks that a server goes on when nobody reads its log any more, or what -dump-status writes to standard
// output, and that a command does not.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, stdout, stderr *os.File, flags ...string) *process {
		t.Helper()
		cmd := exec.Command(buildDecree(t), flags...)
		cmd.Env, cmd.Dir = []string{"DECREE_API=" + testKey}, t.TempDir()
		var written *os.File
		if stdout != nil {
			cmd.Stdout, written = stdout, stdout
		} else {
			cmd.Stderr, written = stderr, stderr
		}
		p := startProcess(t, cmd)
		require.NoError(t, written.Close())
		return p
	}
	report := func(s *server, value string) {
		s.t.Helper()
		code, text := s.device("device", http.MethodPut, "/status", `{"StatusItems":{"test":{"value":"`+value+`"}}}`)
		require.Equal(s.t, http.StatusOK, code, "%s", text)
		var values map[string][]struct{ Value string }
		s.get("/v1/status-values/device?prefix=.StatusItems.test.value", &values)
		require.Len(s.t, values["device"], 1)
		require.Equal(s.t, value, values["device"][0].Value)
	}
	ends := func(p *process) {
		p.t.Helper()
		require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(p.t, p.wait(patience))
	}

	t.Run("log", func(t *testing.T) {
		t.Parallel()
		log, write := pipe(t)
		p := start(t, nil, write, "-listen", "127.0.0.1:0")
		s := &server{t: t}
		for lines := bufio.NewScanner(log); s.url == "" && lines.Scan(); {
			if match := listening.FindStringSubmatch(lines.Text()); match != nil {
				s.url = "http://" + match[1]
			}
		}
		require.NotEmpty(t, s.url)
		require.NoError(t, log.Close())
		for _, value := range []string{"first", "second", "third"} {
			s.putTest("test.a", value)
			report(s, value)
		}
		ends(p)
	})
	t.Run("dump", func(t *testing.T) {
		t.Parallel()
		dump, write := pipe(t)
		p := start(t, write, nil, "-listen", "127.0.0.1:0", "-dump-status", "-")
		s := p.server()
		report(s, "read")
		line, err := bufio.NewReader(dump).ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, `"read"`)
		require.NoError(t, dump.Close())
		report(s, "first")
		report(s, "second")
		p.waitLog("status reports cannot be dumped, and are left out")
		ends(p)
	})
	t.Run("command", func(t *testing.T) {
		t.Parallel()
		usage, write := pipe(t)
		require.NoError(t, usage.Close())
		var ended *exec.ExitError
		require.ErrorAs(t, start(t, nil, write, "check", "-help").wait(patience), &ended)
		status, ok := ended.Sys().(syscall.WaitStatus)
		require.True(t, ok && status.Signaled() && status.Signal() == syscall.SIGPIPE, "%v", ended)
	})
}
