package census

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// fleet has pages that take their time.
type fleet struct {
	mu    sync.Mutex
	pages int
	cost  time.Duration
	err   error
	asked int
}

func (f *fleet) CountEnrollments(_ context.Context, after string, limit int) (storage.FleetCount, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	time.Sleep(f.cost) // on the clock of a bubble
	f.asked++
	n, _ := strconv.Atoi(after)
	count := storage.FleetCount{InSync: int64(limit) - 3, OutOfSync: 2, Left: 1}
	if n+1 == f.pages {
		return count, "", f.err
	}
	return count, strconv.Itoa(n + 1), f.err
}

func TestCensus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{pages: 10, cost: 10 * time.Millisecond}
		c := New(Config{Enrollments: f, Logger: slog.New(slog.DiscardHandler), Page: 100, Interval: time.Minute})
		_, at := c.Latest()
		require.Zero(t, at)
		began := time.Now()
		c.Start()
		c.Start()

		// Ten pages, and nine rests.
		time.Sleep(10*f.cost + 9*restRatio*f.cost - time.Millisecond)
		synctest.Wait()
		_, at = c.Latest()
		require.Zero(t, at, "half a count is none")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		count, at := c.Latest()
		require.Equal(t, storage.FleetCount{InSync: 970, OutOfSync: 20, Left: 10}, count)
		require.Equal(t, time.Now(), at)

		f.mu.Lock()
		f.err = errors.New("the database is away")
		f.mu.Unlock()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		_, same := c.Latest()
		require.Equal(t, at, same, "what is old can be seen to be old")

		f.mu.Lock()
		f.err, f.pages = nil, 1
		f.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		count, at = c.Latest()
		require.Equal(t, storage.FleetCount{InSync: 97, OutOfSync: 2, Left: 1}, count)
		require.Greater(t, at.Sub(began), 3*time.Minute)

		c.Stop()
		c.Stop()
		asked := f.asked
		time.Sleep(time.Hour)
		require.Equal(t, asked, f.asked)
	})
}
