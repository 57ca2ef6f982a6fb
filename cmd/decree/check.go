package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/decree-ddm/decree/storage/checker"
	"github.com/decree-ddm/decree/storage/mysql"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// exitFindings is the exit code of a check that has found something.
const exitFindings = 3

// runCheck verifies what must always hold in a database, also while servers work on it.
func runCheck(ctx context.Context, args, environ []string, stdout, stderr io.Writer) (err error) {
	var c config
	flags := flag.NewFlagSet("decree check", flag.ContinueOnError)
	flags.SetOutput(stderr)
	c.storageFlags(flags)
	flags.BoolVar(&c.shard, "shard", false, "the servers are started with -shard")
	if err := parseFlags(ctx, flags, args, environ); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err := c.validateStorage(); err != nil {
		return err
	}
	store, err := openExisting(ctx, &c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return check(ctx, store, c.shard, stdout, stderr)
}

// openExisting opens the database to read what is in it.
func openExisting(ctx context.Context, c *config) (*sqlstore.Store, error) {
	open := sqlite.OpenExisting
	if c.storage == "mysql" {
		open = mysql.OpenExisting
	}
	store, err := open(ctx, c.storageDSN, sqlstore.Options{})
	if err != nil {
		return nil, fmt.Errorf("-storage %s: %w", c.storage, err)
	}
	return store, nil
}

// check prints what is wrong, one line each, and returns an error if something is.
func check(ctx context.Context, store *sqlstore.Store, shard bool, stdout, stderr io.Writer) error {
	findings := 0
	var printErr error
	progress := newCheckProgress(stderr)
	err := checker.Run(ctx, store, checker.Options{
		Shard: shard,
		Found: func(finding checker.Finding) {
			findings++
			progress.clear()
			if _, err := fmt.Fprintln(stdout, finding); err != nil {
				printErr = err
			}
		},
		Progress: progress.advance,
	})
	progress.end()
	switch {
	case err != nil && findings > 0:
		return &exitError{fmt.Errorf("%d findings, and could not check the rest: %w", findings, err), exitFindings}
	case err != nil:
		return fmt.Errorf("could not check: %w", err)
	case printErr != nil:
		return printErr
	case findings > 0:
		return &exitError{fmt.Errorf("%d findings", findings), exitFindings}
	}
	_, err = fmt.Fprintln(stdout, "ok")
	return err
}

// checkProgress shows how far a check is, where standard error is a terminal.
type checkProgress struct {
	stderr io.Writer
	shown  bool
	kind   checker.Kind
	bar    *progressbar.ProgressBar
}

func newCheckProgress(stderr io.Writer) *checkProgress {
	return &checkProgress{stderr: stderr, shown: isTerminal(stderr)}
}

func (p *checkProgress) advance(kind checker.Kind, rows int) {
	if !p.shown {
		return
	}
	if p.bar == nil || p.kind != kind {
		p.end()
		p.kind = kind
		p.bar = progressbar.NewOptions(-1,
			progressbar.OptionSetWriter(p.stderr), progressbar.OptionSetDescription(string(kind)),
			progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond))
	}
	_ = p.bar.Add(rows) // a terminal that is gone does not end the check
}

func (p *checkProgress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

func (p *checkProgress) end() {
	if p.bar != nil {
		_ = p.bar.Exit()
		fmt.Fprintln(p.stderr)
		p.bar = nil
	}
}
