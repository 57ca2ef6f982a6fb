package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	initTimeout  = 2 * time.Minute  // for writing a new data directory
	readyTimeout = time.Minute      // until a started server answers
	givenTimeout = 30 * time.Second // until a server that the environment names answers
	stopTimeout  = 10 * time.Second // until a stopped server has ended
	pollInterval = 20 * time.Millisecond
	portAttempts = 5
)

// ground owns the servers and their directory.
type ground struct {
	durable bool
	cancel  context.CancelCauseFunc // called when a server ends that should not
	spawner
	log io.Writer

	directory string
	lock      *os.File

	mu      sync.Mutex
	servers []*server
}

// close stops the servers and deletes their directory.
func (g *ground) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	var stopped sync.WaitGroup
	for _, s := range g.servers {
		stopped.Go(s.stop)
	}
	stopped.Wait()
	g.removeDirectory()
}

// spawner starts processes from one thread that lives as long as the program: Linux ties the parent-death signal to the
// thread that forked, not to the process.
type spawner chan<- func()

func newSpawner() spawner {
	starts := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range starts {
			start()
		}
	}()
	return starts
}

func (s spawner) start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	s <- func() { err <- cmd.Start() }
	return <-err
}

// account is the user that a server runs as. The zero account is the user that runs testdb.
type account struct {
	name       string
	credential *syscall.Credential
}

// accountFor returns the first of the names that exists, for root only: others can't change the user.
func accountFor(names ...string) account {
	if os.Geteuid() != 0 {
		return account{}
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr != nil || gidErr != nil || uid == 0 {
			continue
		}
		return account{name, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	return account{}
}

// home makes a directory that belongs to the account.
func (g *ground) home(name string, a account) (string, error) {
	dir := filepath.Join(g.directory, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if a.credential != nil {
		if err := os.Chown(dir, int(a.credential.Uid), int(a.credential.Gid)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// prepare sets what all the processes of a server have in common. A process group of its own keeps a ^C on the terminal
// away from it: the command has to end first.
func prepare(cmd *exec.Cmd, dir string, a account, quit syscall.Signal) {
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = dieWithParent(&syscall.SysProcAttr{Setpgid: true, Credential: a.credential}, quit)
}

// initialise runs the program that writes a data directory.
func (g *ground) initialise(ctx context.Context, dir string, a account, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...) // #nosec G204 -- a database server's program
	prepare(cmd, dir, a, syscall.SIGKILL)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = stopTimeout
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	err := g.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, tail(output.String()))
	}
	return nil
}

// launch describes how to start a server on a port.
type launch struct {
	name    string
	dir     string
	account account
	quit    syscall.Signal // ends the server at once and leaves nothing in the system
	args    func(port int) []string
	ready   func(ctx context.Context, port int) error
}

// launch starts a server and returns its port as soon as it answers. Somebody may take the free port that was found
// before the server does: then it ends, and the next port is tried.
func (g *ground) launch(ctx context.Context, l launch) (int, error) {
	var failure error
	for range portAttempts {
		port, err := freePort()
		if err != nil {
			return 0, err
		}
		s, err := g.startServer(l, port)
		if err != nil {
			return 0, err
		}
		err = poll(ctx, readyTimeout, s.ended, func(ctx context.Context) error { return l.ready(ctx, port) })
		if err == nil {
			go g.watch(s)
			return port, nil
		}
		failure = fmt.Errorf("%s didn't start: %w\n%s", l.name, err, s.logTail())
		s.stop()
		if !errors.Is(err, errEnded) {
			break
		}
	}
	return 0, failure
}

// watch interrupts the command when a server ends that nobody stopped.
func (g *ground) watch(s *server) {
	<-s.ended
	if !s.isStopped() {
		g.logf("%s ended by itself (%v)\n%s", s.name, s.cmd.ProcessState, s.logTail())
		g.cancel(interruption{syscall.SIGTERM, "a database server is gone"})
	}
}

// server is a running process.
type server struct {
	name  string
	cmd   *exec.Cmd
	log   string
	quit  syscall.Signal
	ended chan struct{}

	mu      sync.Mutex
	stopped bool
}

// startServer starts the process and registers it for close.
func (g *ground) startServer(l launch, port int) (*server, error) {
	s := &server{name: l.name, log: filepath.Join(l.dir, "log"), quit: l.quit, ended: make(chan struct{})}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	s.cmd = exec.Command(l.name, l.args(port)...) // #nosec G204 -- a database server's program
	prepare(s.cmd, l.dir, l.account, l.quit)
	s.cmd.Stdout, s.cmd.Stderr = log, log

	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.start(s.cmd); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // ProcessState says how it ended
		close(s.ended)
	}()
	g.servers = append(g.servers, s)
	return s, nil
}

// stop ends the server and returns when it is gone. It may be called repeatedly.
func (s *server) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	select {
	case <-s.ended:
		return
	default:
	}
	_ = s.cmd.Process.Signal(s.quit)
	select {
	case <-s.ended:
	case <-time.After(stopTimeout):
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.ended
	}
}

func (s *server) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

func (s *server) logTail() string {
	log, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return tail(string(log))
}

// tail returns the last lines of a program's output, where the reason of its failure is.
func tail(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

var (
	errEnded      = errors.New("the server ended")
	errInvalidDSN = errors.New("invalid DSN")
)

// poll calls check until it succeeds or reports an invalid DSN, the time is up, the context is done, or ended (which may be
// nil) is closed.
func poll(ctx context.Context, timeout time.Duration, ended <-chan struct{}, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := check(ctx)
		if err == nil || errors.Is(err, errInvalidDSN) {
			return err
		}
		select {
		case <-ended:
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// freePort returns a port of the loopback interface that was free a moment ago.
func freePort() (int, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
