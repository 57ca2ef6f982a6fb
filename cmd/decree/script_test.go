package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

// TestScripts runs the stories in testdata/script, which are transcripts of what operators do with the real binary. Besides
// the commands of testscript, with decree as a program for exec, they have those of script.
func TestScripts(t *testing.T) {
	t.Parallel()
	path := filepath.Dir(buildDecree(t)) + string(filepath.ListSeparator) + os.Getenv("PATH")
	type run = func(*testscript.TestScript, bool, []string)
	command := func(run func(*script, *testscript.TestScript, bool, []string)) run {
		return func(ts *testscript.TestScript, neg bool, args []string) {
			run(ts.Value(scriptKey{}).(*script), ts, neg, args)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			s := &script{t: env.T().(testing.TB)} // which testscript promises
			env.Values[scriptKey{}] = s
			env.Setenv("PATH", path)
			env.Defer(s.end)
			return nil
		},
		Cmds: map[string]run{
			"start":       command((*script).start),
			"finish":      command((*script).finish),
			"request":     command((*script).request),
			"log":         command((*script).log),
			"await":       command((*script).await),
			"writing":     command((*script).writing),
			"certificate": command((*script).certificate),
			"sql":         command((*script).sql),
		},
	})
}

// scriptKey is where testscript keeps a script.
type scriptKey struct{}

// script is a story that is running, and its commands.
type script struct {
	t       testing.TB
	server  *process
	serials int64
	writes  *writes // nil: nobody writes
}

func (s *script) end() {
	if s.writes != nil {
		_, _ = s.writes.stop() // the story has failed
	}
	if s.server != nil {
		s.server.kill()
	}
}

// usage ends a story that uses a command wrongly.
func usage(ts *testscript.TestScript, right bool, text string) {
	if !right {
		ts.Fatalf("usage: %s", text)
	}
}

var assignment = regexp.MustCompile(`^[A-Z_]+=`)

// start starts the server on a free port, in the story's directory and with nothing else in its environment, and waits until
// it listens. URL is then the variable with its URL, ADDRESS that with its address; and where the device side and the
// metrics have ones of their own, DDM_URL and METRICS_URL.
//
//	start [NAME=VALUE...] [FLAG...]
func (s *script) start(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg, "start [NAME=VALUE...] [FLAG...]")
	if s.server != nil {
		ts.Fatalf("the server runs: finish it first")
	}
	flags := slices.IndexFunc(args, func(arg string) bool { return !assignment.MatchString(arg) })
	if flags < 0 {
		flags = len(args)
	}
	cmd := exec.Command(buildDecree(s.t), append([]string{"-listen", "127.0.0.1:0"}, args[flags:]...)...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), args[:flags]
	s.server = startProcess(s.t, cmd)
	s.until(ts, func() error {
		select {
		case <-s.server.ended:
			ts.Fatalf("the server ended: %v\n%s", s.server.err, s.server.stderr.String())
		default:
		}
		return s.logged(listening.String())
	})
	_, line, _ := strings.Cut(s.server.stderr.String(), " msg=listening ")
	line, _, _ = strings.Cut(line, "\n")
	scheme := "http://"
	if strings.Contains(line, "tls=true") {
		scheme = "https://"
	}
	for _, field := range strings.Fields(line) {
		switch name, address, _ := strings.Cut(field, "="); name {
		case "address":
			ts.Setenv("ADDRESS", address)
			ts.Setenv("URL", scheme+address)
		case "ddm_address":
			ts.Setenv("DDM_URL", scheme+address)
		case "metrics_address":
			ts.Setenv("METRICS_URL", scheme+address)
		}
	}
}

// finish stops the server as systemd does, and requires that it ends well. Its log is still there.
//
//	finish
func (s *script) finish(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0 && s.server != nil, "finish, while the server runs")
	ts.Check(s.server.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.server.ended:
		ts.Check(s.server.err)
	case <-time.After(patience):
		ts.Fatalf("the server does not end")
	}
	_, err := ts.Stderr().Write([]byte(s.server.stderr.String()))
	ts.Check(err)
	s.server = nil
}

// request sends a request and requires an answer with a status; its body is then standard output. Negated it requires that
// there is no answer, and why is then standard error.
//
//	request METHOD URL [key=KEY] [as=ENROLLMENT] [body=FILE] [cacert=FILE] STATUS
//	! request METHOD URL [key=KEY] [as=ENROLLMENT] [body=FILE] [cacert=FILE]
func (s *script) request(ts *testscript.TestScript, neg bool, args []string) {
	if !neg {
		ts.Check(answered(ts, args))
		return
	}
	code, body, err := send(ts, args)
	if err == nil {
		ts.Fatalf("there is an answer: %d %s", code, body)
	}
	_, err = fmt.Fprintln(ts.Stderr(), err)
	ts.Check(err)
}

// answered sends the request of args and returns an error if its answer is another one.
func answered(ts *testscript.TestScript, args []string) error {
	usage(ts, len(args) > 2, "request METHOD URL [NAME=VALUE...] STATUS")
	want, err := strconv.Atoi(args[len(args)-1])
	ts.Check(err)
	code, body, err := send(ts, args[:len(args)-1])
	if err != nil {
		return err
	}
	if code != want {
		return fmt.Errorf("the answer is %d, not %d: %s", code, want, body)
	}
	_, err = ts.Stdout().Write(body)
	return err
}

