package summarizer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/background"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// summaries is storage in which counting a page takes a while.
type summaries struct {
	mu      sync.Mutex
	touched []string
	all     bool
	counted map[string][]time.Time
	// fails are the declarations whose counting fails.
	fails map[string]bool
	// away says that the database is, and asked counts the countings that were begun then.
	away  bool
	asked int
	pages int
	// together are declarations that are counted with each other.
	together []string
}

const page = 10 * time.Millisecond

func newSummaries(identifiers ...string) *summaries {
	s := &summaries{counted: map[string][]time.Time{}, fails: map[string]bool{}, pages: 1}
	for _, identifier := range identifiers {
		s.counted[identifier] = []time.Time{{}}
	}
	return s
}

func (s *summaries) touch(identifiers ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched = append(s.touched, identifiers...)
}

// times is how often a declaration was counted.
func (s *summaries) times(identifier string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.counted[identifier]) - 1
}

func (s *summaries) TouchedDeclarations(context.Context) (identifiers []string, all bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	identifiers, all = s.touched, s.all
	s.touched, s.all = nil, false
	return identifiers, all, nil
}

func (s *summaries) StaleSummaries(_ context.Context, age time.Duration, limit int) (list []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for identifier, times := range s.counted {
		if times[len(times)-1].Before(time.Now().Add(-age)) {
			list = append(list, identifier)
		}
	}
	slices.Sort(list)
	return list[:min(limit, len(list))], nil
}

func (s *summaries) CountDeclaration(
	ctx context.Context, identifier string, others []string, interval time.Duration, rest func(context.Context) error,
) ([]string, time.Duration, error) {
	s.mu.Lock()
	times := s.counted[identifier]
	fails := s.fails[identifier]
	began := time.Now()
	away := s.away
	if away {
		s.asked++
	}
	s.mu.Unlock()
	if away {
		return nil, 0, fmt.Errorf("counting: %w", &storage.NotReadyError{Reason: "it is away"})
	}
	if since := began.Sub(times[len(times)-1]); since < interval {
		return nil, interval - since, nil
	}
	if fails {
		return nil, 0, errors.New("down")
	}
	for range s.pages {
		background.Sleep(ctx, page, nil)
		if err := rest(ctx); err != nil {
			return nil, 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	counted := []string{identifier}
	for _, other := range others {
		if len(s.together) > 0 && slices.Contains(s.together, identifier) && slices.Contains(s.together, other) {
			counted = append(counted, other)
		}
	}
	for _, identifier := range counted {
		s.counted[identifier] = append(s.counted[identifier], began)
	}
	return counted, 0, nil
}

func run(t *testing.T, s *summaries, test func()) {
	synctest.Test(t, func(t *testing.T) {
		summarizer := New(Config{Summaries: s, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		summarizer.Start()
		defer summarizer.Stop()
		test()
	})
}

func TestWhatIsTouchedIsCounted(t *testing.T) {
	s := newSummaries("a", "b")
	run(t, s, func() {
		time.Sleep(2 * poll)
		require.Equal(t, 1, s.times("a"), "at the start, all are")
		require.Equal(t, 1, s.times("b"))
		time.Sleep(interval)
		s.touch("a")
		time.Sleep(2 * poll)
		require.Equal(t, 2, s.times("a"))
		require.Equal(t, 1, s.times("b"))

		// However often it is touched, it is counted once in an interval, and once more after the last.
		before := s.times("a")
		for range 100 {
			s.touch("a")
			time.Sleep(interval / 10)
		}
		require.InDelta(t, 10, s.times("a")-before, 1)
		time.Sleep(interval + 2*poll)
		after := s.times("a")
		time.Sleep(10 * interval)
		require.Equal(t, after, s.times("a"))
		require.Equal(t, 1, s.times("b"))
	})
}

func TestAllAreCountedNowAndThen(t *testing.T) {
	var identifiers []string
	for i := range 3 * staleLimit {
		identifiers = append(identifiers, string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	s := newSummaries(identifiers...)
	times := func(wanted int) {
		t.Helper()
		for _, identifier := range identifiers {
			require.Equal(t, wanted, s.times(identifier), identifier)
		}
	}
	run(t, s, func() {
		time.Sleep(time.Minute)
		times(1)
		time.Sleep(age - 2*time.Minute)
		times(1)
		time.Sleep(2 * time.Minute)
		times(2)
		s.mu.Lock()
		s.all = true
		s.mu.Unlock()
		time.Sleep(time.Minute)
		times(3)
		time.Sleep(time.Minute)
		times(3)
	})
}

func TestCountingLeavesTimeToOthers(t *testing.T) {
	s := newSummaries("a", "b")
	s.pages = 100
	run(t, s, func() {
		began := time.Now()
		for s.times("a") == 0 || s.times("b") == 0 {
			time.Sleep(poll / 10)
		}
		require.GreaterOrEqual(t, time.Since(began), 2*100*(1+restRatio)*page)
	})
}

func TestThoseThatWereCountedAlong(t *testing.T) {
	s := newSummaries("a", "b", "c")
	s.together = []string{"a", "b"}
	run(t, s, func() {
		time.Sleep(2 * poll)
		for range 3 {
			time.Sleep(interval)
			s.touch("b", "a", "c")
		}
		time.Sleep(2 * poll)
		for _, identifier := range []string{"a", "b", "c"} {
			require.Equal(t, 4, s.times(identifier), identifier)
		}
	})
}

func TestOneThatCannotBeCounted(t *testing.T) {
	s := newSummaries("a", "b")
	s.fails["a"] = true
	run(t, s, func() {
		time.Sleep(3 * poll)
		require.Zero(t, s.times("a"))
		require.Equal(t, 1, s.times("b"), "it holds up no other")
		s.mu.Lock()
		s.fails["a"] = false
		s.mu.Unlock()
		time.Sleep(retry + 2*poll)
		require.Equal(t, 1, s.times("a"))
	})
}

// TestDatabaseThatIsAway: each that cannot be counted is a line in the log.
func TestDatabaseThatIsAway(t *testing.T) {
	var identifiers []string
	for i := range 100 {
		identifiers = append(identifiers, fmt.Sprint("d", i))
	}
	s := newSummaries(identifiers...)
	s.away = true
	run(t, s, func() {
		time.Sleep(10 * poll)
		s.mu.Lock()
		require.Positive(t, s.asked)
		require.LessOrEqual(t, s.asked, 11, "one a second")
		s.away = false
		s.mu.Unlock()
		time.Sleep(retry + 10*poll)
		for _, identifier := range identifiers {
			require.Positive(t, s.times(identifier), identifier)
		}
	})
}

func TestStartAndStop(t *testing.T) {
	s := newSummaries("a")
	s.pages = 1000
	synctest.Test(t, func(t *testing.T) {
		summarizer := New(Config{Summaries: s, Logger: slog.New(slog.DiscardHandler)})
		summarizer.Stop()
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				summarizer.Start()
				time.Sleep(poll)
				summarizer.Stop()
			})
		}
		group.Wait()
		require.Zero(t, s.times("a"), "it was stopped in between")
		summarizer.Start()
		time.Sleep(time.Minute)
		summarizer.Stop()
		require.Equal(t, 1, s.times("a"))
		s.touch("a")
		time.Sleep(time.Minute)
		require.Equal(t, 1, s.times("a"), "nothing happens after Stop")
	})
}
