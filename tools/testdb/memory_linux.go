package main

import "golang.org/x/sys/unix"

const (
	sharedMemory = "/dev/shm"
	// What the tests and their databases store at the most, with room to spare.
	minMemory = 4 << 30
)

// memoryDirectory returns a directory in memory with enough room, where programs can be run from, or nothing.
func memoryDirectory() string {
	var fs unix.Statfs_t
	if unix.Statfs(sharedMemory, &fs) != nil || fs.Type != unix.TMPFS_MAGIC || fs.Flags&unix.ST_NOEXEC != 0 ||
		fs.Bavail*uint64(fs.Bsize) < minMemory || unix.Access(sharedMemory, unix.W_OK) != nil { // #nosec G115 -- a size is positive
		return ""
	}
	return sharedMemory
}
