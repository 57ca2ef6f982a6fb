// Package census counts how many enrollments are in sync, again and again, for those who watch servers: page by page and
// with rests, so that a fleet of any size is counted beside the work. Every server counts for itself, and keeps nothing.
package census

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/background"
)

// Enrollments is what a census needs of storage; see storage.Numbers.
type Enrollments interface {
	CountEnrollments(ctx context.Context, after string, limit int) (count storage.FleetCount, next string, err error)
}

// Config is what a Census works with.
type Config struct {
	Enrollments Enrollments
	Logger      *slog.Logger
	// Page is how many enrollments are counted with one statement: few enough that it lasts some milliseconds; 2000.
	Page int
	// Interval is how long after one count the next begins at least; 15 s.
	Interval time.Duration
}

// restRatio is how much longer than it works a census rests: devices use the same processors and disks.
const restRatio = 9

// pageTimeout bounds one page.
const pageTimeout = 30 * time.Second

// Census is a value to start and stop. Both may be called repeatedly and concurrently.
type Census struct {
	config Config

	runner background.Runner

	mu     sync.Mutex
	latest storage.FleetCount
	at     time.Time
}

// New returns a census that is not started.
func New(config Config) *Census {
	if config.Page <= 0 {
		config.Page = 2000
	}
	if config.Interval <= 0 {
		config.Interval = 15 * time.Second
	}
	return &Census{config: config}
}

// Latest returns the last count that was finished, and when it was; the zero time while none was.
func (c *Census) Latest() (storage.FleetCount, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest, c.at
}

// Start has the census count until Stop. It does nothing when it runs already.
func (c *Census) Start() { c.runner.Start(0, func(ctx, _ context.Context) { c.run(ctx) }) }

// Stop ends the work. What was counted last stays.
func (c *Census) Stop() { c.runner.Stop() }

func (c *Census) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.count(ctx); err != nil && ctx.Err() == nil {
			c.config.Logger.WarnContext(ctx, "counting enrollments failed", "error", err)
		}
		background.Sleep(ctx, c.config.Interval, nil)
	}
}

// count counts all, and keeps the numbers if it comes to the end.
func (c *Census) count(ctx context.Context) error {
	var all storage.FleetCount
	for after := ""; ; {
		start := time.Now()
		page, next, err := c.page(ctx, after)
		if err != nil {
			return err
		}
		all.Add(page)
		if next == "" {
			break
		}
		after = next
		background.Sleep(ctx, restRatio*time.Since(start), nil)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest, c.at = all, time.Now()
	return nil
}

func (c *Census) page(ctx context.Context, after string) (storage.FleetCount, string, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	return c.config.Enrollments.CountEnrollments(ctx, after, c.config.Page)
}
