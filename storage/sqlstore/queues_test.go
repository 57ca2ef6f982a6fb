package sqlstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// TestQueuesAreInOrder checks that those who want the same row have it one after the other, first come first served, and
// that those who want another one do not wait.
func TestQueuesAreInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q queues
		release, err := q.take(t.Context(), "b", "a", "b")
		require.NoError(t, err)
		var order []int
		var waiting sync.WaitGroup
		for i := range 5 {
			waiting.Go(func() {
				release, err := q.take(t.Context(), "a", strconv.Itoa(i))
				if assert.NoError(t, err) {
					order = append(order, i)
					time.Sleep(time.Second)
					release()
				}
			})
			synctest.Wait()
		}
		require.Empty(t, order)
		other, err := q.take(t.Context(), "c")
		require.NoError(t, err)
		other()
		began := time.Now()
		release()
		waiting.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, order)
		require.Equal(t, 5*time.Second, time.Since(began))
		require.Empty(t, q.of)
	})
}

// TestQueuesAreLeft checks that who gives up leaves nothing behind, says why, and keeps nobody from having a turn.
func TestQueuesAreLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q queues
		release, err := q.take(t.Context(), "b")
		require.NoError(t, err)
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = q.take(late, "a", "b")
		var notReady *storage.NotReadyError
		require.ErrorAs(t, err, &notReady)
		require.Equal(t, HeldForTooLong, notReady.Reason)
		require.ErrorIs(t, notReady.Err, context.DeadlineExceeded)
		gone, leave := context.WithCancel(t.Context())
		leave()
		_, err = q.take(gone, "a", "b")
		require.ErrorIs(t, err, context.Canceled)
		require.False(t, errors.As(err, &notReady))
		require.Len(t, q.of, 1)
		release()
		require.Empty(t, q.of)
	})
}

// TestQueuesInACrowd has many want some of few rows, in any order, and give up now and then: nobody has a row that another
// one has, none waits for ever, and nothing is left behind.
func TestQueuesInACrowd(t *testing.T) {
	t.Parallel()
	var q queues
	rows := []string{"a", "b", "c", "d"}
	var held [4]int // the race detector sees who has one at the same time
	var crowd sync.WaitGroup
	for worker := range 40 {
		crowd.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 200 {
				wanted := slices.Clone(rows)
				random.Shuffle(len(wanted), func(i, j int) { wanted[i], wanted[j] = wanted[j], wanted[i] })
				wanted = wanted[:1+random.IntN(3)]
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(2000))*time.Microsecond)
				release, err := q.take(ctx, wanted...)
				if err == nil {
					for _, row := range wanted {
						held[slices.Index(rows, row)]++
					}
					release()
				}
				cancel()
			}
		})
	}
	crowd.Wait()
	require.Empty(t, q.of)
	require.NotZero(t, held)
}
