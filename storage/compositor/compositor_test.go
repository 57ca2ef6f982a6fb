package compositor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var change = storage.ChangeOptions{ChangeID: "change"}

// world is a database of a test's own, of which every read is counted.
type world struct {
	testing.TB
	store  *sqlstore.Store
	source *countingSource
}

func newWorld(t testing.TB) *world {
	t.Helper()
	store, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "decree.db"), sqlstore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return &world{t, store, &countingSource{Compositions: store}}
}

func (w *world) put(identifier, echo string) {
	w.Helper()
	_, err := w.store.PutDeclaration(w.Context(), &ddm.Declaration{
		Identifier: identifier, Type: "com.apple.configuration.management.test", Class: ddm.ClassConfiguration,
		Payload: fmt.Appendf(nil, `{"Echo":%q}`, echo),
	}, change)
	require.NoError(w, err)
}

func (w *world) fill(set string, identifiers ...string) {
	w.Helper()
	for _, identifier := range identifiers {
		w.put(identifier, "first")
		_, err := w.store.PutSetDeclaration(w.Context(), set, identifier, change)
		require.NoError(w, err)
	}
}

func (w *world) assign(set string, ids ...string) {
	w.Helper()
	for _, id := range ids {
		_, err := w.store.PutEnrollmentSet(w.Context(), id, set, change)
		require.NoError(w, err)
	}
}

func (w *world) vector(id string) storage.Vector {
	w.Helper()
	_, vector, err := w.store.Enrollment(w.Context(), id)
	require.NoError(w, err)
	return vector
}

// compose does what a request of a device does.
func (w *world) compose(c *Compositor, id string) *storage.Composition {
	w.Helper()
	composition, err := c.Compose(w.Context(), id, w.vector(id))
	require.NoError(w, err)
	requireConsistent(w, composition)
	return composition
}

// requireConsistent checks that everything in a composition is about the same items.
func requireConsistent(t testing.TB, c *storage.Composition) {
	t.Helper()
	require.Equal(t, ddm.DeclarationsToken(c.Items), c.Token)
	require.Equal(t, string(c.DeclarationItemsJSON()), string(c.DeclarationItems))
	items, err := ddm.ParseDeclarationItems(c.DeclarationItems)
	require.NoError(t, err)
	require.ElementsMatch(t, c.Items, items)
}

func identifiers(c *storage.Composition) []string {
	list := []string{}
	for _, item := range c.Items {
		list = append(list, item.Identifier)
	}
	return list
}

// countingSource counts what is read and written, and lets a test in before each read of contents.
type countingSource struct {
	storage.Compositions
	contents, versions, saved atomic.Int64
	before                    func()
	failure                   error
}

func (s *countingSource) VectorContents(
	ctx context.Context, enrollmentID string, known storage.Vector,
) (storage.Vector, map[string][]ddm.Item, error) {
	s.contents.Add(1)
	if s.before != nil {
		s.before()
	}
	if s.failure != nil {
		return nil, nil, s.failure
	}
	return s.Compositions.VectorContents(ctx, enrollmentID, known)
}

func (s *countingSource) DeclarationVersion(
	ctx context.Context, identifier, serverToken string,
) (*ddm.Declaration, error) {
	s.versions.Add(1)
	return s.Compositions.DeclarationVersion(ctx, identifier, serverToken)
}

func (s *countingSource) SaveManifest(ctx context.Context, token string, declarationItems []byte) error {
	s.saved.Add(1)
	if s.failure != nil {
		return s.failure
	}
	return s.Compositions.SaveManifest(ctx, token, declarationItems)
}

