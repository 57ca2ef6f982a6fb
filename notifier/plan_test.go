package notifier

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

const (
	second = time.Second
	minute = time.Minute
	hour   = time.Hour
	day    = 24 * hour
)

var now = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// usual is the schedule without flags.
var usual = newSchedule(6 * hour)

// ago is the time so long before now.
func ago(d time.Duration) time.Time { return now.Add(-d) }

func composition(token string) *storage.Composition {
	return &storage.Composition{
		Composition: &ddm.Composition{Token: token, Items: []ddm.Item{{Identifier: "a"}}},
		ChangedAt:   now,
	}
}

func nothing(token string) *storage.Composition {
	return &storage.Composition{Composition: &ddm.Composition{Token: token}, ChangedAt: now}
}

// The enrollment should have "new" in every case.
var decisions = []struct {
	name       string
	enrollment storage.Enrollment
	empty      bool // "new" is nothing
	want       decision
}{
	{
		name: "never told and something to have",
		want: decision{action: send, withData: true},
	},
	{
		name:  "never told and nothing to have",
		empty: true,
		want:  decision{outcome: storage.OutcomeInSync},
	},
	{
		name:       "was told before, nothing to have now",
		enrollment: storage.Enrollment{CommandToken: "old", CommandSentAt: ago(minute), Sends: 1},
		empty:      true,
		want:       decision{action: send, withData: true},
	},
	{
		name:       "fetched something before, nothing to have now",
		enrollment: storage.Enrollment{FetchedToken: "old", FetchedAt: ago(minute)},
		empty:      true,
		want:       decision{action: send, withData: true},
	},
	{
		name:       "asked before, nothing to have now",
		enrollment: storage.Enrollment{AskedToken: "old", AskedAt: ago(minute)},
		empty:      true,
		want:       decision{action: send, withData: true},
	},
	{
		name:       "synced with something before, nothing to have now",
		enrollment: storage.Enrollment{SyncedToken: "old"},
		empty:      true,
		want:       decision{action: send, withData: true},
	},
	{
		name:       "in sync",
		enrollment: storage.Enrollment{SyncedToken: "new"},
		want:       decision{outcome: storage.OutcomeInSync},
	},
	{
		name:       "in sync and held",
		enrollment: storage.Enrollment{SyncedToken: "new", Held: true},
		want:       decision{outcome: storage.OutcomeInSync},
	},
	{
		name:       "forced though in sync",
		enrollment: storage.Enrollment{SyncedToken: "new", Forced: true},
		want:       decision{action: send, withData: true},
	},
	{
		name:       "forced though just told: the device is made to ask",
		enrollment: storage.Enrollment{Forced: true, CommandToken: "new", CommandSentAt: ago(second), Sends: 1},
		want:       decision{action: send},
	},
	{
		name:       "forced though held, asked and fetched",
		enrollment: storage.Enrollment{Forced: true, Held: true, AskedToken: "new", AskedAt: ago(hour), FetchedToken: "new", FetchedAt: now},
		want:       decision{action: send, withData: true},
	},
	{
		name:  "forced though never told and nothing to have",
		empty: true, enrollment: storage.Enrollment{Forced: true},
		want: decision{action: send, withData: true},
	},
	{
		name: "told twice, asked each time, and no manifest known: it holds the token",
		enrollment: storage.Enrollment{
			AskedToken: "new", AskedAt: ago(15 * minute), CommandToken: "new", CommandSentAt: ago(20 * minute), Sends: 2,
		},
		want: decision{outcome: storage.OutcomeSynced},
	},
	{
		name: "the same, held: it holds the token all the same",
		enrollment: storage.Enrollment{
			AskedToken: "new", AskedAt: ago(hour), CommandToken: "new", CommandSentAt: ago(2 * hour), Sends: 2, Held: true,
		},
		want: decision{outcome: storage.OutcomeSynced},
	},
	{
		name: "told once and asked: it may have gone away before it fetched the manifest",
		enrollment: storage.Enrollment{
			AskedToken: "new", AskedAt: ago(hour), CommandToken: "new", CommandSentAt: ago(2 * hour), Sends: 1,
		},
		want: decision{outcome: storage.OutcomePostponed, after: 4 * hour},
	},
	{
		name: "told again since it asked",
		enrollment: storage.Enrollment{
			AskedToken: "new", AskedAt: ago(2 * hour), CommandToken: "new", CommandSentAt: ago(hour), Sends: 2,
		},
		want: decision{outcome: storage.OutcomePostponed, after: 11 * hour},
	},
	{
		name:       "asked and never told",
		enrollment: storage.Enrollment{AskedToken: "new", AskedAt: ago(hour)},
		want:       decision{action: send, withData: true},
	},
	{
		name:       "asked a moment too short ago",
		enrollment: storage.Enrollment{AskedToken: "new", AskedAt: ago(15*minute - 1)},
		want:       decision{outcome: storage.OutcomePostponed, after: 1},
	},
	{
		name:       "asked, but another manifest is known",
		enrollment: storage.Enrollment{AskedToken: "new", AskedAt: ago(15 * minute), FetchedToken: "old", FetchedAt: ago(day)},
		want:       decision{action: send, withData: true},
	},
	{
		name:       "asked for what is not desired any more",
		enrollment: storage.Enrollment{AskedToken: "old", AskedAt: ago(minute)},
		want:       decision{action: send, withData: true},
	},
	{
		name:       "held and never told",
		enrollment: storage.Enrollment{Held: true},
		want:       decision{outcome: storage.OutcomeHeld},
	},
	{
		name:       "held and told something else",
		enrollment: storage.Enrollment{Held: true, SyncedToken: "old", CommandToken: "old", CommandSentAt: ago(day), Sends: 3},
		want:       decision{outcome: storage.OutcomeHeld},
	},
	{
		name:       "told a moment ago",
		enrollment: storage.Enrollment{CommandToken: "new", CommandSentAt: now, Sends: 1},
		want:       decision{outcome: storage.OutcomePostponed, after: 6 * hour},
	},
	{
		name:       "told, the check is not due",
		enrollment: storage.Enrollment{CommandToken: "new", CommandSentAt: ago(6*hour - 1), Sends: 1},
		want:       decision{outcome: storage.OutcomePostponed, after: 1},
	},
	{
		name:       "told, the check is due: the next command has the device ask",
		enrollment: storage.Enrollment{CommandToken: "new", CommandSentAt: ago(6 * hour), Sends: 1},
		want:       decision{action: send},
	},
	{
		name:       "told three times: the check is later",
		enrollment: storage.Enrollment{CommandToken: "new", CommandSentAt: ago(6 * hour), Sends: 3},
		want:       decision{outcome: storage.OutcomePostponed, after: 18 * hour},
	},
	{
		name:       "told very often: the check is not later than in a week",
		enrollment: storage.Enrollment{CommandToken: "new", CommandSentAt: ago(7 * day), Sends: 1000},
		want:       decision{action: send},
	},
	{
		name:       "told very often, and in a week less a moment",
		enrollment: storage.Enrollment{CommandToken: "new", CommandSentAt: ago(7*day - 1), Sends: 1000},
		want:       decision{outcome: storage.OutcomePostponed, after: 1},
	},
	{
		name:       "told something else a moment ago: the next command carries the tokens",
		enrollment: storage.Enrollment{CommandToken: "old", CommandSentAt: ago(second), Sends: 5},
		want:       decision{action: send, withData: true},
	},
	{
		name:       "fetched and at work",
		enrollment: storage.Enrollment{FetchedToken: "new", FetchedAt: ago(hour - minute)},
		want:       decision{outcome: storage.OutcomePostponed, after: minute},
	},
	{
		name:       "fetched and not heard of for an hour",
		enrollment: storage.Enrollment{FetchedToken: "new", FetchedAt: ago(hour)},
		want:       decision{action: send, withData: true},
	},
	{
		name:       "fetched what is not desired any more",
		enrollment: storage.Enrollment{FetchedToken: "old", FetchedAt: ago(second)},
		want:       decision{action: send, withData: true},
	},
	{
		name: "told, fetched and asked: the latest counts",
		enrollment: storage.Enrollment{
			CommandToken: "new", CommandSentAt: ago(6*hour - minute), Sends: 1,
			FetchedToken: "new", FetchedAt: ago(50 * minute),
			AskedToken: "new", AskedAt: ago(second),
		},
		want: decision{outcome: storage.OutcomePostponed, after: 15*minute - second},
	},
}

