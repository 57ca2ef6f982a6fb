package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// TestToolsSyncdir checks that a directory comes to the server, and that devices are told of it once.
func TestToolsSyncdir(t *testing.T) {
	t.Parallel()
	nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	server := beside(t, nano, append(databases()[0].flags(t), "-notify-delay", "1ms"))
	shell := newShell(t, server.url)
	device := nano.NewDevice(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	require.NoError(t, device.Enroll(ctx))
	device.Run(ctx)
	server.assign(device.ID(), "base/ü")
	server.waitIdle(device.ID())
	told := len(nano.Enqueued())
	// tells checks that the device has got what it should have, and how often it was told.
	tells := func(times int) {
		t.Helper()
		server.waitIdle(device.ID())
		if times > 0 {
			require.NoError(t, device.WaitSync(ctx, server.token(device.ID())))
		}
		require.Len(t, nano.Enqueued(), told+times)
		told += times
	}
	const tool = "syncdir.py"
	test := func(identifier, echo string) string {
		return declarationJSON(identifier, "com.apple.configuration.management.test", fmt.Sprintf(`{"Echo":%q}`, echo))
	}

	// The activation comes first by its name, and refers to what comes after it.
	shell.write("d/1.json", declarationJSON("s.activation", "com.apple.activation.simple",
		`{"StandardConfigurations":["s.a","s.b"]}`))
	shell.write("d/2.json", test("s.a", "1"))
	shell.write("d/deeper/3.json", test("s.b", "1"))
	shell.write("d/deeper/README.txt", "not a set")
	shell.write("d/.git/config.json", "{")
	shell.write("d/set.other.txt", "s.a\n")
	shell.write("d/set.base.txt", "\ufeff# a comment\r\ns.a # and another\r\n\r\n  s.activation\r\n- s.c\r\n-s.b\r\n")
	shell.prints("declaration s.a: changed\ndeclaration s.b: changed\ndeclaration s.activation: changed\n"+
		"set base: added s.a\nset base: added s.activation\nset other: added s.a\ndevices are told\n", tool, "d")
	shell.prints("nothing changed\n", tool, "d")
	tells(0)

	// All that a device is to be told is in one command.
	server.assign(device.ID(), "base")
	tells(1)
	require.Len(t, device.Declarations(), 2)
	shell.write("d/2.json", test("s.a", "2"))
	shell.write("d/deeper/3.json", test("s.b", "2"))
	shell.write("d/set.base.txt", "s.b\ns.activation\n-s.a\n")
	shell.prints("declaration s.a: changed\ndeclaration s.b: changed\nset base: added s.b\nset base: removed s.a\n"+
		"devices are told\n", tool, "d")
	tells(1)
	require.Contains(t, device.Declarations(), "s.b")
	require.NotContains(t, device.Declarations(), "s.a")
	shell.prints("nothing changed\n", tool, "d")
	tells(0)
	shell.prints("devices are told\nnothing changed\n", tool, "--notify", "d")
	tells(1)

	// What is refused keeps nothing else from being done, and devices are told of that.
	shell.write("d/2.json", test("s.a?", "3"))
	shell.write("d/deeper/3.json", test("s.b", "3"))
	shell.write("d/set.base.txt", "s.none\ns.b\n")
	result := shell.run("", tool, "d")
	require.Equal(t, toolRefused, result.code)
	require.Equal(t, "declaration s.b: changed\ndevices are told\n", result.stdout)
	require.Contains(t, result.stderr, "d/2.json: HTTP 400: Identifier: must not contain")
	require.Contains(t, result.stderr, `d/set.base.txt: HTTP 404: there is no declaration "s.none"`)
	tells(1)

	// What cannot be used keeps all from being sent.
	shell.write("d/2.json", "{")
	shell.write("d/deeper/3.json", test("s.b", "4"))
	shell.write("d/deeper/4.json", test("s.b", "5"))
	shell.write("d/deeper/5.json", "[]")
	shell.write("d/deeper/6.json", `{"Identifier":"s.d"}`)
	shell.write("d/deeper/7.json", strings.Repeat("[", 100000))
	shell.write("d/deeper/8.json", test("s.d", strings.Repeat("a", 4<<20)))
	shell.write("d/deeper/9.json", "\ufeff"+test("s.bom", "a"))
	shell.write("d/deeper/10.json", "\xff\xfe{\x00}\x00")
	shell.write("d/deeper/11.json", "{\x00}\x00")
	shell.write("d/deeper/12.json", `{"Identifier":"s.nan","Type":"com.apple.configuration.management.test","Payload":{"A":NaN}}`)
	shell.write("d/deeper/13.json", test("", "a"))
	shell.write("d/deeper/14.json", declarationJSON("s.typeless", "", `{}`))
	shell.write("d/deeper/15.json", `{"Identifier":"\ud800","Type":"com.apple.configuration.management.test","Payload":{}}`)
	shell.write("d/deeper/set.base.txt", "-s.b\n")
	shell.write("d/set.bad.txt", "-\n")
	shell.write("d/set.latin1.txt", "\xe4\n")
	result = shell.run("", tool, "d")
	require.Equal(t, toolMisused, result.code)
	require.Empty(t, result.stdout)
	for _, problem := range []string{
		"d/2.json: Expecting property name", "d/deeper/4.json: has the same Identifier as d/deeper/3.json: s.b",
		"d/deeper/5.json: is not a JSON object", "d/deeper/6.json: is not a declaration: it has no Type", "d/deeper/7.json: ",
		"d/deeper/8.json: is larger than 4194304 bytes", "d/deeper/9.json: Unexpected UTF-8 BOM", "d/deeper/10.json: 'utf-8' codec",
		"d/deeper/11.json: Expecting", "d/deeper/12.json: NaN is not JSON", "d/deeper/13.json: is not a declaration: it has no Identifier",
		"d/deeper/14.json: is not a declaration: it has no Type", "d/deeper/15.json: 'utf-8' codec",
		"d/deeper/set.base.txt: set base: s.b is both added and removed", "d/set.bad.txt: has a line with nothing after the -",
		"d/set.latin1.txt: 'utf-8' codec", "syncdir.py: nothing was sent",
	} {
		require.Contains(t, result.stderr, problem)
	}
	require.NotContains(t, result.stderr, "Traceback")
	tells(0)
	shell.fails(toolMisused, "none is not a directory", tool, "none")
}

// TestToolsSyncdirUntold checks that who was not told can be told later.
func TestToolsSyncdirUntold(t *testing.T) {
	t.Parallel()
	var asked recorded
	working := false
	var mu sync.Mutex
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_ = r.ParseForm()
		asked.add("%s %s %s", r.Method, r.URL.Path, r.PostForm.Encode())
		switch {
		case working && r.Method == http.MethodPost:
			w.WriteHeader(http.StatusNoContent)
		case working:
			w.WriteHeader(http.StatusNotModified)
		case strings.HasSuffix(r.URL.Path, "/declarations"):
			w.WriteHeader(http.StatusNoContent)
		default:
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(stub.Close)
	shell := newShell(t, stub.URL)
	shell.write("d/a.json", declarationJSON("s/a ü", "com.apple.configuration.management.test", `{"Echo":"a"}`))
	shell.write("d/set.base.txt", "s/a ü\ns.b\n")
	result := shell.run("", "syncdir.py", "d")
	require.Equal(t, toolUnreachable, result.code, "%+v", result)
	require.Contains(t, result.stderr, "run this again with --notify")
	require.Equal(t, []string{
		"PUT /v1/declarations ", "PUT /v1/set-declarations/base ", "POST /v1/notify declaration=s%2Fa+%C3%BC&set=base",
	}, asked.take(), "it gave up, and tried to have devices told, also of what got no answer")

	mu.Lock()
	working = true
	mu.Unlock()
	shell.prints("devices are told\nnothing changed\n", "syncdir.py", "--notify", "d")
	require.Equal(t, []string{
		"PUT /v1/declarations ", "PUT /v1/set-declarations/base ", "PUT /v1/set-declarations/base ",
		"POST /v1/notify declaration=s%2Fa+%C3%BC&set=base",
	}, asked.take())
}

// TestToolsSyncdirStopped checks that devices are told when it is stopped between two changes.
func TestToolsSyncdirStopped(t *testing.T) {
	t.Parallel()
	for sent, code := range map[syscall.Signal]int{
		syscall.SIGTERM: 143, syscall.SIGHUP: 129, syscall.SIGINT: 130,
	} {
		t.Run(sent.String(), func(t *testing.T) {
			t.Parallel()
			if signal.Ignored(sent) {
				t.Skip("it is ignored here, as under nohup, and so it is by whatever the test starts")
			}
			var asked recorded
			reached, told := make(chan struct{}), make(chan struct{})
			var puts atomic.Int32
			stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				_, _ = io.Copy(io.Discard, r.Body) // so that it is seen who goes away
				asked.add("%s %s %s", r.Method, r.URL.Path, r.PostForm.Encode())
				if r.Method == http.MethodPost {
					defer close(told)
				} else if puts.Add(1) == 2 {
					close(reached)
					select { // it is stopped while it waits for the answer
					case <-told:
					case <-r.Context().Done():
					}
				}
				w.WriteHeader(http.StatusNoContent)
			}))
			t.Cleanup(stub.Close)
			shell := newShell(t, stub.URL)
			for _, name := range []string{"a", "b", "c"} {
				shell.write("d/"+name+".json", declarationJSON("s."+name, "com.apple.configuration.management.test", `{}`))
			}
			cmd := exec.Command(filepath.Join(shell.tools, "syncdir.py"), "d")
			cmd.Dir, cmd.Env = shell.directory, shell.environ()
			p := startProcess(t, cmd)
			select {
			case <-reached:
			case <-p.ended:
				require.Fail(t, "it ended too early", p.stderr.String())
			}
			require.NoError(t, cmd.Process.Signal(sent))
			<-p.ended
			require.Equal(t, code, cmd.ProcessState.ExitCode(), p.stderr.String())
			require.Contains(t, p.stderr.String(), "stopped by a signal")
			require.NotContains(t, p.stderr.String(), "Traceback")
			require.Equal(t, []string{
				"PUT /v1/declarations ", "PUT /v1/declarations ", "POST /v1/notify declaration=s.a&declaration=s.b",
			}, asked.take(), "the second may have been changed")
		})
	}
}