func TestEqualVectorsShareOneComposition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("one", "a", "b")
	w.fill("two", "b", "c")
	for i := range 20 {
		w.assign("two", fmt.Sprint("e", i))
		w.assign("one", fmt.Sprint("e", i))
	}
	c := New(w.source, Options{})
	first := w.compose(c, "e0")
	require.Equal(t, []string{"a", "b", "c"}, identifiers(first))
	require.False(t, first.Empty())
	for i := range 20 {
		got := w.compose(c, fmt.Sprint("e", i))
		require.Same(t, first.Composition, got.Composition)
		require.Equal(t, first.ChangedAt, got.ChangedAt)
	}
	require.Equal(t, int64(1), w.source.contents.Load())
}

func TestWithoutSets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := New(w.source, Options{})
	got := w.compose(c, "nobody")
	require.True(t, got.Empty())
	require.Equal(t, time.Unix(0, 0).UTC(), got.ChangedAt)
	w.assign("empty", "e")
	require.Equal(t, got.Token, w.compose(c, "e").Token)
	token, empty, err := c.Desired(t.Context(), &storage.Enrollment{ID: "nobody"}, nil)
	require.NoError(t, err)
	require.True(t, empty)
	require.Equal(t, got.Token, token)
}

// TestReplicas: what one changes, the other sees with its next read, though nobody tells it.
func TestReplicas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("set", "e")
	one, two := New(w.store, Options{}), New(w.store, Options{})
	seen := map[string]bool{}
	for i := range 10 {
		w.put("a", fmt.Sprint("edit ", i))
		first, second := w.compose(one, "e"), w.compose(two, "e")
		require.Equal(t, first.Token, second.Token)
		require.Equal(t, first.DeclarationItems, second.DeclarationItems)
		require.Equal(t, first.Tokens(), second.Tokens(), "the timestamp too")
		require.False(t, seen[first.Token])
		seen[first.Token] = true
		body, err := two.Declaration(t.Context(), "e", second.Items[0])
		require.NoError(t, err)
		require.Contains(t, string(body), fmt.Sprint("edit ", i))
	}
	w.put("a", "edit 3")
	require.True(t, seen[w.compose(one, "e").Token], "undone, the old token is back")
}

// TestSetContentsAreShared: who has sets of its own shares the others.
func TestSetContentsAreShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("common", "a", "b", "c")
	c := New(w.source, Options{})
	for i := range 5 {
		own := fmt.Sprint("own", i)
		w.fill(own, own)
		w.assign("common", own)
		w.assign(own, own)
		require.Equal(t, []string{"a", "b", "c", own}, identifiers(w.compose(c, own)))
	}
	w.put("a", "second")
	for i := range 5 {
		own := fmt.Sprint("own", i)
		require.Equal(t, w.compose(New(w.store, Options{}), own).Token, w.compose(c, own).Token)
	}
}

// TestOneLoad: many enrollments of one vector ask at once, and one of them reads.
func TestOneLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a", "b")
	const many = 50
	vectors := map[string]storage.Vector{}
	for i := range many {
		id := fmt.Sprint("e", i)
		w.assign("set", id)
		vectors[id] = w.vector(id)
	}
	c := New(w.source, Options{})
	reading, release := make(chan struct{}, many), make(chan struct{})
	w.source.before = func() {
		reading <- struct{}{}
		<-release
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	got := map[string]*storage.Composition{}
	start := func(id string) {
		all.Go(func() {
			composition, err := c.Compose(t.Context(), id, vectors[id])
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got[id] = composition
			}
		})
	}
	start("e0")
	<-reading
	for id := range maps.Keys(vectors) {
		if id != "e0" {
			start(id)
		}
	}
	// Who comes late finds the composition in the cache, who comes now waits for the one read.
	close(release)
	all.Wait()
	require.Len(t, got, many)
	require.Equal(t, int64(1), w.source.contents.Load())
	for _, composition := range got {
		require.Same(t, got["e0"].Composition, composition.Composition)
	}
}

