package sqlstore

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// queue has somebody wait for a turn, note a name when it comes, and pass it on.
func queue(ctx context.Context, t *turns, u urgency, name string, order chan<- string) {
	go func() {
		if t.take(ctx, u) == nil {
			order <- name
			t.release()
		}
	}()
	synctest.Wait()
}

func TestForegroundOvertakesBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		var turns turns
		order := make(chan string, 10)
		require.NoError(t, turns.take(ctx, background))
		queue(ctx, &turns, background, "background 1", order)
		queue(ctx, &turns, foreground, "foreground 1", order)
		queue(ctx, &turns, background, "background 2", order)
		queue(ctx, &turns, foreground, "foreground 2", order)
		require.Empty(t, order, "one at a time")
		turns.release()
		synctest.Wait()
		close(order)
		var names []string
		for name := range order {
			names = append(names, name)
		}
		require.Equal(t, []string{"foreground 1", "foreground 2", "background 1", "background 2"}, names)
		require.NoError(t, turns.take(ctx, background), "it is free again")
	})
}

func TestCancelledWaiterLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		require.NoError(t, turns.take(t.Context(), foreground))
		order := make(chan string, 10)
		ctx, cancel := context.WithCancel(t.Context())
		queue(ctx, &turns, foreground, "cancelled", order)
		queue(t.Context(), &turns, foreground, "next", order)
		cancel()
		synctest.Wait()
		turns.release()
		synctest.Wait()
		require.Equal(t, "next", <-order)
		require.Empty(t, order)
		require.Empty(t, turns.waiting[foreground])
		require.False(t, turns.busy)
	})
}

// TestTurnThatComesWithTheCancellation lets a turn come and be cancelled at the same moment, until each has won.
func TestTurnThatComesWithTheCancellation(t *testing.T) {
	t.Parallel()
	taken, cancelled := 0, 0
	for try := 0; try < 100_000 && (taken == 0 || cancelled == 0); try++ {
		var turns turns
		require.NoError(t, turns.take(t.Context(), background))
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- turns.take(ctx, background) }()
		for waiting := 0; waiting == 0; {
			turns.mu.Lock()
			waiting = len(turns.waiting[background])
			turns.mu.Unlock()
		}
		var both sync.WaitGroup
		both.Go(cancel)
		both.Go(turns.release)
		both.Wait()
		if err := <-result; err != nil {
			require.ErrorIs(t, err, context.Canceled)
			cancelled++
		} else {
			taken++
			turns.release()
		}
		require.False(t, turns.busy, "the turn is lost")
	}
	require.NotZero(t, taken)
	require.NotZero(t, cancelled)
}

func TestTurnsUnderStress(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var turns turns
	var inside, done, gone atomic.Int64
	shared := 0 // for the race detector
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range 500 {
				waitCtx, stop := context.WithCancel(ctx)
				if random.IntN(3) == 0 {
					go stop()
				}
				err := turns.take(waitCtx, urgency(random.IntN(2)))
				if err == nil {
					if inside.Add(1) != 1 {
						t.Error("two have a turn")
					}
					shared++
					inside.Add(-1)
					turns.release()
					done.Add(1)
				} else {
					gone.Add(1)
				}
				stop()
			}
		})
	}
	group.Wait()
	require.NoError(t, ctx.Err())
	require.EqualValues(t, 16*500, done.Load()+gone.Load())
	require.EqualValues(t, done.Load(), shared)
	require.False(t, turns.busy)
	require.Empty(t, turns.waiting[foreground])
	require.Empty(t, turns.waiting[background])
}

// TestBackgroundIsNotStarved: with always somebody in the foreground, the background has a turn now and then.
func TestBackgroundIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		order := make(chan string, 2*maxOvertaken+2)
		require.NoError(t, turns.take(t.Context(), foreground))
		queue(t.Context(), &turns, background, "background", order)
		for range 2 * maxOvertaken {
			queue(t.Context(), &turns, foreground, "foreground", order)
		}
		turns.release()
		synctest.Wait()
		close(order)
		var names []string
		for name := range order {
			names = append(names, name)
		}
		require.Len(t, names, 2*maxOvertaken+1)
		require.Equal(t, maxOvertaken, slices.Index(names, "background"))
	})
}
