package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/micromdm/nanolib/envflag"
)

// healthTimeout is how long a server may take to say that it works.
const healthTimeout = 5 * time.Second

// runHealth asks a running server whether it works. It is made for what watches containers.
func runHealth(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("decree health", flag.ContinueOnError)
	flags.SetOutput(stderr)
	url := flags.String("health-url", "http://127.0.0.1:9002/version", "URL that a server which works answers with 200")
	if err := envflag.ParseFlagSet(flags, args, environmentPrefix, environ, nil); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, *url, nil)
	if err != nil {
		return fmt.Errorf("-health-url: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status + ": " + strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(stdout, "ok")
	return err
}
