package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// builtVersion is what the built binary answers for its version.
const builtVersion = "v0.0.0-test"

var built struct {
	once      sync.Once
	directory string
	err       error
}

// storiesAtOnce is how many tests run at once where the command line does not say: they wait more than they work.
const storiesAtOnce = 6

func TestMain(m *testing.M) {
	serveSoak()
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given && runtime.GOMAXPROCS(0) < storiesAtOnce {
		if err := flag.Set("test.parallel", strconv.Itoa(storiesAtOnce)); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if built.directory != "" {
		_ = os.RemoveAll(built.directory) // what cannot be deleted does not make a test fail
	}
	os.Exit(code)
}

// buildDecree returns the path of the real binary, which is built once, and as it is released: so it runs anywhere, and
// most of the work is shared with the test of the release.
func buildDecree(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.directory, built.err = os.MkdirTemp("", "decree-test-"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(built.directory, "decree"),
			"-ldflags", "-X main.version="+builtVersion, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		output, err := build.CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w: %s", err, output)
		}
	})
	require.NoError(t, built.err)
	return filepath.Join(built.directory, "decree")
}

// output collects what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(text)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// process is a program of its own, and what it says.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdout output
	stderr output
	ended  chan struct{}
	err    error // after ended
}

// startProcess starts a command, which is killed when the test ends, if not before.
func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.stderr
	}
	require.NoError(t, cmd.Start())
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text := p.stdout.String() + p.stderr.String()
			t.Logf("%s wrote at last:\n%s", cmd.Path, text[max(0, len(text)-4000):])
		}
	})
	return p
}

// startBinary starts the real Decree on a port of its own.
func startBinary(t testing.TB, flags ...string) *process {
	t.Helper()
	cmd := exec.Command(buildDecree(t), append([]string{"-listen", "127.0.0.1:0"}, flags...)...)
	cmd.Env = append(os.Environ(), "DECREE_API="+testKey)
	cmd.Dir = t.TempDir()
	return startProcess(t, cmd)
}

// kill ends the process as a power cut would, and waits for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// wait waits for the process to end by itself.
func (p *process) wait(limit time.Duration) error {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		require.Fail(p.t, "the process does not end")
	}
	return p.err
}

var listening = regexp.MustCompile(`msg=listening address=(\S+)`)

// server waits until the process listens, and returns a client of it.
func (p *process) server() *server {
	p.t.Helper()
	s := &server{t: p.t, args: p.cmd.Args[1:]}
	s.eventually(func() bool {
		select {
		case <-p.ended:
			require.Fail(p.t, "the process ended", "%v", p.err)
		default:
		}
		match := listening.FindStringSubmatch(p.stderr.String())
		if match != nil {
			s.url = "http://" + match[1]
		}
		return match != nil
	}, "the process to listen")
	return s
}

// waitLog waits until the process has logged a text.
func (p *process) waitLog(text string) {
	p.t.Helper()
	(&server{t: p.t}).eventually(func() bool { return strings.Contains(p.stderr.String(), text) }, "the log of "+text)
}
