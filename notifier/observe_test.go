package notifier

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// observed is what an observer was told.
type observed struct {
	nobody
	settled map[string]int
	asked   []string
}

func (o *observed) Settled(verdict string, enrollments int) { o.settled[verdict] += enrollments }

func (o *observed) Asked(request, answer string, _ time.Duration) {
	o.asked = append(o.asked, request+" "+answer)
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	o := &observed{settled: map[string]int{}}
	n := New(Config{Observer: o})
	some := func(kind storage.OutcomeKind, count int, token, text string) storage.Outcome {
		return storage.Outcome{Kind: kind, IDs: make([]string, count), DesiredToken: token, Error: text}
	}
	n.settled([]storage.Outcome{
		some(storage.OutcomeSent, 1, "t", ""), some(storage.OutcomePushed, 2, "t", ""),
		some(storage.OutcomeSent, 3, "t", "no token"), some(storage.OutcomePushed, 4, "t", "no token"),
		some(storage.OutcomeFailed, 5, "t", "unknown"), some(storage.OutcomeFailed, 6, "", "not composed"),
		some(storage.OutcomeUndone, 7, "t", "down"), some(storage.OutcomeInSync, 8, "t", ""),
		some(storage.OutcomeSynced, 9, "t", ""), some(storage.OutcomeHeld, 10, "t", ""),
		some(storage.OutcomePostponed, 11, "t", ""),
	})
	require.Equal(t, map[string]int{
		"sent": 1, "woken": 2, "unwoken": 7, "refused": 5, "failed": 6, "undone": 7, "in_sync": 17, "held": 10, "postponed": 11,
	}, o.settled)
	for verdict := range o.settled {
		require.True(t, slices.Contains(Verdicts, verdict), verdict)
	}
	require.Len(t, o.settled, len(Verdicts))
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	o := &observed{}
	n := New(Config{Observer: o})
	stopped, stop := context.WithCancel(t.Context())
	stop()
	n.asked(t.Context(), requestEnqueue, nil, time.Second)
	n.asked(t.Context(), requestEnqueue, &RefusedError{}, time.Second)
	n.asked(t.Context(), requestPush, errors.New("down"), time.Second)
	n.asked(t.Context(), requestProbe, &BusyError{}, time.Second)
	n.asked(stopped, requestEnqueue, context.Canceled, time.Second)
	n.asked(stopped, requestEnqueue, nil, time.Second)
	require.Equal(t, []string{
		"enqueue taken", "enqueue refused", "push failed", "probe failed", "enqueue taken",
	}, o.asked)
}
