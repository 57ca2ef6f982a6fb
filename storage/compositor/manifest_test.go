package compositor

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

func TestDeclaration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("set", "e")
	c := New(w.source, Options{})
	old := w.compose(c, "e").Items[0]
	for range 3 {
		body, err := c.Declaration(t.Context(), "e", old)
		require.NoError(t, err)
		require.JSONEq(t, fmt.Sprintf(`{"Identifier":"a","Type":"com.apple.configuration.management.test",
			"ServerToken":%q,"Payload":{"Echo":"first"}}`, old.ServerToken), string(body))
	}
	require.Equal(t, int64(1), w.source.versions.Load())

	w.put("a", "second")
	body, err := c.Declaration(t.Context(), "e", w.compose(c, "e").Items[0])
	require.NoError(t, err)
	require.Contains(t, string(body), "second")
	body, err = New(w.store, Options{}).Declaration(t.Context(), "e", old)
	require.NoError(t, err, "a version that was replaced is kept for a while")
	require.Contains(t, string(body), "first")

	for _, unknown := range []ddm.Item{
		{Identifier: "a", ServerToken: "x"}, {Identifier: "b", ServerToken: old.ServerToken}, {},
		// Where one ends and the other begins must not matter.
		{Identifier: "a" + old.ServerToken[:1], ServerToken: old.ServerToken[1:]},
	} {
		for range 2 {
			_, err = c.Declaration(t.Context(), "e", unknown)
			require.ErrorIs(t, err, storage.ErrNotFound)
		}
	}
}

// differentShards returns two ids that are in the same shard, and one that is in another.
func differentShards() (one, same, other string) {
	one = "e0"
	for i := 1; same == "" || other == ""; i++ {
		id := fmt.Sprint("e", i)
		if ddm.Shard(id) == ddm.Shard(one) {
			same = id
		} else {
			other = id
		}
	}
	return one, same, other
}

func TestShard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, same, other := differentShards()
	w.fill("set", "a")
	w.assign("set", one, same, other)
	plain, c := New(w.store, Options{}), New(w.source, Options{Shard: true})

	got := w.compose(c, one)
	shard := ddm.ShardDeclaration(one)
	item := ddm.Item{Class: shard.Class, Identifier: shard.Identifier, ServerToken: shard.ServerToken}
	require.Equal(t, []string{"a", ddm.ShardIdentifier}, identifiers(got))
	require.Contains(t, got.Items, item)
	require.Contains(t, string(got.DeclarationItems), ddm.ShardIdentifier)
	require.NotEqual(t, w.compose(plain, one).Token, got.Token)
	require.NotContains(t, string(w.compose(plain, one).DeclarationItems), ddm.ShardIdentifier)

	require.Same(t, got.Composition, w.compose(c, same).Composition, "one composition for a shard")
	require.Equal(t, int64(1), w.source.contents.Load())
	require.NotEqual(t, got.Token, w.compose(c, other).Token)

	for _, id := range []string{one, same, other} {
		found, ok := w.compose(c, id).Lookup(ddm.ShardIdentifier)
		require.True(t, ok)
		body, err := c.Declaration(t.Context(), id, found)
		require.NoError(t, err)
		require.JSONEq(t, fmt.Sprintf(`{"Identifier":%q,"Type":"com.apple.management.properties","ServerToken":%q,
			"Payload":{"shard":%d}}`, ddm.ShardIdentifier, found.ServerToken, ddm.Shard(id)), string(body))
	}

	nobody := w.compose(c, "nobody")
	require.False(t, nobody.Empty(), "who has no sets has a shard")
	require.Equal(t, []string{ddm.ShardIdentifier}, identifiers(nobody))
}

