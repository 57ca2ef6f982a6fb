package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// product is a kind of database server.
type product struct {
	name     string
	variable string // the environment variable for its DSN
	debian   string // the Debian package
	locate   func() (programs, bool)
	start    func(ctx context.Context, g *ground, p programs) (dsn string, err error)
}

// programs are the paths of a server's programs.
type programs struct {
	server     string
	initialise string // empty: the server does it
}

// locate returns the programs of each product, installing what is missing where that is possible.
func locate(ctx context.Context, log io.Writer, products []product) ([]programs, error) {
	missing := missingFrom(products)
	if len(missing) > 0 {
		if err := install(ctx, log, products); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, advice(missing))
		}
	}
	found := make([]programs, len(products))
	for i, p := range products {
		var ok bool
		if found[i], ok = p.locate(); !ok {
			return nil, errors.New(advice([]product{p}))
		}
	}
	return found, nil
}

func missingFrom(products []product) (missing []product) {
	for _, p := range products {
		if _, ok := p.locate(); !ok {
			missing = append(missing, p)
		}
	}
	return missing
}

// advice says what to do about databases that can't be had.
func advice(missing []product) string {
	var lines []string
	for _, p := range missing {
		lines = append(lines, fmt.Sprintf("no %s server was found: install one (on Debian: apt-get install %s) or set %s",
			p.name, p.debian, p.variable))
	}
	return strings.Join(lines, "\n")
}

// install installs the Debian packages of the products that are missing.
func install(ctx context.Context, log io.Writer, products []product) error {
	aptGet, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return errors.New("database servers are missing, and only root can install them, where there is apt-get")
	}
	// apt-get doesn't wait for another apt-get that updates the lists.
	lock, err := os.OpenFile("/tmp/"+directoryPrefix+"install.lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}

	var packages []string
	for _, p := range missingFrom(products) {
		packages = append(packages, p.debian)
	}
	if len(packages) == 0 {
		return nil // somebody else installed them while this run waited
	}
	_, _ = fmt.Fprintf(log, "testdb: installing %s\n", strings.Join(packages, " "))
	for _, args := range [][]string{
		{"update"},
		append([]string{"install", "--yes", "--no-install-recommends"}, packages...),
	} {
		args = append([]string{"--quiet=2", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0"}, args...)
		cmd := exec.CommandContext(ctx, aptGet, args...) // #nosec G204 -- apt-get, as it was found
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
		}
	}
	return nil
}

// lookPath returns the first of the programs that is in PATH or in one of the directories.
func lookPath(directories []string, names ...string) (string, bool) {
	for _, name := range names {
		for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), directories...) {
			if path, ok := lookIn(dir, name); ok {
				return path, true
			}
		}
	}
	return "", false
}

// lookIn returns the path of a program in a directory.
func lookIn(dir, name string) (string, bool) {
	path := filepath.Join(dir, name)
	if !filepath.IsAbs(path) {
		return "", false
	}
	_, err := exec.LookPath(path)
	return path, err == nil
}
