package eventlog

import (
	"context"
	"log/slog"
	"time"

	"github.com/decree-ddm/decree/storage/background"
)

// Log is what a Sequencer advances; see storage.Happenings.
type Log interface {
	AdvanceHappenings(ctx context.Context, limit int) (appended int, more bool, err error)
}

const (
	// pageSize keeps transactions short.
	pageSize = 200
	// idle is how often the log is looked at when nothing happens.
	idle = 500 * time.Millisecond
	// After a page when there is more, there is a pause of so many times what the page took: to tell of a change to many
	// devices must not slow down telling it to the devices.
	pauses                 = 9
	shortPause, longPause  = 20 * time.Millisecond, idle
	pauseAfterOurOwnErrors = 5 * time.Second
	// whileBusy is how much longer the pauses are while many devices are told.
	whileBusy = 5
)

// SequencerConfig is what a Sequencer works with.
type SequencerConfig struct {
	Log    Log
	Logger *slog.Logger
	// Appended, if not nil, is called when there is something new in the log. It must not block.
	Appended func()
	// Busy, if not nil, reports whether many devices are being told of something.
	Busy func() bool
}

// Sequencer is a value to start and stop.
type Sequencer struct {
	runner background.Runner
	config SequencerConfig
}

// NewSequencer returns a sequencer that is not started.
func NewSequencer(config SequencerConfig) *Sequencer { return &Sequencer{config: config} }

// Start has the log advance until Stop.
func (s *Sequencer) Start() { s.runner.Start(0, func(ctx, _ context.Context) { s.run(ctx) }) }

// Stop ends the work.
func (s *Sequencer) Stop() { s.runner.Stop() }

func (s *Sequencer) run(ctx context.Context) {
	for background.Sleep(ctx, s.step(ctx), nil) {
	}
}

// step advances the log by a page and returns for how long to leave it alone.
func (s *Sequencer) step(ctx context.Context) time.Duration {
	began := time.Now()
	appended, more, err := s.config.Log.AdvanceHappenings(ctx, pageSize)
	if err != nil {
		if ctx.Err() == nil {
			s.config.Logger.ErrorContext(ctx, "the log of events cannot be written", "error", err)
		}
		return pauseAfterOurOwnErrors
	}
	if appended > 0 && s.config.Appended != nil {
		s.config.Appended()
	}
	if !more {
		return idle
	}
	wait := min(max(pauses*time.Since(began), shortPause), longPause)
	if s.config.Busy != nil && s.config.Busy() {
		wait *= whileBusy
	}
	return wait
}