func TestKeepManifest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a", "b")
	w.assign("set", "e")
	c := New(w.source, Options{})
	composition := w.compose(c, "e")
	_, err := c.Served(t.Context(), composition.Token)
	require.ErrorIs(t, err, storage.ErrNotFound)

	start := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for i, step := range []struct {
		after time.Duration
		saved int64
	}{
		{0, 1},
		{0, 1},
		{time.Hour - 1, 1},
		{time.Hour, 2},
		{2*time.Hour - 1, 2},
		{24 * time.Hour, 3},
		{23*time.Hour + 1, 3},
		{0, 4}, // the clock was set back: rather once too often
		{1, 4},
	} {
		require.NoError(t, c.KeepManifest(t.Context(), composition, start.Add(step.after)))
		require.Equal(t, step.saved, w.source.saved.Load(), "step %d", i)
	}
	items, err := c.Served(t.Context(), composition.Token)
	require.NoError(t, err)
	require.Equal(t, composition.Items, items)

	// Each replica keeps it for itself, and what could not be stored is not taken for stored.
	other := New(w.source, Options{})
	w.source.failure = errors.New("database is down")
	require.ErrorIs(t, other.KeepManifest(t.Context(), composition, start), w.source.failure)
	w.source.failure = nil
	require.NoError(t, other.KeepManifest(t.Context(), composition, start))
	require.Equal(t, int64(6), w.source.saved.Load())
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 40_000
	w := newWorld(t)
	c := New(w.source, Options{CacheBytes: limit})
	bytes := func() int64 {
		for _, used := range []struct{ bytes, limit int64 }{
			{c.sets.bytes, c.sets.maxBytes}, {c.compositions.bytes, c.compositions.maxBytes},
			{c.bodies.bytes, c.bodies.maxBytes}, {c.kept.bytes, c.kept.maxBytes},
		} {
			require.LessOrEqual(t, used.bytes, used.limit)
			require.GreaterOrEqual(t, used.bytes, int64(0))
		}
		return c.sets.bytes + c.compositions.bytes + c.bodies.bytes + c.kept.bytes
	}
	w.fill("set", "a", "b", "c")
	w.assign("set", "e")
	tokens := map[string]bool{}
	most := int64(0)
	for i := range 100 {
		w.put("a", strings.Repeat("x", 500)+fmt.Sprint(i))
		composition := w.compose(c, "e")
		tokens[composition.Token] = true
		for _, item := range composition.Items {
			_, err := c.Declaration(t.Context(), "e", item)
			require.NoError(t, err)
		}
		require.NoError(t, c.KeepManifest(t.Context(), composition, time.Unix(int64(i), 0)))
		most = max(most, bytes())
	}
	require.Len(t, tokens, 100)
	require.LessOrEqual(t, most, int64(limit))
	require.Greater(t, most, int64(limit/2), "it is used")
}

func TestCache(t *testing.T) {
	t.Parallel()
	c := newCache[int](10 * (entryOverhead + 2))
	for i := range 10 {
		c.add(string(rune('a'+i)), i, 1)
	}
	require.Equal(t, 10, c.lru.Len())
	require.Equal(t, c.maxBytes, c.bytes)
	_, ok := c.get("a") // now the most recently used
	require.True(t, ok)
	c.add("k", 10, 1)
	_, ok = c.get("b")
	require.False(t, ok, "the least recently used goes")
	value, ok := c.get("a")
	require.True(t, ok)
	require.Zero(t, value)

	c.add("a", 42, 1) // in the place of the old
	value, _ = c.get("a")
	require.Equal(t, 42, value)
	require.Equal(t, 10, c.lru.Len())
	require.Equal(t, c.maxBytes, c.bytes)

	c.add("large", 1, int(c.maxBytes/2)) // not kept, and costs nobody its place
	_, ok = c.get("large")
	require.False(t, ok)
	require.Equal(t, 10, c.lru.Len())
	c.add("half", 1, int(c.maxBytes/2)-entryOverhead-len("half"))
	_, ok = c.get("half")
	require.True(t, ok)
	require.LessOrEqual(t, c.bytes, c.maxBytes)
}