func TestDecide(t *testing.T) {
	t.Parallel()
	for _, test := range decisions {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := test.enrollment
			e.ID, e.Known, e.Now = "e", true, now
			c := composition("new")
			if test.empty {
				c = nothing("new")
			}
			require.Equal(t, test.want, usual.decide(&e, c))
		})
	}
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	for times, want := range map[int]time.Duration{
		-1: second, 0: second, 1: 2 * second, 2: 4 * second, 3: 8 * second, 4: 10 * second, 5: 10 * second, 1 << 40: 10 * second,
	} {
		require.Equal(t, want, doubled(second, 10*second, times), times)
	}
	require.Equal(t, second, doubled(second, second, 0))
	require.Equal(t, second, doubled(minute, second, 0), "never more than the largest")

	for sends, want := range map[int]time.Duration{
		0: 6 * hour, 1: 6 * hour, 2: 12 * hour, 3: day, 4: day, 1000: day,
	} {
		after, spread := usual.afterSend(sends)
		require.Equal(t, want, after, sends)
		require.Equal(t, want/10, spread, sends)
	}

	last := time.Duration(0)
	for attempts := 1; attempts < 100; attempts++ {
		after, spread := usual.afterFailure(attempts)
		require.GreaterOrEqual(t, after, last, attempts)
		require.Equal(t, 2*after, spread, "the middle of the range is what it grows to")
		last = after
	}
	require.Equal(t, 30*minute, last, "half of the largest, and as much again on average")
	after, _ := usual.afterFailure(1)
	require.Equal(t, 2500*time.Millisecond, after)
}

