// Decree is an Apple Declarative Device Management server, the companion of NanoMDM and MicroMDM.
//
// Usage:
//
//	decree -api KEY [flags]
//	decree COMMAND [flags]
//
// Without a command it is the server. The commands are listed by decree -help, and tell of their flags with
// decree COMMAND -help.
//
// It listens on -listen for three kinds of clients: admins and their scripts (the REST API under /v1, with an API key),
// the MDM server that forwards devices (NanoMDM's -dm), and whoever asks for /version and /readyz. With -listen-ddm the MDM
// server has an address of its own, and with -tls-cert and -tls-key all is HTTPS. What devices should have, what
// they are told and what they report is kept in the database that -storage and -storage-dsn name. With -enqueue and
// -enqueue-key it has NanoMDM tell devices about changes.
//
// Every flag can be given as an environment variable, DECREE_ and its name in capitals with underscores; a flag wins. Where
// that is a secret, the variable with _FILE at its end names a file with it.
// It stops on SIGINT, SIGTERM and SIGHUP, after it has answered the requests under way.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // which is what nohup does
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	if !namesCommand(os.Args[1:]) {
		// A server outlives who reads its log. Commands end with who reads what they say, as filters do.
		signal.Ignore(syscall.SIGPIPE)
	}
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	default:
		fmt.Fprintln(os.Stderr, "decree:", err)
		stop()
		os.Exit(exitCode(err))
	}
}

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

// exitCode is what the program says to the shell about an error.
func exitCode(err error) int {
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.code
	}
	return 1
}

// command is what decree does besides serving.
type command struct {
	name, summary string
	run           func(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error
}

// commands are listed in the order of the help.
var commands = []command{
	{"backup", "copy the database to a file, also while a server uses it (SQLite)", runBackup},
	{"check", "verify what must always hold in the database, also while servers use it", runCheck},
	{"health", "ask a running server whether it works", runHealth},
	{"import", "take over what another server has", runImport},
	{"restore", "put a backup in the place of the database (SQLite)", runRestore},
}

// namesCommand reports whether arguments are for a command, and not for the server.
func namesCommand(args []string) bool {
	return len(args) > 0 && !strings.HasPrefix(args[0], "-")
}

// run is the program: it returns when the context ends, or with what kept it from working.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if namesCommand(args) {
		for _, command := range commands {
			if command.name == args[0] {
				return command.run(ctx, args[1:], environ, stdout, stderr)
			}
		}
		return fmt.Errorf("there is no command %q: see decree -help", args[0])
	}
	return serve(ctx, args, environ, stdout, stderr)
}

// memoryLimit is how many octets the server takes before it collects garbage sooner than it has to. What a server lives on is
// a tenth of it, but a flood of large bodies leaves garbage behind faster than collections that wait for the heap to double.
const memoryLimit = 512 << 20

// serve is the server. The memory of the whole process is bounded by GOMEMLIMIT, or else by memoryLimit.
func serve(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	config, err := parseConfig(ctx, args, environ, stderr)
	if err != nil {
		return err
	}
	if config.printVersion {
		_, err := fmt.Fprintln(stdout, version)
		return err
	}
	if !slices.ContainsFunc(environ, func(pair string) bool { return strings.HasPrefix(pair, "GOMEMLIMIT=") && pair != "GOMEMLIMIT=" }) {
		debug.SetMemoryLimit(memoryLimit)
	}
	return serveConfig(ctx, config, stdout, stderr)
}

// serveConfig starts the server, and stops it when the context ends or it fails.
func serveConfig(ctx context.Context, config *config, stdout, stderr io.Writer) error {
	p, err := start(ctx, config, stdout, stderr)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		err = nil
	case err = <-p.failed:
	}
	return errors.Join(err, p.stop())
}
