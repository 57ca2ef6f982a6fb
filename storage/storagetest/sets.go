package storagetest

import (
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var setTests = []test{
	{"SetMembership", setMembership},
	{"EnrollmentSets", enrollmentSets},
	{"SetVersions", setVersions},
	{"NamesAreBytes", namesAreBytes},
	{"NamesThatAreTooLong", namesThatAreTooLong},
	{"Pages", pages},
}

var all = storage.Page{Limit: 1000}

func (w *world) setNames() []string {
	w.Helper()
	names, err := w.store.SetNames(w.ctx, all)
	require.NoError(w, err)
	return names
}

func (w *world) setDeclarations(set string) []string {
	w.Helper()
	identifiers, err := w.store.SetDeclarations(w.ctx, set, all)
	require.NoError(w, err)
	return identifiers
}

func (w *world) enrollmentSets(id string) []string {
	w.Helper()
	names, err := w.store.EnrollmentSets(w.ctx, id, all)
	require.NoError(w, err)
	return names
}

func setMembership(w *world) {
	_, err := w.store.PutSetDeclaration(w.ctx, "s", "d", change)
	require.ErrorIs(w, err, storage.ErrNotFound)
	require.Empty(w, w.setNames())
	require.Empty(w, w.setDeclarations("s"))
	require.NotNil(w, w.setDeclarations("s"), "an empty list, in JSON too")
	require.False(w, w.remove("s", "d"))

	w.put(configuration("d", "x"))
	w.put(configuration("e", "x"))
	require.True(w, w.add("s", "d"))
	require.False(w, w.add("s", "d"))
	require.True(w, w.add("s", "e"))
	require.True(w, w.add("t", "d"))
	require.Equal(w, []string{"s", "t"}, w.setNames())
	require.Equal(w, []string{"d", "e"}, w.setDeclarations("s"))
	sets, err := w.store.DeclarationSets(w.ctx, "d", all)
	require.NoError(w, err)
	require.Equal(w, []string{"s", "t"}, sets)
	sets, err = w.store.DeclarationSets(w.ctx, "unknown", all)
	require.NoError(w, err)
	require.Empty(w, sets)

	require.True(w, w.remove("t", "d"))
	require.False(w, w.remove("t", "d"))
	require.False(w, w.remove("unknown", "d"))
	require.False(w, w.remove("s", "unknown"))
	require.Equal(w, []string{"s"}, w.setNames(), "a set that holds nothing is not listed")
	require.Equal(w, []string{"d", "e"}, w.setDeclarations("s"))
}

func enrollmentSets(w *world) {
	require.Empty(w, w.enrollmentSets("e"))
	require.False(w, w.unassign("e", "s"))
	changed, err := w.store.DeleteEnrollmentSets(w.ctx, "e", change)
	require.NoError(w, err)
	require.False(w, changed)
	enrollment, vector, err := w.store.Enrollment(w.ctx, "e")
	require.NoError(w, err)
	require.Equal(w, "e", enrollment.ID)
	require.False(w, enrollment.Known, "looking makes no row, nor does taking away what was not there")
	require.Empty(w, vector)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM enrollments`))

	require.True(w, w.assign("e", "empty"), "a set need not hold anything")
	require.False(w, w.assign("e", "empty"))
	require.True(w, w.assign("e", "other"))
	require.True(w, w.assign("f", "other"))
	require.Equal(w, []string{"empty", "other"}, w.enrollmentSets("e"))
	require.Empty(w, w.setNames())
	enrollment = w.enrollment("e")
	require.True(w, enrollment.Known)
	require.True(w, enrollment.CreatedAt.Equal(w.clock.Now()))
	require.EqualValues(w, 2, enrollment.NotifySeq, "what changed nothing marks nobody")

	require.True(w, w.unassign("e", "other"))
	require.False(w, w.unassign("e", "other"))
	require.False(w, w.unassign("e", "unknown"))
	require.Equal(w, []string{"other"}, w.enrollmentSets("f"))
	w.assign("e", "third")
	changed, err = w.store.DeleteEnrollmentSets(w.ctx, "e", change)
	require.NoError(w, err)
	require.True(w, changed)
	changed, err = w.store.DeleteEnrollmentSets(w.ctx, "e", change)
	require.NoError(w, err)
	require.False(w, changed)
	require.Empty(w, w.enrollmentSets("e"))
	require.True(w, w.enrollment("e").Known)
	require.EqualValues(w, 5, w.enrollment("e").NotifySeq)
	require.EqualValues(w, 1, w.enrollment("f").NotifySeq)
}

// setVersions checks that the version of a set changes with its content and with nothing else, and never returns.
func setVersions(w *world) {
	w.put(configuration("d", "first"))
	w.put(configuration("other", "first"))
	w.put(activation("a", "d"))
	w.assign("e", "s")
	w.assign("e", "t")
	w.add("t", "other")
	version := func(set string) storage.SetVersion {
		vector := w.vector("e")
		require.Len(w, vector, 2)
		require.Equal(w, []string{"s", "t"}, []string{vector[0].Name, vector[1].Name})
		return vector[slices.Index([]string{"s", "t"}, set)]
	}
	seen := map[int64]string{version("s").Version: "creation"}
	for _, step := range []struct {
		name    string
		changes bool
		do      func()
	}{
		{"a declaration is added", true, func() { w.add("s", "d") }},
		{"it is added again", false, func() { w.add("s", "d") }},
		{"the same content is put", false, func() { w.put(configuration("d", "first")) }},
		{"other content is put", true, func() { w.put(configuration("d", "second")) }},
		{"undo", true, func() { w.put(configuration("d", "first")) }},
		{"touch", true, func() { w.touch("d") }},
		{"a change that tells nobody", true, func() {
			_, err := w.store.PutDeclaration(w.ctx, configuration("d", "third"), held)
			require.NoError(w, err)
		}},
		{"a declaration of another set changes", false, func() { w.put(configuration("other", "second")) }},
		{"what refers to the declaration changes", false, func() { w.put(activation("a")) }},
		{"the set is assigned", false, func() { w.assign("f", "s") }},
		{"the set is taken away", false, func() { w.unassign("f", "s") }},
		{"a notification", false, func() { w.notify(storage.NotifyTargets{Sets: []string{"s"}}) }},
		{"fan-outs", false, w.drain},
		{"a failed change", false, func() {
			_, err := w.store.DeleteDeclaration(w.ctx, "d", change)
			require.Error(w, err)
		}},
		{"a second declaration is added", true, func() { w.add("s", "other") }},
		{"it is removed", true, func() { w.remove("s", "other") }},
		{"it is removed again", false, func() { w.remove("s", "other") }},
		{"the set becomes empty", true, func() { w.remove("s", "d") }},
		{"the set is filled again", true, func() { w.add("s", "d") }},
		{"a declaration is recreated", true, func() {
			w.remove("s", "d")
			w.deleteDeclaration("d")
			w.put(configuration("d", "first"))
			w.add("s", "d")
		}},
	} {
		before := version("s")
		w.clock.Advance(time.Second)
		step.do()
		after := version("s")
		if !step.changes {
			require.Equal(w, before, after, step.name)
			continue
		}
		require.NotContains(w, seen, after.Version, step.name)
		seen[after.Version] = step.name
		require.True(w, after.ChangedAt.Equal(w.clock.Now()), "%s: changed at %v", step.name, after.ChangedAt)
	}

	// Versions are random: other databases' have nothing in common with them.
	for version := range seen {
		require.Greater(w, version, int64(1000), "this looks like a counter")
	}
}

// strangeNames differ in what databases like to treat as the same.
var strangeNames = []string{
	"a", "A", "á", "a\u0301", "Á", "å", "ä", "ae", "æ", "ss", "ß", "ẞ", "ﬁ", "fi", "i", "ı", "İ", "I",
	"a ", " a", "a  ", "a\u00a0", "a\u2003", "a\u200b", "a\t", "a\x00", "a\x00b", "a\x01", "a.", "a/b", "a\\b", "a'b", `a"b`,
	"a%", "a_", "%", "_", "*", "0", "00", "1e0", "1", "NULL", "😀", "😁", "中", "\u007f", "a?b", "a--b", "a;b", "$1", ":a", "@a",
	strings.Repeat("x", 254), strings.Repeat("x", 255), strings.Repeat("x", 254) + "y", strings.Repeat("é", 127) + "e",
	strings.Repeat("😀", 63) + "abc",
}

func namesAreBytes(w *world) {
	for _, name := range strangeNames {
		require.LessOrEqual(w, len(name), 255)
		require.True(w, w.put(configuration(name, "of "+name)), "%q", name)
		require.True(w, w.add(name, name), "%q", name)
		require.True(w, w.assign(name, name), "%q", name)
	}
	sorted := slices.Sorted(slices.Values(strangeNames))
	identifiers, err := w.store.DeclarationIdentifiers(w.ctx, all)
	require.NoError(w, err)
	require.Equal(w, sorted, identifiers)
	require.Equal(w, sorted, w.setNames())
	w.drain()
	require.Equal(w, sorted, w.claim(storage.Lease{ID: 1, Duration: timeout}))
	for _, name := range strangeNames {
		require.Equal(w, configuration(name, "of "+name).Payload, w.declaration(name).Payload, "%q", name)
		require.Equal(w, []string{name}, w.setDeclarations(name), "%q", name)
		require.Equal(w, []string{name}, w.enrollmentSets(name), "%q", name)
		vector, contents, err := w.store.VectorContents(w.ctx, name, nil)
		require.NoError(w, err)
		require.Len(w, vector, 1, "%q", name)
		require.Equal(w, name, vector[0].Name)
		require.Len(w, contents[name], 1)
		require.Equal(w, name, contents[name][0].Identifier)
	}
	for i, name := range strangeNames {
		require.True(w, w.unassign(name, name), "%q", name)
		require.True(w, w.remove(name, name), "%q", name)
		require.True(w, w.deleteDeclaration(name), "%q", name)
		require.Len(w, w.setNames(), len(strangeNames)-i-1, "%q", name)
	}
}

// namesThatAreTooLong checks that they are refused or kept, and never cut: cut, they would be other names.
func namesThatAreTooLong(w *world) {
	name := strings.Repeat("x", 256)
	for _, create := range []func() error{
		func() error { return w.store.Notify(w.ctx, storage.NotifyTargets{Enrollments: []string{name}}, change) },
		func() error { return w.store.UpdateDevice(w.ctx, storage.DeviceUpdate{ID: name, Create: true}) },
		func() error {
			_, err := w.store.PutEnrollmentSet(w.ctx, "e", name, change)
			return err
		},
	} {
		if err := create(); err != nil {
			require.NotErrorIs(w, err, storage.ErrNotFound)
		}
	}
	require.False(w, w.enrollment(name[:255]).Known)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM sets WHERE name = ?`, name[:255]))
	require.NotContains(w, w.enrollmentSets("e"), name[:255])
}

func pages(w *world) {
	w.put(configuration("d", "x"))
	names := []string{"B", "a", "a/b", "ab", "b", "é", "z", "😀"}
	for _, i := range []int{3, 0, 7, 5, 1, 6, 2, 4} {
		w.put(configuration(names[i], "x"))
		w.add(names[i], "d")
		w.add("set", names[i])
		w.assign("enrollment", names[i])
	}
	for list, read := range map[string]func(page storage.Page) ([]string, error){
		"DeclarationIdentifiers": func(page storage.Page) ([]string, error) {
			return w.store.DeclarationIdentifiers(w.ctx, page)
		},
		"DeclarationSets": func(page storage.Page) ([]string, error) { return w.store.DeclarationSets(w.ctx, "d", page) },
		"SetNames":        func(page storage.Page) ([]string, error) { return w.store.SetNames(w.ctx, page) },
		"SetDeclarations": func(page storage.Page) ([]string, error) { return w.store.SetDeclarations(w.ctx, "set", page) },
		"EnrollmentSets": func(page storage.Page) ([]string, error) {
			return w.store.EnrollmentSets(w.ctx, "enrollment", page)
		},
	} {
		wanted := slices.Clone(names)
		switch list {
		case "DeclarationIdentifiers":
			wanted = append(wanted, "d")
		case "SetNames":
			wanted = append(wanted, "set")
		}
		slices.Sort(wanted)
		for limit := 1; limit <= len(wanted)+1; limit++ {
			var found []string
			for page := (storage.Page{Limit: limit}); ; page.After = found[len(found)-1] {
				more, err := read(page)
				require.NoError(w, err)
				require.LessOrEqual(w, len(more), limit)
				if len(more) == 0 {
					break
				}
				found = append(found, more...)
			}
			require.Equal(w, wanted, found, "%s by %d", list, limit)
		}
		after, err := read(storage.Page{After: "a/", Limit: 2})
		require.NoError(w, err)
		require.Equal(w, []string{"a/b", "ab"}, after, list)
	}
}