// send sends the request of args, on a connection of its own.
func send(ts *testscript.TestScript, args []string) (code int, body []byte, err error) {
	usage(ts, len(args) > 1, "request METHOD URL [NAME=VALUE...]")
	options := map[string]string{}
	for _, option := range args[2:] {
		name, value, given := strings.Cut(option, "=")
		usage(ts, given && slices.Contains([]string{"key", "as", "body", "cacert"}, name), "request has no option "+option)
		options[name] = value
	}
	content := ""
	if options["body"] != "" {
		content = ts.ReadFile(options["body"])
	}
	request, err := http.NewRequest(args[0], args[1], strings.NewReader(content))
	ts.Check(err)
	if options["key"] != "" {
		request.SetBasicAuth("decree", options["key"])
	}
	if options["as"] != "" {
		request.Header.Set("X-Enrollment-ID", options["as"])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if options["cacert"] != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(ts.ReadFile(options["cacert"]))) {
			ts.Fatalf("there is no certificate in %s", options["cacert"])
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// log requires that the server that runs has logged what matches a pattern, or, negated, that it has not.
//
//	[!] log PATTERN
func (s *script) log(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 1 && s.server != nil, "[!] log PATTERN, while the server runs")
	if err := s.logged(args[0]); (err == nil) == neg {
		ts.Fatalf("log %s: %s", args[0], s.server.stderr.String())
	}
}

func (s *script) logged(pattern string) error {
	if !regexp.MustCompile(pattern).MatchString(s.server.stderr.String()) {
		return errors.New("the log has nothing like it: " + pattern)
	}
	return nil
}

// await waits until a request has its answer, or until something is logged.
//
//	await request METHOD URL [NAME=VALUE...] STATUS
//	await log PATTERN
func (s *script) await(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1 && (args[0] == "request" || args[0] == "log" && len(args) == 2), "await request|log ...")
	s.until(ts, func() error {
		if args[0] == "log" {
			return s.logged(args[1])
		}
		return answered(ts, args[1:])
	})
}

// until tries something until it goes well.
func (s *script) until(ts *testscript.TestScript, try func() error) {
	deadline := time.Now().Add(patience)
	for err := try(); err != nil; err = try() {
		if time.Now().After(deadline) {
			ts.Fatalf("waited too long: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// writes are declarations that are put one after the other: load.0, load.1, and so on.
type writes struct {
	cancel context.CancelFunc
	ended  chan struct{}
	n      int   // that were put, after ended
	err    error // after ended
}

// begin puts declarations until stop.
func (w *writes) begin(url, key string) {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.ended = cancel, make(chan struct{})
	go func() {
		defer close(w.ended)
		for ; ctx.Err() == nil && w.err == nil; w.n++ {
			w.err = put(url, key, fmt.Sprintf("load.%d", w.n))
		}
	}()
}

func put(url, key, identifier string) error {
	declaration := declarationJSON(identifier, "com.apple.configuration.management.test", `{"Echo":"load"}`)
	request, err := http.NewRequest(http.MethodPut, url+"/v1/declarations", strings.NewReader(declaration))
	if err != nil {
		return err
	}
	request.SetBasicAuth("decree", key)
	code, text, err := exchange(request)
	if err == nil && code != http.StatusNoContent {
		err = fmt.Errorf("the answer to a change is %d: %s", code, text)
	}
	return err
}

// stop ends it, and returns how many were put and what went wrong.
func (w *writes) stop() (int, error) {
	w.cancel()
	<-w.ended
	return w.n, w.err
}

// writing has somebody put declarations, load.0 and so on, until it is stopped; each of them must be taken.
//
//	writing start KEY
//	writing stop
func (s *script) writing(ts *testscript.TestScript, neg bool, args []string) {
	switch {
	case !neg && s.writes == nil && len(args) == 2 && args[0] == "start":
		s.writes = &writes{}
		s.writes.begin(ts.Getenv("URL"), args[1])
	case !neg && s.writes != nil && len(args) == 1 && args[0] == "stop":
		n, err := s.writes.stop()
		s.writes = nil
		ts.Check(err)
		ts.Logf("%d declarations were put", n)
	default:
		usage(ts, false, "writing start KEY|stop")
	}
}

// certificate makes NAME.pem, a certificate for 127.0.0.1 that nobody else has signed, and NAME.key, its key.
//
//	certificate NAME...
func (s *script) certificate(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "certificate NAME...")
	for _, name := range args {
		s.serials++
		certificate, key := certificate(s.t, s.serials)
		writeFile(s.t, ts.MkAbs(name+".pem"), certificate)
		writeFile(s.t, ts.MkAbs(name+".key"), key)
	}
}

// sql changes an SQLite database behind the server's back.
//
//	sql FILE STATEMENT
func (s *script) sql(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "sql FILE STATEMENT")
	database := openDatabase(s.t, &config{storage: "sqlite", storageDSN: ts.MkAbs(args[0])})
	_, err := database.Exec(args[1])
	require.NoError(s.t, err)
}