// TestFollowersWhoseSetsDiffer: the one who reads finds that its own sets have changed; that says nothing of the
// others, who still get what is theirs.
func TestFollowersWhoseSetsDiffer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.fill("more", "b")
	w.assign("set", "leader", "follower")
	c := New(w.source, Options{})
	vector := w.vector("leader")
	require.Equal(t, vector, w.vector("follower"))
	reading, release := make(chan struct{}, 2), make(chan struct{})
	w.source.before = func() {
		reading <- struct{}{}
		<-release
	}
	type result struct {
		composition *storage.Composition
		err         error
	}
	compose := func(id string) chan result {
		done := make(chan result, 1)
		go func() {
			composition, err := c.Compose(t.Context(), id, vector)
			done <- result{composition, err}
		}()
		return done
	}
	leader := compose("leader")
	<-reading
	follower := compose("follower")
	w.assign("more", "leader")
	close(release)
	got := <-leader
	require.NoError(t, got.err)
	require.Equal(t, []string{"a", "b"}, identifiers(got.composition), "newer, and consistent")
	got = <-follower
	require.NoError(t, got.err)
	require.Equal(t, []string{"a"}, identifiers(got.composition))
	requireConsistent(t, got.composition)
}

// TestChangedBetweenTheReads: the content changes after the vector was read, and before the contents are.
func TestChangedBetweenTheReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("one", "a")
	w.fill("two", "b")
	w.assign("one", "e", "f")
	w.assign("two", "e")
	c := New(w.source, Options{})
	w.compose(c, "f") // the content of set one is known

	old := w.vector("e")
	w.put("a", "second")
	got, err := c.Compose(t.Context(), "e", old)
	require.NoError(t, err)
	requireConsistent(t, got)
	now := w.compose(New(w.store, Options{}), "e")
	require.Equal(t, now.Token, got.Token)
	require.Equal(t, now.ChangedAt, got.ChangedAt)
	require.True(t, got.ChangedAt.After(old.ChangedAt()))

	// It is known under what it is made of.
	reads := w.source.contents.Load()
	require.Equal(t, got.Token, w.compose(c, "e").Token)
	require.Equal(t, reads, w.source.contents.Load())
}

func TestErrorsAreNotRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("set", "e")
	c := New(w.source, Options{})
	vector := w.vector("e")
	w.source.failure = errors.New("database is down")
	_, err := c.Compose(t.Context(), "e", vector)
	require.ErrorIs(t, err, w.source.failure)
	w.source.failure = nil
	require.Equal(t, []string{"a"}, identifiers(w.compose(c, "e")))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.put("a", "second")
	vector = w.vector("e")
	release := make(chan struct{})
	w.source.before = func() { <-release }
	_, err = c.Compose(ctx, "e", vector)
	require.ErrorIs(t, err, context.Canceled, "it waits no longer than its request")
	close(release)
	_, err = c.Compose(t.Context(), "e", vector)
	require.NoError(t, err)
}

func TestManySets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const sets = 210 // more than go into one statement
	for i := range sets {
		set := fmt.Sprintf("set%03d", i)
		w.assign(set, "e")
		if i%20 == 0 {
			w.fill(set, set)
		}
	}
	c := New(w.store, Options{})
	require.Len(t, w.compose(c, "e").Items, 11)
	w.put("set100", "second") // all other sets are known
	got := w.compose(c, "e")
	require.Len(t, got.Items, 11)
	require.Equal(t, w.compose(New(w.store, Options{}), "e").Token, got.Token)
}

func BenchmarkComposeHit(b *testing.B) {
	w := newWorld(b)
	for i := range 5 {
		set := fmt.Sprint("set", i)
		for j := range 10 {
			w.fill(set, fmt.Sprint(set, "-", j))
		}
		w.assign(set, "e")
	}
	c := New(w.source, Options{})
	vector := w.vector("e")
	w.compose(c, "e")
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Compose(b.Context(), "e", vector); err != nil {
				b.Error(err)
			}
		}
	})
	require.Equal(b, int64(1), w.source.contents.Load())
}
