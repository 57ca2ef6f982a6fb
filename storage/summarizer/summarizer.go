// Package summarizer keeps the numbers of declarations up to date: it counts again what was touched, and what was not
// counted for long. What it knows of its own is only what this process touched; the rest is in storage, so that any number
// of summarizers share the work, and what one of them loses is counted in time.
package summarizer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/background"
)

// Summaries is what the summarizer needs of storage; see storage.Summaries.
type Summaries interface {
	TouchedDeclarations(ctx context.Context) (identifiers []string, all bool, err error)
	StaleSummaries(ctx context.Context, age time.Duration, limit int) ([]string, error)
	CountDeclaration(
		ctx context.Context, identifier string, others []string, interval time.Duration, rest func(context.Context) error,
	) (counted []string, early time.Duration, err error)
}

// Config is what a Summarizer works with.
type Config struct {
	Summaries Summaries
	Logger    *slog.Logger
	// Busy, if not nil, reports whether many devices are being told of something.
	Busy func() bool
}

const (
	// poll is how often there is a look at what is to be counted.
	poll = time.Second
	// interval is how often one declaration is counted at most.
	interval = 5 * time.Second
	// age is after how long a declaration is counted again of which nothing is known to have changed.
	age = time.Hour
	// staleLimit is how many of those are counted before there is another look at what was touched.
	staleLimit = 100
	// restRatio is how much longer than it works the summarizer rests: devices use the same processors and disks.
	restRatio = 3
	// whileBusy is how much longer still it rests while many devices are told.
	whileBusy = 5
	// retry is when a declaration is counted again whose counting failed.
	retry = 10 * time.Second
)

// Summarizer is a value to start and stop. Both may be called repeatedly and concurrently.
type Summarizer struct {
	config Config
	// due says when each declaration is to be counted that is known to be touched.
	due map[string]time.Time
	// allSince is since when all are taken to be touched that were not counted since; zero: not all.
	allSince time.Time

	runner background.Runner
}

// New returns a summarizer that is not started.
func New(config Config) *Summarizer {
	return &Summarizer{config: config, due: map[string]time.Time{}}
}

// Start has the summarizer work until Stop. It does nothing when it runs already.
func (s *Summarizer) Start() { s.runner.Start(0, func(ctx, _ context.Context) { s.run(ctx) }) }

// Stop ends the work. What was being counted is counted anew by whoever is next.
func (s *Summarizer) Stop() { s.runner.Stop() }

func (s *Summarizer) run(ctx context.Context) {
	s.allSince = time.Now() // nobody knows what was touched while nobody looked
	for ctx.Err() == nil {
		if err := s.look(ctx); err != nil {
			s.failed(ctx, "looking for what to count", err)
		}
		s.count(ctx)
		background.Sleep(ctx, poll, nil)
	}
}

// look finds what is to be counted.
func (s *Summarizer) look(ctx context.Context) error {
	touched, all, err := s.config.Summaries.TouchedDeclarations(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	if all {
		s.allSince = now
	}
	for _, identifier := range touched {
		s.add(identifier, now)
	}
	old := age
	if !s.allSince.IsZero() {
		old = min(age, now.Sub(s.allSince))
	}
	stale, err := s.config.Summaries.StaleSummaries(ctx, old, staleLimit)
	if len(stale) == 0 && err == nil {
		s.allSince = time.Time{}
	}
	for _, identifier := range stale {
		s.add(identifier, now)
	}
	return err
}

// add has a declaration counted, unless it is to be already.
func (s *Summarizer) add(identifier string, at time.Time) {
	if _, there := s.due[identifier]; !there {
		s.due[identifier] = at
	}
}

// count counts what is due now, those first that wait longest.
func (s *Summarizer) count(ctx context.Context) {
	now := time.Now()
	identifiers := slices.SortedFunc(maps.Keys(s.due), func(a, b string) int {
		return cmp.Or(s.due[a].Compare(s.due[b]), cmp.Compare(a, b))
	})
	identifiers = slices.DeleteFunc(identifiers, func(identifier string) bool { return s.due[identifier].After(now) })
	for len(identifiers) > 0 && ctx.Err() == nil {
		identifier := identifiers[0]
		identifiers = identifiers[1:]
		began := time.Now()
		rest := func(ctx context.Context) error {
			wait := restRatio * time.Since(began)
			if s.config.Busy != nil && s.config.Busy() {
				wait *= whileBusy
			}
			background.Sleep(ctx, wait, nil)
			began = time.Now()
			return ctx.Err()
		}
		counted, early, err := s.config.Summaries.CountDeclaration(ctx, identifier, identifiers, interval, rest)
		delete(s.due, identifier)
		switch {
		case err != nil:
			s.failed(ctx, "counting a declaration", err, "declaration", identifier)
			s.due[identifier] = time.Now().Add(retry)
			var notReady *storage.NotReadyError
			if errors.As(err, &notReady) {
				return // nor would the others be counted, and each would say so
			}
		case early > 0:
			s.due[identifier] = time.Now().Add(early)
		}
		for _, identifier := range counted {
			delete(s.due, identifier)
		}
		identifiers = slices.DeleteFunc(identifiers, func(identifier string) bool { return slices.Contains(counted, identifier) })
	}
}

// failed logs an error, unless it comes from being stopped.
func (s *Summarizer) failed(ctx context.Context, what string, err error, attributes ...any) {
	if ctx.Err() == nil {
		s.config.Logger.ErrorContext(ctx, "summarizer failed", append(attributes, "doing", what, "error", err)...)
	}
}
