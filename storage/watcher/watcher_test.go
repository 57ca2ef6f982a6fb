package watcher

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/decree-ddm/decree/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// database works, or does not, or hangs.
type database struct {
	mu     sync.Mutex
	err    error
	hangs  bool
	looks  int
	clocks int
	// left is how many pages there are to put right, which take a while each, and back by how much the clock was set back.
	left int
	back time.Duration
}

// pageTime is how long a page takes.
const pageTime = 10 * time.Millisecond

func (d *database) Look(ctx context.Context) error {
	d.mu.Lock()
	d.looks++
	err, hangs := d.err, d.hangs
	d.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return &storage.NotReadyError{Reason: "it hangs", Err: ctx.Err()}
	}
	return err
}

func (d *database) KeepClock(context.Context) (time.Duration, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clocks++
	back := d.back
	d.back = 0
	if d.left > 0 {
		d.left--
		time.Sleep(pageTime)
	}
	return back, d.left > 0, nil
}

func (d *database) set(change func(d *database)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// watch runs a story beside a watcher of a database. The log is to be read when nothing runs.
func watch(t *testing.T, story func(t *testing.T, d *database, log *bytes.Buffer)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, log := &database{}, &bytes.Buffer{}
		w := New(Config{Database: d, Logger: slog.New(slog.NewTextHandler(log, nil))})
		w.Start()
		w.Start()
		defer w.Stop()
		story(t, d, log)
		w.Stop()
	})
}

// after lets time go by, until nothing runs.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestWhatChangesIsLogged(t *testing.T) {
	watch(t, func(t *testing.T, d *database, log *bytes.Buffer) {
		after(10 * time.Second)
		require.Empty(t, log.String())
		require.InDelta(t, 10, d.looks, 1)

		d.set(func(d *database) { d.err = &storage.NotReadyError{Reason: "it is away"} })
		after(10 * time.Second)
		require.Equal(t, 1, strings.Count(log.String(), "the database does not work"), log)
		require.Contains(t, log.String(), "it is away")
		clocks := d.clocks

		d.set(func(d *database) { d.err = &storage.NotReadyError{Reason: "it is full"} })
		after(10 * time.Second)
		require.Equal(t, 2, strings.Count(log.String(), "the database does not work"), log)
		require.Contains(t, log.String(), "it is full")
		require.Equal(t, clocks, d.clocks)

		d.set(func(d *database) { d.err = nil })
		after(10 * time.Second)
		require.Equal(t, 1, strings.Count(log.String(), "the database works again"), log)
		require.Greater(t, d.clocks, clocks)
	})
}

// TestADatabaseThatHangs is looked at again and again all the same, and holds nobody who stops the watcher.
func TestADatabaseThatHangs(t *testing.T) {
	watch(t, func(t *testing.T, d *database, log *bytes.Buffer) {
		d.set(func(d *database) { d.hangs = true })
		after(time.Minute)
		require.InDelta(t, 15, d.looks, 2)
		require.Equal(t, 1, strings.Count(log.String(), `reason="it hangs"`), log)
		d.set(func(d *database) { d.hangs = false })
		after(5 * time.Second)
		require.Contains(t, log.String(), "works again")
		d.set(func(d *database) { d.hangs = true })
		after(1500 * time.Millisecond)
	})
}

func TestTimesArePutRightUntilAllAre(t *testing.T) {
	watch(t, func(t *testing.T, d *database, log *bytes.Buffer) {
		after(10 * time.Second)
		looks := d.looks
		d.set(func(d *database) { d.left, d.back = 1000, time.Hour })
		after(1000*pageTime*(1+restRatio) + 5*time.Second)
		d.set(func(d *database) { require.Zero(t, d.left) })
		require.Equal(t, 1, strings.Count(log.String(), "by=1h0m0s"), log)
		require.Greater(t, d.looks, looks+30, "it is looked at all the same")
	})
}
