package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	directoryPrefix = "decree-testdb-"
	lockName        = "lock"

	// A unix socket's path may have 103 bytes on macOS and 107 on Linux; what is added to the base is below 45.
	maxBaseLength = 58
)

// makeDirectory makes the directory of this run, and deletes those of runs that were killed. A run holds a lock in its
// directory, which the system releases however the run ends. A directory gets its final name, by which others find it,
// when the lock is held already.
func (g *ground) makeDirectory() error {
	base := baseDirectory(g.durable)
	sweep(base)
	dir, err := os.MkdirTemp(base, "."+directoryPrefix)
	if err != nil {
		return err
	}
	// The servers' users have to pass through, but need not list it.
	err = os.Chmod(dir, 0o711) // #nosec G302 -- see above
	if err == nil {
		g.lock, err = lockDirectory(dir)
	}
	final := filepath.Join(base, strings.TrimPrefix(filepath.Base(dir), "."))
	if err == nil {
		err = os.Rename(dir, final)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	g.directory = final
	return nil
}

// temporaryDirectory returns the variables that have the command's temporary files in memory, if the directory is there.
// What Go builds stays on disk, for it is large.
func (g *ground) temporaryDirectory() ([]string, error) {
	if g.durable || filepath.Dir(g.directory) != memoryDirectory() {
		return nil, nil
	}
	dir := filepath.Join(g.directory, "t")
	if err := os.Mkdir(dir, 0o755); err != nil { // #nosec G301 -- as /tmp, others pass through
		return nil, err
	}
	builds := os.Getenv("GOTMPDIR")
	if builds == "" {
		builds = os.TempDir()
	}
	return []string{"TMPDIR=" + dir, "GOTMPDIR=" + builds}, nil
}

func (g *ground) removeDirectory() {
	if g.directory == "" {
		return
	}
	if err := os.RemoveAll(g.directory); err != nil {
		g.logf("%v", err)
	}
	_ = g.lock.Close()
}

// baseDirectory is a directory in memory, where there is one and nothing has to be durable: tests wait for disks more than
// for anything else. Otherwise it is the directory for temporary files, unless a server's user couldn't get there or the
// paths of the sockets would be too long.
func baseDirectory(durable bool) string {
	if memory := memoryDirectory(); memory != "" && !durable {
		return memory
	}
	base := filepath.Clean(os.TempDir())
	if len(base) > maxBaseLength || os.Geteuid() == 0 && !isOpen(base) {
		return "/tmp"
	}
	return base
}

// isOpen reports whether every user can pass through the directory and those above it.
func isOpen(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// lockDirectory takes the lock of a directory, or fails if another process holds it.
func lockDirectory(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600) // #nosec G304 -- its own directory
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// sweep deletes the directories of this user's runs that have ended without doing so.
func sweep(base string) {
	directories, _ := filepath.Glob(filepath.Join(base, directoryPrefix+"*")) // the pattern is valid
	for _, dir := range directories {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		lock, err := lockDirectory(dir)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(dir) // another testdb may be doing the same
		_ = lock.Close()
	}
}
