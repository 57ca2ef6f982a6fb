package notifier

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMeter(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_000_000, 0)
	m := &meter{now: func() time.Time { return at }}
	require.Zero(t, m.perSecond())
	m.add(60)
	m.add(60)
	require.InDelta(t, 2, m.perSecond(), 0.001)
	at = at.Add(59 * time.Second)
	m.add(30)
	require.InDelta(t, 2.5, m.perSecond(), 0.001)
	at = at.Add(time.Second)
	require.InDelta(t, 0.5, m.perSecond(), 0.001, "the first ones are a minute ago")
	m.add(6) // in the place of the first ones
	require.InDelta(t, 0.6, m.perSecond(), 0.001)
	at = at.Add(time.Hour)
	require.Zero(t, m.perSecond())
}
