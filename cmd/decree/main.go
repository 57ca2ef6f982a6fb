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
// It listens on -listen for three kinds of clients: admins and their scripts (the REST API under /v1, with the API key),
// the MDM server that forwards devices (NanoMDM's -dm), and whoever asks for /version. What devices should have, what
// they are told and what they report is kept in the database that -storage and -storage-dsn name. With -enqueue and
// -enqueue-key it has NanoMDM tell devices about changes.
//
// Every flag can be given as an environment variable, DECREE_ and its name in capitals with underscores; a flag wins.
// It stops on SIGINT and SIGTERM, after it has answered the requests under way.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	default:
		fmt.Fprintln(os.Stderr, "decree:", err)
		stop()
		os.Exit(1)
	}
}

// command is what decree does besides serving.
type command struct {
	name, summary string
	run           func(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error
}

// commands are listed in the order of the help.
var commands = []command{
	{"health", "ask a running server whether it works", runHealth},
}

// run is the program: it returns when the context ends, or with what kept it from working.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		for _, command := range commands {
			if command.name == args[0] {
				return command.run(ctx, args[1:], environ, stdout, stderr)
			}
		}
		return fmt.Errorf("there is no command %q: see decree -help", args[0])
	}
	return serve(ctx, args, environ, stdout, stderr)
}

// serve is the server.
func serve(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	config, err := parseConfig(args, environ, stderr)
	if err != nil {
		return err
	}
	if config.printVersion {
		_, err := fmt.Fprintln(stdout, version)
		return err
	}
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
