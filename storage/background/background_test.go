package background

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRunner checks that work runs once at a time, that Stop waits for it and gives it the grace that was agreed, and that it
// can be started again.
func TestRunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r Runner
		r.Stop() // which nothing has to run for
		var running, begun atomic.Int32
		work := func(until func(ctx, late context.Context) context.Context) func(ctx, late context.Context) {
			return func(ctx, late context.Context) {
				begun.Add(1)
				running.Add(1)
				defer running.Add(-1)
				<-until(ctx, late).Done()
			}
		}
		soon := work(func(ctx, _ context.Context) context.Context { return ctx })
		last := work(func(_, late context.Context) context.Context { return late })
		for range 2 {
			for range 3 {
				r.Start(time.Minute, soon, last)
			}
			synctest.Wait()
			require.EqualValues(t, 2, running.Load())
			began := time.Now()
			go func() {
				time.Sleep(time.Second)
				assert.EqualValues(t, 1, running.Load())
			}()
			r.Stop()
			r.Stop()
			require.Zero(t, running.Load())
			require.Equal(t, time.Minute, time.Since(began))
		}
		require.EqualValues(t, 4, begun.Load())
	})
}

func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.True(t, Sleep(t.Context(), time.Hour, nil))
		require.Equal(t, time.Hour, time.Since(began))

		wake := make(chan struct{}, 1)
		wake <- struct{}{}
		require.True(t, Sleep(t.Context(), time.Hour, wake))
		require.Equal(t, time.Hour, time.Since(began))

		ended, end := context.WithTimeout(t.Context(), time.Minute)
		defer end()
		require.False(t, Sleep(ended, time.Hour, nil))
		require.Equal(t, time.Hour+time.Minute, time.Since(began))
		wake <- struct{}{}
		require.False(t, Sleep(ended, time.Hour, wake))
	})
}
