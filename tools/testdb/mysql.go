package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

var mysqlProduct = product{
	name:     "MariaDB or MySQL",
	variable: mysqlVariable,
	debian:   "mariadb-server",
	locate:   locateMySQL,
	start:    startMySQL,
}

// Where Debian keeps servers isn't in an ordinary user's PATH.
var systemDirectories = []string{"/usr/sbin", "/usr/local/sbin", "/usr/libexec"}

func locateMySQL() (programs, bool) {
	server, ok := lookPath(systemDirectories, "mariadbd", "mysqld")
	if !ok {
		return programs{}, false
	}
	version, err := exec.Command(server, "--no-defaults", "--version").Output() // #nosec G204 -- a database server's program
	if err != nil {
		return programs{}, false
	}
	if !strings.Contains(string(version), "MariaDB") {
		return programs{server: server}, true // MySQL's server initialises its data directory itself
	}
	directories := append([]string{filepath.Dir(server)}, systemDirectories...)
	initialise, ok := lookPath(directories, "mariadb-install-db", "mysql_install_db")
	return programs{server: server, initialise: initialise}, ok
}

// startMySQL starts MariaDB or MySQL with a new data directory and none of the machine's configuration.
func startMySQL(ctx context.Context, g *ground, p programs) (string, error) {
	// The server must not change its user itself: see dieWithParent.
	user := accountFor("mysql")
	dir, err := g.home("m", user)
	if err != nil {
		return "", err
	}
	data := filepath.Join(dir, "data")
	common := []string{"--no-defaults", "--datadir=" + data}
	if os.Geteuid() == 0 && user.credential == nil {
		common = append(common, "--user=root")
	}
	if p.initialise != "" {
		err = g.initialise(ctx, dir, user, p.initialise, append(common,
			"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")...)
	} else {
		err = g.initialise(ctx, dir, user, p.server, append(common, "--initialize-insecure")...)
	}
	if err != nil {
		return "", err
	}

	// MySQL has no such user, and without name resolution connections by TCP come from 127.0.0.1, not localhost.
	const users = "CREATE USER IF NOT EXISTS 'root'@'127.0.0.1';\n" +
		"GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n"
	initFile := filepath.Join(dir, "users.sql")
	if err := os.WriteFile(initFile, []byte(users), 0o644); err != nil { // #nosec G306 -- the server's user reads it
		return "", err
	}

	socket := filepath.Join(dir, "s")
	dsn := fmt.Sprintf("root@unix(%s)/", socket)
	_, err = g.launch(ctx, launch{
		name: p.server, dir: dir, account: user,
		quit: syscall.SIGKILL, // nothing has to be saved, and it has no child processes
		args: func(port int) []string {
			args := append(common,
				"--init-file="+initFile,
				"--socket="+socket,
				"--bind-address=127.0.0.1",
				fmt.Sprintf("--port=%d", port),
				"--pid-file="+filepath.Join(dir, "pid"),
				"--tmpdir="+dir,
				"--skip-name-resolve",
				"--skip-log-bin",
				"--loose-mysqlx=OFF",
				"--performance-schema=OFF",
				"--max-connections=500",
				"--innodb-buffer-pool-size=256M",
			)
			if g.durable {
				return append(args, "--innodb-flush-log-at-trx-commit=1")
			}
			return append(args, "--innodb-flush-log-at-trx-commit=2")
		},
		ready: func(ctx context.Context, _ int) error { return pingMySQL(ctx, dsn) },
	})
	return dsn, err
}

func pingMySQL(ctx context.Context, dsn string) (err error) {
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		return fmt.Errorf("%w: %w", errInvalidDSN, err)
	}
	config.Logger = log.New(io.Discard, "", 0) // a server that is still starting is no news
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.PingContext(ctx)
}
