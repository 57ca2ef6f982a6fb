package notifier

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var errDown = errors.New("it is down")

// newTestBreaker returns a breaker whose clock the test moves.
func newTestBreaker() (b *breaker, advance func(time.Duration)) {
	at := now
	return &breaker{now: func() time.Time { return at }}, func(d time.Duration) { at = at.Add(d) }
}

func requireAllowed(t *testing.T, b *breaker, wantWait time.Duration, wantLone bool) {
	t.Helper()
	wait, lone := b.allow()
	require.Equal(t, wantWait, wait)
	require.Equal(t, wantLone, lone)
}

func TestBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	b, advance := newTestBreaker()
	requireAllowed(t, b, 0, false)
	require.Zero(t, b.failed(errDown))
	require.Zero(t, b.failed(errDown))
	requireAllowed(t, b, 0, false)
	require.Equal(t, BreakerState{Failures: 2}, b.state())
	b.succeeded()
	for range breakAfter - 1 {
		require.Zero(t, b.failed(errDown), "they must be in a row")
	}

	want := second
	for failures := breakAfter; failures < 12; failures++ {
		require.Equal(t, want, b.failed(errDown))
		requireAllowed(t, b, want, true)
		require.Equal(t, BreakerState{Open: true, Failures: failures, NextProbe: b.now().Add(want)}, b.state())
		advance(want - 1)
		requireAllowed(t, b, 1, true)
		advance(1)
		requireAllowed(t, b, 0, true)
		require.True(t, b.state().Open, "it is open until one succeeds")
		want = min(2*want, minute)
	}
	require.Equal(t, minute, want)

	b.succeeded()
	requireAllowed(t, b, 0, false)
	require.Equal(t, BreakerState{}, b.state())
	for range breakAfter - 1 {
		require.Zero(t, b.failed(errDown))
	}
	require.Equal(t, second, b.failed(errDown), "it begins anew")
	require.Equal(t, int64(2), b.count())
}

// TestBreakerAndRequestsUnderWay: requests that were made before it opened, and fail after, tell nothing new.
func TestBreakerAndRequestsUnderWay(t *testing.T) {
	t.Parallel()
	b, advance := newTestBreaker()
	for range breakAfter {
		b.failed(errDown)
	}
	advance(second / 4)
	for range 10 {
		require.Equal(t, 3*second/4, b.failed(errDown))
	}
	requireAllowed(t, b, 3*second/4, true)
	b.succeeded() // and one that succeeds does
	requireAllowed(t, b, 0, false)
}

func TestBreakerWaitsAsAsked(t *testing.T) {
	t.Parallel()
	for asked, want := range map[time.Duration]time.Duration{
		0: second, time.Millisecond: second, second: second, 90 * second: 90 * second, 11 * minute: 11 * minute,
		61 * minute: hour, 1000 * hour: hour, 1<<63 - 1: hour, -hour: second,
	} {
		b, advance := newTestBreaker()
		require.Equal(t, want, b.failed(fmt.Errorf("wrapped: %w", &BusyError{After: asked, Text: "busy"})), asked)
		requireAllowed(t, b, want, true) // the first is enough
		require.True(t, b.state().Open)

		b.failed(&BusyError{After: second})
		b.failed(errDown)
		requireAllowed(t, b, want, true) // nothing makes it shorter

		// Not even requests under way that succeed: they were made before it asked.
		b.succeeded()
		if wait, _ := b.allow(); want > 0 {
			require.Equal(t, want, wait)
		}
		require.True(t, b.state().Open)
		advance(want)
		requireAllowed(t, b, 0, false)
		b.succeeded()
		require.Equal(t, BreakerState{}, b.state())
	}
}

func TestBreakerIsProbedSoonAfterALongWait(t *testing.T) {
	t.Parallel()
	b, advance := newTestBreaker()
	require.Equal(t, 5*minute, b.failed(&BusyError{After: 5 * minute}))
	advance(5 * minute)
	requireAllowed(t, b, 0, true)
	require.Equal(t, minute, b.failed(errDown), "no longer than it would be")
	b.succeeded()
	requireAllowed(t, b, 0, false)
}
