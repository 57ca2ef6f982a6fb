package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// smallDisk returns a directory on a disk of its own with so much room, in the form of mount's options.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size="+size); err != nil {
		if os.Geteuid() == 0 && os.Getenv("CI") != "" {
			require.NoError(t, err, "mounting a small disk")
		}
		t.Skipf("a small disk cannot be mounted: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(disk, syscall.MNT_DETACH)) })
	return disk
}

// fillDisk fills what is left of a disk with a file, up to so much.
func fillDisk(t *testing.T, name string, most int) {
	t.Helper()
	file, err := os.Create(name)
	require.NoError(t, err)
	defer file.Close()
	for size := 64 << 10; size > 0 && most > 0; {
		written, err := file.Write(make([]byte, min(size, most)))
		most -= written
		if errors.Is(err, syscall.ENOSPC) {
			size /= 2 // the rest
			continue
		}
		require.NoError(t, err)
	}
}

// TestFullDisk checks that a server whose SQLite database has no room any more says so, goes on with what it can do, has kept
// what it has promised, and goes on with the rest as soon as there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "12m")
	filler := filepath.Join(disk, "filler")
	fillDisk(t, filler, 5<<20)
	flags := []string{"-storage-dsn", filepath.Join(disk, "decree.db"), "-keep-reports", "1000000"}
	config, err := parseConfig(t.Context(), append(flags, "-api", testKey), nil, io.Discard)
	require.NoError(t, err)
	p := startBinary(t, flags...)
	s := p.server()
	s.database = openDatabase(t, config)
	s.putTest("test.a", "first")
	s.addToSet("base", "test.a")
	s.assign("device", "base")
	l := startTraffic(t, s.url, 40_000)
	const full = "the disk that the database is on is full"
	s.eventually(func() bool { return l.reason(full) > 50 }, "the disk to be full: %v", l)
	t.Logf("full: %v", l)

	code, text := s.do(http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, string(text), "disk")
	require.Equal(t, 0.0, s.scrape().values["decree_database_up"])
	for _, path := range []string{"/livez", "/v1/declarations/test.a", "/v1/enrollments/device", "/v1/enrollments?limit=10", "/v1/events"} {
		code, text := s.do(http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, code, "%s: %s", path, text)
	}
	_, items := s.manifest("device")
	require.Len(t, items, 1)
	before, err := os.ReadDir(disk)
	require.NoError(t, err)
	_, _, err = runCommand(t, nil, "backup", "-storage-dsn", config.storageDSN, filepath.Join(disk, "backup.db"))
	require.ErrorContains(t, err, "full")
	after, err := os.ReadDir(disk)
	require.NoError(t, err)
	require.Equal(t, before, after, "a backup that fails leaves nothing behind")

	s.eventually(func() bool { return strings.Contains(p.stderr.String(), "the database does not work") }, "the log to say so")
	pauses := time.NewTicker(50 * time.Millisecond)
	defer pauses.Stop()
	for until := time.Now().Add(outage() / 2); time.Now().Before(until); <-pauses.C {
		code, text := s.do(http.MethodGet, "/livez", "")
		require.Equal(t, http.StatusOK, code, "%s", text)
	}
	l.fill.Store(100)
	require.NoError(t, os.Remove(filler))
	s.eventually(func() bool {
		code, _ := s.do(http.MethodGet, "/readyz", "")
		return code == http.StatusOK
	}, "it to be ready again")
	l.waitWorks(s)
	l.end()
	t.Logf("then: %v", l)
	require.Empty(t, l.broken)
	require.Zero(t, l.refused)
	require.Equal(t, 1.0, s.scrape().values["decree_database_up"])
	require.Contains(t, p.stderr.String(), "the database works again")
	l.requireKept(s)
	if memory := p.memory(); memory != 0 {
		require.Less(t, memory, 256<<20)
	}
	p.kill()
	s = startBinary(t, flags...).server()
	s.database = openDatabase(t, config)
	l.requireKept(s)
}

// TestFullDiskOfLogs checks that a server goes on whose log, and whose -dump-status, are on a full disk, and that they go on
// with whole lines when there is room.
func TestFullDiskOfLogs(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "1m")
	log, dump, filler := filepath.Join(disk, "log"), filepath.Join(disk, "dump"), filepath.Join(disk, "filler")
	cmd := exec.Command("sh", "-c", `exec "$0" "$@" 2>"$LOG"`, buildDecree(t), "-listen", "127.0.0.1:0", "-log-format", "json",
		"-storage-dsn", filepath.Join(t.TempDir(), "decree.db"), "-dump-status", dump)
	cmd.Env = append(os.Environ(), "DECREE_API="+testKey, "LOG="+log)
	p := startProcess(t, cmd)
	s := &server{t: t}
	s.eventually(func() bool {
		text, err := os.ReadFile(log)
		for line := range strings.Lines(string(text)) {
			var listening struct{ Msg, Address string }
			if json.Unmarshal([]byte(line), &listening) == nil && listening.Msg == "listening" {
				s.url = "http://" + listening.Address
			}
		}
		return err == nil && s.url != ""
	}, "the server to listen")
	work := func(n int) {
		for range n {
			s.change(http.MethodPut, "/v1/declarations", declarationJSON("test.a", "com.apple.configuration.management.test",
				`{"Echo":"`+strings.Repeat("x", 1000)+`"}`))
			s.change(http.MethodDelete, "/v1/declarations/test.a", "")
			code, text := s.device("device", http.MethodPut, "/status", `{"StatusItems":{"test":{"n":"`+strings.Repeat("x", 1000)+`"}}}`)
			require.Equal(t, http.StatusOK, code, "%s", text)
		}
	}
	work(1)
	fillDisk(t, filler, 1<<20)
	work(20) // what is left of the last page, and then no more
	full, err := os.Stat(dump)
	require.NoError(t, err)
	require.Less(t, full.Size(), int64(15_000), "it was full")
	require.NoError(t, os.Remove(filler))
	work(3)
	select {
	case <-p.ended:
		require.Fail(t, "the process has ended")
	default:
	}
	for _, name := range []string{log, dump} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		broken := 0
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		for _, line := range lines {
			if !json.Valid([]byte(line)) {
				broken++
			}
		}
		require.LessOrEqual(t, broken, 1, "%s: the one that the disk was full in: %s", name, text)
		require.Greater(t, len(lines), 3, name)
	}
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Contains(t, string(text), "status reports are dumped again")
}
