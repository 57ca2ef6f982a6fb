// Package watcher asks the database again and again whether it works and what its clock says, so that a server whose database
// is away refuses at once what would wait for it, gets well by itself, and does not wait for times that a wrong clock has
// written.
package watcher

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/background"
)

// Database is what the watcher needs of storage.
type Database interface {
	// Look asks the database whether it works, and returns *storage.NotReadyError if it does not. One goroutine calls it.
	Look(ctx context.Context) error
	// KeepClock notes the time, and puts stored times right when the clock was set back. It returns by how much the clock
	// was found to be set back, if it was, and whether there is more to put right.
	KeepClock(ctx context.Context) (back time.Duration, more bool, err error)
}

// Config is what a Watcher works with.
type Config struct {
	Database Database
	Logger   *slog.Logger
}

const (
	// interval is how often there is a look, and timeout bounds it.
	interval = time.Second
	timeout  = 3 * time.Second
	// clockTimeout bounds a step of putting times right.
	clockTimeout = 10 * time.Second
	// restRatio is how much longer than it works the watcher rests while it puts times right.
	restRatio = 3
)

// Watcher is a value to start and stop. Both may be called repeatedly and concurrently.
type Watcher struct {
	config Config
	// downSince is since when the database does not work, and reason why; the zero time: it does.
	downSince time.Time
	reason    string
	// clockFails says that the last step about the clock failed.
	clockFails bool

	runner background.Runner
}

// New returns a watcher that is not started.
func New(config Config) *Watcher { return &Watcher{config: config} }

// Start has the watcher look until Stop. It does nothing when it runs already.
func (w *Watcher) Start() { w.runner.Start(0, func(ctx, _ context.Context) { w.run(ctx) }) }

// Stop ends the work. What was found last stays.
func (w *Watcher) Stop() { w.runner.Stop() }

func (w *Watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.look(ctx)
		if w.downSince.IsZero() && w.keepClock(ctx) {
			continue
		}
		background.Sleep(ctx, interval, nil)
	}
}

// look logs what has changed.
func (w *Watcher) look(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := w.config.Database.Look(bounded)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		if !w.downSince.IsZero() {
			w.config.Logger.InfoContext(ctx, "the database works again", "after", time.Since(w.downSince).Round(time.Millisecond))
		}
		w.downSince, w.reason = time.Time{}, ""
		return
	}
	if w.downSince.IsZero() {
		w.downSince = time.Now()
	}
	reason := "it fails"
	var notReady *storage.NotReadyError
	if errors.As(err, &notReady) {
		reason = notReady.Reason
	}
	if reason != w.reason {
		w.config.Logger.ErrorContext(ctx, "the database does not work", "reason", reason, "error", err)
	}
	w.reason = reason
}

// keepClock puts times right for a while, and reports whether there are more.
func (w *Watcher) keepClock(ctx context.Context) (more bool) {
	more = true
	for until := time.Now().Add(interval); more && time.Now().Before(until) && ctx.Err() == nil; {
		start := time.Now()
		back, again, err := w.step(ctx)
		switch {
		case err != nil && ctx.Err() == nil && !w.clockFails:
			w.config.Logger.ErrorContext(ctx, "the clock of the database cannot be kept", "error", err)
		case back > 0:
			w.config.Logger.WarnContext(ctx, "the clock of the database was set back: stored times are put back too", "by", back)
		}
		w.clockFails = err != nil
		if more = again; more {
			background.Sleep(ctx, restRatio*time.Since(start), nil)
		}
	}
	return more
}

func (w *Watcher) step(ctx context.Context) (back time.Duration, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	return w.config.Database.KeepClock(ctx)
}
