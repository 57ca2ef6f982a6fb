package eventlog

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// scriptedLog answers by a script and notes when it is asked.
type scriptedLog struct {
	mu    sync.Mutex
	began time.Time
	asked []time.Duration
	steps []func() (int, bool, error)
}

func (l *scriptedLog) AdvanceHappenings(_ context.Context, limit int) (int, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if limit != pageSize {
		return 0, false, errors.New("another limit")
	}
	l.asked = append(l.asked, time.Since(l.began))
	if len(l.steps) == 0 {
		return 0, false, nil
	}
	step := l.steps[0]
	l.steps = l.steps[1:]
	return step()
}

// TestSequencer checks how often the log is advanced, and that it makes room where there is much to do.
func TestSequencer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		page := func(took time.Duration) func() (int, bool, error) {
			return func() (int, bool, error) {
				time.Sleep(took)
				return pageSize, true, nil
			}
		}
		log := &scriptedLog{began: time.Now(), steps: []func() (int, bool, error){
			page(10 * time.Millisecond), // and a pause of 90
			page(0),                     // 20
			page(time.Second),           // 500
			func() (int, bool, error) { return 0, false, errors.New("an error") },
		}}
		appended := 0
		s := NewSequencer(SequencerConfig{
			Log: log, Logger: slog.New(slog.DiscardHandler), Appended: func() { appended++ },
		})
		s.Stop()
		s.Start()
		s.Start()
		time.Sleep(8 * time.Second)
		s.Stop()
		s.Stop()
		milliseconds := []time.Duration{0, 100, 120, 1620, 6620, 7120, 7620}
		require.Len(t, log.asked, len(milliseconds))
		for i, ms := range milliseconds {
			require.Equal(t, ms*time.Millisecond, log.asked[i])
		}
		require.Equal(t, 3, appended)
		s.Start()
		synctest.Wait()
		s.Stop()
		require.Len(t, log.asked, len(milliseconds)+1)
	})
}

// TestStartAndStop has many start and stop a sequencer at once.
func TestStartAndStop(t *testing.T) {
	t.Parallel()
	s := NewSequencer(SequencerConfig{Log: &scriptedLog{}, Logger: slog.New(slog.DiscardHandler)})
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			s.Start()
			s.Stop()
		})
	}
	group.Wait()
	s.Stop()
}
