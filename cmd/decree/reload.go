package main

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// reloadInterval is how often files are looked at. They are small.
const reloadInterval = time.Second

// reloadPatience is how long a file that is being read may keep the server from stopping: its file system may hang.
const reloadPatience = time.Second

// reloader reads files again when they change: API keys, certificates. It compares what is in them, which sees every way
// of changing them: renamed over, written in place, a mount that is replaced, in the same second or with old times.
type reloader struct {
	what   string
	files  []string
	load   func(contents [][]byte) error
	logger *slog.Logger

	loaded string // the state of the files that load was last given, and may have refused
	seen   string // their state a moment ago

	startOnce, stopOnce sync.Once
	stopping, stopped   chan struct{}
}

// newReloader reads the files for the first time. load is called by one goroutine at a time, and keeps what it had when
// it returns an error.
func newReloader(what string, files []string, load func(contents [][]byte) error, logger *slog.Logger) (*reloader, error) {
	r := &reloader{
		what: what, files: files, load: load, logger: logger,
		stopping: make(chan struct{}), stopped: make(chan struct{}),
	}
	contents, state, err := r.read()
	if err != nil {
		return nil, err
	}
	r.loaded, r.seen = state, state
	return r, load(contents)
}

// read returns what is in the files, and a text that is the same for as long as that is.
func (r *reloader) read() (contents [][]byte, state string, err error) {
	hash := sha256.New()
	for _, file := range r.files {
		content, err := readRegular(file)
		if err != nil {
			return nil, err.Error(), err
		}
		contents = append(contents, content)
		digest := sha256.Sum256(content)
		hash.Write(digest[:])
	}
	return contents, string(hash.Sum(nil)), nil
}

// readRegular reads a file, and no pipe: that cannot be read again, and who tried would wait for somebody to write.
func readRegular(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return os.ReadFile(name) // #nosec G304 -- the operator names it
}

// poll loads the files if they have changed and are at rest: they are read twice, since somebody may be in the midst of
// writing them.
func (r *reloader) poll() {
	contents, state, err := r.read()
	rests := state == r.seen
	r.seen = state
	if state == r.loaded || !rests {
		return
	}
	r.loaded = state // also what is broken: it is told once
	if err == nil {
		err = r.load(contents)
	}
	if err != nil {
		r.logger.Error(r.what+" cannot be read again, the last ones that could be stay", "files", r.files, "error", err)
		return
	}
	r.logger.Info(r.what+" were read again", "files", r.files)
}

// Start begins to look at the files.
func (r *reloader) Start() {
	r.startOnce.Do(func() { go r.run() })
}

func (r *reloader) run() {
	defer close(r.stopped)
	ticker := time.NewTicker(reloadInterval)
	defer ticker.Stop()
	for {
		select {
		case <-r.stopping:
			return
		case <-ticker.C:
			r.poll()
		}
	}
}

// Stop ends it, and returns when it has ended, or soon where a file cannot be read to its end: then it ends after that.
func (r *reloader) Stop() {
	r.startOnce.Do(func() { close(r.stopped) })
	r.stopOnce.Do(func() { close(r.stopping) })
	select {
	case <-r.stopped:
	case <-time.After(reloadPatience):
	}
}

// reload has files read now, and whenever they change.
func (p *program) reload(what string, load func(contents [][]byte) error, files ...string) error {
	r, err := newReloader(what, files, load, p.logger)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	p.reloaders = append(p.reloaders, r)
	return nil
}