func enrollment(id string) *storage.Enrollment { return &storage.Enrollment{ID: id} }

// idsOf returns the ids of batches.
func idsOf(batches []*batch) [][]string {
	var list [][]string
	for _, b := range batches {
		var ids []string
		for _, e := range b.members {
			ids = append(ids, e.ID)
		}
		list = append(list, ids)
	}
	return list
}

func TestGrouperBySize(t *testing.T) {
	t.Parallel()
	g := newGrouper(2)
	require.Empty(t, g.batches())
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		g.add(enrollment(id), composition("token"), decision{action: send, withData: true})
	}
	require.Equal(t, [][]string{{"a", "b"}, {"c", "d"}, {"e"}}, idsOf(g.batches()))
}

func TestGrouperByTokenAndData(t *testing.T) {
	t.Parallel()
	g := newGrouper(2)
	for i, id := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		g.add(enrollment(id), composition([]string{"one", "two"}[i%2]), decision{action: send, withData: i < 4})
	}
	batches := g.batches()
	require.Equal(t, [][]string{{"a", "c"}, {"b", "d"}, {"e", "g"}, {"f"}}, idsOf(batches))
	for i, want := range []struct {
		token string
		data  []byte
	}{
		{"one", composition("one").Tokens()}, {"two", composition("two").Tokens()}, {"one", nil}, {"two", nil},
	} {
		require.Equal(t, want.token, batches[i].token)
		require.Equal(t, want.data, batches[i].data)
	}
}

// TestGrouperByPath is about ids that are long, and longer when they are escaped.
func TestGrouperByPath(t *testing.T) {
	t.Parallel()
	g := newGrouper(1000)
	long := strings.Repeat("ü", 127) // each is six bytes in a path
	for i := range 20 {
		g.add(enrollment(fmt.Sprintf("%c%s", 'a'+i, long)), composition("token"), decision{action: send, withData: true})
	}
	batches := g.batches()
	require.Len(t, batches, 3)
	for _, b := range batches[:2] {
		require.Len(t, b.members, 9, "9 x 764 bytes fit into 7000")
	}
	require.Len(t, batches[2].members, 2)

	// What is exactly as long as allowed fits.
	g = newGrouper(1000)
	for range 2 {
		for range maxPathBytes / 100 {
			g.add(enrollment(strings.Repeat("x", 99)), composition("token"), decision{action: send, withData: true})
		}
	}
	require.Len(t, g.batches(), 2)
}

func TestGrouperProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 40).Draw(t, "size")
		ids := rapid.SliceOfNDistinct(rapid.StringN(1, 255, 255), 0, 120, rapid.ID).Draw(t, "ids")
		type choice struct {
			token  string
			action action
			data   bool
		}
		chosen := map[string]choice{}
		first, again := newGrouper(size), newGrouper(size)
		for _, id := range ids {
			c := choice{
				token:  rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "token"),
				action: rapid.SampledFrom([]action{send, push}).Draw(t, "action"),
			}
			c.data = c.action == send && rapid.Bool().Draw(t, "data")
			chosen[id] = c
			first.add(enrollment(id), composition(c.token), decision{action: c.action, withData: c.data})
			again.add(enrollment(id), composition(c.token), decision{action: c.action, withData: c.data})
		}
		batches := first.batches()
		require.Equal(t, idsOf(batches), idsOf(again.batches()), "the order depends on nothing else")
		seen := map[string]bool{}
		for _, b := range batches {
			require.NotEmpty(t, b.members)
			require.LessOrEqual(t, len(b.members), size)
			path := 0
			for _, e := range b.members {
				require.False(t, seen[e.ID], "%q is there twice", e.ID)
				seen[e.ID] = true
				require.Equal(t, chosen[e.ID], choice{b.token, b.action, b.data != nil})
				path += len(url.PathEscape(e.ID)) + 1
			}
			require.LessOrEqual(t, path, maxPathBytes)
		}
		require.Len(t, seen, len(ids), "nobody is lost")
	})
}
