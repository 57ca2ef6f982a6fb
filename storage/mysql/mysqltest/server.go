package mysqltest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Server is a MariaDB server of a test's own, which can be stopped and started again as others cannot that tests share. What
// it has committed survives that, as in production.
type Server struct {
	tb        testing.TB
	program   string
	directory string
	address   string

	command *exec.Cmd
	ended   chan struct{}
}

// startTimeout is how long a server may take to start, or to stop.
const startTimeout = time.Minute

// Start starts a server, which is stopped and deleted when the test ends. Without the programs for it the test is skipped, or
// fails where databases are required.
func Start(tb testing.TB) *Server {
	tb.Helper()
	program, initialise := lookPath("mariadbd"), lookPath("mariadb-install-db")
	if program == "" || initialise == "" {
		const message = "needs the programs of a MariaDB server: run `make test`"
		if os.Getenv(requireVariable) != "" {
			tb.Fatal(message)
		}
		tb.Skip(message)
	}
	directory, err := os.MkdirTemp("", "decree-db-") // the path of a socket must be short
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			tb.Error(err)
		}
	})
	s := &Server{tb: tb, program: program, directory: directory, address: freeAddress(tb)}
	output, err := exec.Command(initialise, append(s.common(), // #nosec G204 -- a database server's program
		"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", initialise, err, output)
	}
	// Without name resolution, connections come from 127.0.0.1, not localhost.
	const users = "CREATE DATABASE IF NOT EXISTS decree;\nCREATE USER IF NOT EXISTS 'root'@'127.0.0.1';\n" +
		"GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n"
	if err := os.WriteFile(filepath.Join(directory, "users.sql"), []byte(users), 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	s.Start()
	return s
}

// DSN returns a DSN for the database that the server has.
func (s *Server) DSN() string { return fmt.Sprintf("root@tcp(%s)/decree", s.address) }

// Start starts the server again, and returns when it answers.
func (s *Server) Start() {
	s.tb.Helper()
	_, port, err := net.SplitHostPort(s.address)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.command = exec.Command(s.program, append(s.common(), // #nosec G204 -- a database server's program
		"--init-file="+filepath.Join(s.directory, "users.sql"), "--socket="+filepath.Join(s.directory, "s"),
		"--bind-address=127.0.0.1", "--port="+port, "--pid-file="+filepath.Join(s.directory, "pid"), "--tmpdir="+s.directory,
		"--skip-name-resolve", "--skip-log-bin", "--performance-schema=OFF", "--innodb-buffer-pool-size=64M",
		"--innodb-flush-log-at-trx-commit=1", "--max-connections=200", "--log-error="+filepath.Join(s.directory, "log"))...)
	dieWithParent(s.command)
	if err := spawn(s.command); err != nil {
		s.tb.Fatal(err)
	}
	ended := make(chan struct{})
	s.ended = ended
	go func() {
		_ = s.command.Wait() // it is made to end
		close(ended)
	}()
	config, err := mysql.ParseDSN(s.DSN())
	if err != nil {
		s.tb.Fatal(err)
	}
	config.Logger = &mysql.NopLogger{} // one that is still starting is no news
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := execute(ctx, config, "DO 1")
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-ended:
		case <-time.After(20 * time.Millisecond):
			continue
		}
		log, _ := os.ReadFile(filepath.Join(s.directory, "log"))
		s.tb.Fatalf("the server does not start: %v\n%s", err, log)
	}
}

// Stop has the server end as an operator does, and waits for that.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server as a power cut would.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(signal syscall.Signal) {
	s.tb.Helper()
	if s.command == nil {
		return
	}
	s.signal(signal)
	select {
	case <-s.ended:
		s.command = nil
	case <-time.After(startTimeout):
		s.tb.Fatal("the server does not end")
	}
}

// Pause has the server hang, until Continue: its connections stay, and nothing answers.
func (s *Server) Pause() {
	s.tb.Helper()
	s.signal(syscall.SIGSTOP)
	// The signal is only on its way: the server may answer until it has stopped.
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(s.command.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		s.tb.Fatalf("the server did not stop: %v, status %x", err, status)
	}
}

// Continue ends a Pause.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) {
	s.tb.Helper()
	if err := s.command.Process.Signal(signal); err != nil {
		s.tb.Fatal(err)
	}
}

// common are the arguments that all programs of a server get.
func (s *Server) common() []string {
	args := []string{"--no-defaults", "--datadir=" + filepath.Join(s.directory, "data")}
	if os.Geteuid() == 0 {
		args = append(args, "--user=root")
	}
	return args
}

// lookPath finds a program, also where Debian keeps servers.
func lookPath(name string) string {
	for _, path := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	return ""
}

// freeAddress returns an address that was free a moment ago.
func freeAddress(tb testing.TB) string {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// spawn starts a process from a thread that lives as long as the program: Linux ends what is to die with its parent when the
// thread ends that has started it.
func spawn(command *exec.Cmd) error {
	started := make(chan error)
	spawnerOnce()
	spawner <- func() { started <- command.Start() }
	return <-started
}

var (
	spawner     = make(chan func())
	spawnerOnce = sync.OnceFunc(func() {
		go func() {
			runtime.LockOSThread()
			for start := range spawner {
				start()
			}
		}()
	})
)
