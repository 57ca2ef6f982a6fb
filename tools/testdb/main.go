// Command testdb runs a command with throw-away database servers.
//
//	go run ./tools/testdb [-durable] [-mysql=false] [-postgres=false] -- COMMAND ARGS…
//
// It starts a private MariaDB (or MySQL) and a private PostgreSQL from the binaries that are installed on the machine,
// with data directories of their own, tells the command where they are, passes on its exit code, stops the servers and
// deletes what they stored. The command finds in its environment:
//
//	DECREE_TEST_MYSQL_DSN         for go-sql-driver/mysql, without a database name
//	DECREE_TEST_POSTGRES_DSN      for lib/pq
//	DECREE_TEST_REQUIRE_DATABASES 1: a test that misses its database must fail instead of skipping
//	TMPDIR                        a directory in memory, where there is one with room, unless -durable is given
//
// A server whose variable is set already is not started: the given one is used. Where a server isn't installed, root on
// a machine with apt-get gets Debian's mariadb-server and postgresql; others get a message that says what to install.
//
// The servers never outlive testdb: they are stopped when the command ends, when testdb gets a SIGINT, SIGTERM, SIGHUP or
// SIGQUIT, when testdb's own parent is gone, and on Linux even when testdb is killed with SIGKILL (the directories that
// this leaves behind are deleted by the next testdb).
//
// It is for tests: nothing survives, and durability is switched off unless -durable asks MariaDB for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// The environment of the command.
const (
	mysqlVariable    = "DECREE_TEST_MYSQL_DSN"
	postgresVariable = "DECREE_TEST_POSTGRES_DSN"
	requireVariable  = "DECREE_TEST_REQUIRE_DATABASES"
)

// Exit codes of testdb's own failures; everything else is the command's.
const (
	exitFailure  = 1
	exitUsage    = 2
	exitNotRun   = 126
	exitNotFound = 127
	exitSignal   = 128
)

// commandGrace is how long an interrupted command may take to end before it is killed.
const commandGrace = 20 * time.Second

func main() {
	os.Exit(run(context.Background(), os.Args[1:]))
}

// interruption is the cause of a cancelled context: the signal to pass on to the command, and why.
type interruption struct {
	signal syscall.Signal
	reason string
}

func (i interruption) Error() string { return i.reason }

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("testdb", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: testdb [flags] -- COMMAND ARGS…")
		flags.PrintDefaults()
	}
	withMySQL := flags.Bool("mysql", true, "provide MariaDB or MySQL in "+mysqlVariable)
	withPostgres := flags.Bool("postgres", true, "provide PostgreSQL in "+postgresVariable)
	durable := flags.Bool("durable", false, "let MariaDB flush every commit to disk, as in production (for benchmarks)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return exitUsage
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer watchSignals(cancel)()
	go watchParent(ctx, cancel)

	g := &ground{durable: *durable, cancel: cancel, spawner: newSpawner(), log: os.Stderr}
	defer g.close()
	environment, err := g.provide(ctx, *withMySQL, *withPostgres)
	if err != nil {
		if i := (interruption{}); errors.As(context.Cause(ctx), &i) {
			g.logf("%s", i.reason)
			return exitSignal + int(i.signal)
		}
		g.logf("%v", err)
		return exitFailure
	}
	return g.command(ctx, flags.Args(), environment)
}

// watchSignals cancels with an interruption on the first of the signals that end a program. The function that it returns
// ends the watch.
func watchSignals(cancel context.CancelCauseFunc) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		if s, ok := (<-signals).(syscall.Signal); ok {
			cancel(interruption{s, s.String()})
		}
	}()
	return func() { signal.Stop(signals) }
}

// watchParent cancels when the parent is gone: a killed `go run` or CI job doesn't pass its signal on.
func watchParent(ctx context.Context, cancel context.CancelCauseFunc) {
	parent := os.Getppid()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if os.Getppid() != parent {
				cancel(interruption{syscall.SIGTERM, "the parent process is gone"})
				return
			}
		}
	}
}

// provide makes the wanted databases available and returns the variables that say where.
func (g *ground) provide(ctx context.Context, withMySQL, withPostgres bool) ([]string, error) {
	environment := []string{requireVariable + "=1"}
	wanted := []struct {
		want     bool
		variable string
		ping     func(ctx context.Context, dsn string) error
		product  product
	}{
		{withMySQL, mysqlVariable, pingMySQL, mysqlProduct},
		{withPostgres, postgresVariable, pingPostgres, postgresProduct},
	}
	var start []product
	for _, w := range wanted {
		if !w.want {
			continue
		}
		dsn := os.Getenv(w.variable)
		if dsn == "" {
			start = append(start, w.product)
			continue
		}
		if err := poll(ctx, givenTimeout, nil, func(ctx context.Context) error { return w.ping(ctx, dsn) }); err != nil {
			return nil, fmt.Errorf("the database that %s names can't be used: %w", w.variable, err)
		}
	}
	if err := g.makeDirectory(); err != nil {
		return nil, err
	}
	temporary, err := g.temporaryDirectory()
	if err != nil {
		return nil, err
	}
	environment = append(environment, temporary...)
	if len(start) == 0 {
		return environment, nil
	}

	programs, err := locate(ctx, g.log, start)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	dsns := make([]string, len(start))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, p := range start {
		group.Go(func() (err error) {
			dsns[i], err = p.start(groupCtx, g, programs[i])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var names []string
	for i, p := range start {
		environment = append(environment, p.variable+"="+dsns[i])
		names = append(names, programs[i].server)
	}
	g.logf("started %s in %v", strings.Join(names, " and "), time.Since(began).Round(time.Millisecond))
	return environment, nil
}

// command runs the command and returns the exit code to pass on.
func (g *ground) command(ctx context.Context, args, environment []string) int {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) // #nosec G204 -- whoever runs this gives the command
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = dieWithParent(&syscall.SysProcAttr{}, syscall.SIGTERM)
	cmd.Cancel = func() error {
		i := interruption{signal: syscall.SIGTERM, reason: "cancelled"}
		errors.As(context.Cause(ctx), &i)
		g.logf("%s: stopping %s", i.reason, args[0])
		return cmd.Process.Signal(i.signal)
	}
	cmd.WaitDelay = commandGrace
	if err := g.start(cmd); err != nil {
		if i := (interruption{}); errors.As(context.Cause(ctx), &i) {
			return exitSignal + int(i.signal)
		}
		g.logf("%v", err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return exitNotFound
		}
		return exitNotRun
	}
	err := cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return exitSignal + int(status.Signal())
	case ok && status.Exited():
		return status.ExitStatus()
	default:
		g.logf("%v", err)
		return exitFailure
	}
}

// logf writes a line of testdb's own.
func (g *ground) logf(format string, args ...any) {
	_, _ = io.WriteString(g.log, "testdb: "+fmt.Sprintf(format, args...)+"\n")
}
