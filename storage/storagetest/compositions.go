package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

var compositionTests = []test{
	{"VectorContents", vectorContents},
	{"VectorOfManySets", vectorOfManySets},
	{"DeclarationVersions", declarationVersions},
	{"Manifests", manifests},
	{"Collect", collect},
	{"CollectLimit", collectLimit},
}

func (w *world) item(identifier string) ddm.Item {
	w.Helper()
	declaration := w.declaration(identifier)
	return ddm.Item{Class: declaration.Class, Identifier: identifier, ServerToken: declaration.ServerToken}
}

func vectorContents(w *world) {
	vector, contents, err := w.store.VectorContents(w.ctx, "unknown", nil)
	require.NoError(w, err)
	require.Empty(w, vector)
	require.Empty(w, contents)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM enrollments`))
	require.Equal(w, time.Unix(0, 0).UTC(), vector.ChangedAt())

	w.fill("b", "d", "c")
	w.put(activation("a", "c", "d"))
	w.add("a", "a")
	w.add("a", "d")
	w.clock.Advance(time.Hour)
	for _, set := range []string{"b", "empty", "a"} {
		w.assign("e", set)
	}
	w.fill("other", "x")
	w.assign("f", "other")

	read := func(known storage.Vector) (storage.Vector, map[string][]ddm.Item) {
		vector, contents, err := w.store.VectorContents(w.ctx, "e", known)
		require.NoError(w, err)
		require.Equal(w, w.vector("e"), vector, "the same vector from both")
		require.Equal(w, []string{"a", "b", "empty"}, []string{vector[0].Name, vector[1].Name, vector[2].Name})
		require.True(w, vector.ChangedAt().Equal(w.clock.Now()))
		return vector, contents
	}
	vector, contents = read(nil)
	require.Equal(w, map[string][]ddm.Item{
		"a": {w.item("a"), w.item("d")},
		"b": {w.item("c"), w.item("d")},
	}, contents)

	_, contents = read(vector)
	require.Empty(w, contents, "all is known")
	_, contents = read(vector[:1])
	require.Equal(w, map[string][]ddm.Item{"b": {w.item("c"), w.item("d")}}, contents)
	_, contents = read(storage.Vector{{Name: "a", Version: vector[1].Version}, {Name: "b", Version: vector[1].Version + 1}})
	require.Len(w, contents, 2, "other versions are not known ones")

	w.clock.Advance(time.Hour)
	w.put(configuration("c", "second"))
	_, contents = read(vector)
	require.Equal(w, map[string][]ddm.Item{"b": {w.item("c"), w.item("d")}}, contents, "only what has changed")
	w.remove("a", "a")
	w.remove("a", "d")
	after, contents := read(vector)
	require.NotContains(w, contents, "a", "it holds nothing now")
	require.NotEqual(w, vector[0].Version, after[0].Version)

	w.unassign("e", "b")
	vector, contents, err = w.store.VectorContents(w.ctx, "e", after)
	require.NoError(w, err)
	require.Len(w, vector, 2)
	require.Empty(w, contents)
}

func vectorOfManySets(w *world) {
	w.put(configuration("d", "x"))
	var known storage.Vector
	for i := range 230 {
		set := fmt.Sprintf("set%03d", i)
		w.add(set, "d")
		w.assign("e", set)
	}
	w.assign("e", strings.Repeat("z", 255))
	vector, contents, err := w.store.VectorContents(w.ctx, "e", known)
	require.NoError(w, err)
	require.Len(w, vector, 231)
	require.Len(w, contents, 230)
	_, contents, err = w.store.VectorContents(w.ctx, "e", vector)
	require.NoError(w, err)
	require.LessOrEqual(w, len(contents), 30, "some may be read again, but no others are left out")
	w.put(configuration("d", "y"))
	_, contents, err = w.store.VectorContents(w.ctx, "e", vector)
	require.NoError(w, err)
	require.Len(w, contents, 230)
}

func declarationVersions(w *world) {
	version := func(token string) (string, error) {
		declaration, err := w.store.DeclarationVersion(w.ctx, "d", token)
		if err != nil {
			return "", err
		}
		require.Equal(w, token, declaration.ServerToken)
		require.Equal(w, "d", declaration.Identifier)
		return string(declaration.Payload), nil
	}
	_, err := version("unknown")
	require.ErrorIs(w, err, storage.ErrNotFound)
	w.put(withPayload("d", `{"A":1}`))
	first := w.declaration("d").ServerToken
	w.put(withPayload("d", `{"A":2}`))
	second := w.declaration("d").ServerToken
	w.touch("d")
	touched := w.declaration("d").ServerToken
	w.put(withPayload("other", `{"A":3}`))

	wanted := map[string]string{first: `{"A":1}`, second: `{"A":2}`, touched: `{"A":2}`}
	for token, payload := range wanted {
		found, err := version(token)
		require.NoError(w, err)
		require.Equal(w, payload, found)
	}
	_, err = version(w.declaration("other").ServerToken)
	require.ErrorIs(w, err, storage.ErrNotFound, "it is another declaration's")
	_, err = version(strings.ToUpper(first) + " ")
	require.ErrorIs(w, err, storage.ErrNotFound)

	w.deleteDeclaration("d")
	for token, payload := range wanted {
		found, err := version(token)
		require.NoError(w, err, "it can still be fetched")
		require.Equal(w, payload, found)
	}
}

func manifests(w *world) {
	_, err := w.store.Manifest(w.ctx, "token")
	require.ErrorIs(w, err, storage.ErrNotFound)
	items := (&ddm.Composition{Token: "token", Items: []ddm.Item{
		{Class: ddm.ClassAsset, Identifier: "é😀\"\\", ServerToken: "t"},
	}}).DeclarationItemsJSON()
	for range 2 {
		require.NoError(w, w.store.SaveManifest(w.ctx, "token", items))
		found, err := w.store.Manifest(w.ctx, "token")
		require.NoError(w, err)
		require.Equal(w, string(items), string(found))
	}
	_, err = w.store.Manifest(w.ctx, "TOKEN")
	require.ErrorIs(w, err, storage.ErrNotFound)
}

// collect checks that nothing goes before its time, and that what is in use again stays.
func collect(w *world) {
	const day = 24 * time.Hour
	w.store = w.open(w.keeping(-1))
	put := func(identifier, text string) (token string) {
		w.put(configuration(identifier, text))
		return w.declaration(identifier).ServerToken
	}
	kept := func(identifier, token string) bool {
		_, err := w.store.DeclarationVersion(w.ctx, identifier, token)
		if err != nil {
			require.ErrorIs(w, err, storage.ErrNotFound)
		}
		return err == nil
	}
	keptManifest := func(token string) bool {
		_, err := w.store.Manifest(w.ctx, token)
		if err != nil {
			require.ErrorIs(w, err, storage.ErrNotFound)
		}
		return err == nil
	}
	collect := func() {
		more, err := w.store.Collect(w.ctx, day, 100)
		require.NoError(w, err)
		require.False(w, more)
	}
	collect() // nothing is there
	first, second := put("d", "first"), put("d", "second")
	current := put("current", "x")
	again := put("again", "x")
	put("again", "y")
	deleted := put("deleted", "x")
	w.deleteDeclaration("deleted")
	for _, token := range []string{"old", "served"} {
		require.NoError(w, w.store.SaveManifest(w.ctx, token, []byte("{}")))
	}

	w.clock.Advance(day)
	collect()
	require.True(w, kept("d", first), "it is not older than a day")
	require.True(w, kept("deleted", deleted))
	require.True(w, keptManifest("old"))

	require.Equal(w, again, put("again", "x"), "current again")
	require.NoError(w, w.store.SaveManifest(w.ctx, "served", []byte("{}")))
	third := put("d", "third")
	w.clock.Advance(time.Millisecond)
	collect()
	require.False(w, kept("d", first))
	require.False(w, kept("deleted", deleted))
	require.False(w, keptManifest("old"))
	require.True(w, kept("d", second), "it was replaced just now, however old it is")
	require.True(w, kept("again", again))
	require.True(w, keptManifest("served"))

	w.clock.Advance(1000 * day)
	collect()
	require.False(w, kept("d", second))
	require.False(w, keptManifest("served"))
	require.True(w, kept("d", third), "what is current stays for ever")
	require.True(w, kept("current", current))
	require.Equal(w, first, put("d", "first"), "a version that was collected can come back")
	require.True(w, kept("d", first))
}

func collectLimit(w *world) {
	w.store = w.open(w.keeping(-1))
	for i := range 5 {
		require.NoError(w, w.store.SaveManifest(w.ctx, fmt.Sprint(i), []byte("{}")))
		w.put(configuration("d", fmt.Sprint(i)))
	}
	w.clock.Advance(time.Hour)
	for calls := 1; ; calls++ {
		more, err := w.store.Collect(w.ctx, time.Minute, 2)
		require.NoError(w, err)
		if !more {
			require.LessOrEqual(w, calls, 4)
			break
		}
		require.Equal(w, max(0, 5-2*calls), w.count(`SELECT COUNT(*) FROM manifests`))
	}
	require.Zero(w, w.count(`SELECT COUNT(*) FROM manifests`))
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM declaration_versions`))
}
