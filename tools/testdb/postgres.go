package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/lib/pq"
)

var postgresProduct = product{
	name:     "PostgreSQL",
	variable: postgresVariable,
	debian:   "postgresql",
	locate:   locatePostgres,
	start:    startPostgres,
}

// locatePostgres looks for a server that has its initdb beside it: the two must be of one version.
func locatePostgres() (programs, bool) {
	directories := filepath.SplitList(os.Getenv("PATH"))
	versions, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is valid
	slices.Reverse(versions)
	for _, dir := range append(directories, versions...) {
		server, ok := lookIn(dir, "postgres")
		if !ok {
			continue
		}
		// In PATH there may be links into the directory of a version.
		if target, err := filepath.EvalSymlinks(server); err == nil {
			server = target
		}
		if initialise, ok := lookIn(filepath.Dir(server), "initdb"); ok {
			return programs{server: server, initialise: initialise}, true
		}
	}
	return programs{}, false
}

// startPostgres starts PostgreSQL with a new cluster.
func startPostgres(ctx context.Context, g *ground, p programs) (string, error) {
	user := accountFor("postgres", "nobody")
	if os.Geteuid() == 0 && user.credential == nil {
		return "", errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
	}
	dir, err := g.home("p", user)
	if err != nil {
		return "", err
	}
	data := filepath.Join(dir, "data")
	err = g.initialise(ctx, dir, user, p.initialise, "--pgdata="+data, "--username=postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync")
	if err != nil {
		return "", err
	}
	dsn := func(port int) string {
		return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", dir, port)
	}
	port, err := g.launch(ctx, launch{
		name: p.server, dir: dir, account: user,
		quit: syscall.SIGQUIT, // "immediate shutdown": ends its child processes and releases its shared memory
		args: func(port int) []string {
			return []string{
				"-D", data,
				"-c", "listen_addresses=127.0.0.1",
				"-c", fmt.Sprintf("port=%d", port),
				"-c", "unix_socket_directories=" + dir,
				"-c", "max_connections=200",
				"-c", "fsync=off",
				"-c", "synchronous_commit=off",
				"-c", "full_page_writes=off",
			}
		},
		ready: func(ctx context.Context, port int) error { return pingPostgres(ctx, dsn(port)) },
	})
	return dsn(port), err
}

func pingPostgres(ctx context.Context, dsn string) (err error) {
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		return fmt.Errorf("%w: %w", errInvalidDSN, err)
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.PingContext(ctx)
}
