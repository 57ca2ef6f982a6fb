package storagetest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var changePageTests = []test{
	{"ChangePages", changePages},
	{"ChangePagesLookAtABoundedNumber", changePagesLookAtABoundedNumber},
	{"ChangesBetweenTimes", changesBetweenTimes},
	{"ChangesAreTrimmed", changesAreTrimmed},
	{"TrimmedAtTheirEnd", trimmedAtTheirEnd},
	{"TrimmedOnceBehindTheRest", trimmedOnceBehindTheRest},
}

// changeCrowd makes changes of all kinds by two keys, and returns all rows, the newest first.
func (w *world) changeCrowd() []storage.Change {
	w.Helper()
	for i := range 24 {
		options := storage.ChangeOptions{ChangeID: fmt.Sprint("change-", i), By: fmt.Sprint("key-", i%2)}
		declaration, set, id := fmt.Sprint("d", i%3), fmt.Sprint("s", i%4), fmt.Sprint("e", i%5)
		_, err := w.store.PutDeclaration(w.ctx, configuration(declaration, fmt.Sprint(i)), options)
		require.NoError(w, err)
		_, err = w.store.PutSetDeclaration(w.ctx, set, declaration, options)
		require.NoError(w, err)
		_, err = w.store.PutEnrollmentSet(w.ctx, id, set, options)
		require.NoError(w, err)
		if i%3 == 0 {
			w.clock.Advance(time.Second) // some have the same time
		}
	}
	all := w.changes(storage.ChangeQuery{})
	require.True(w, slices.IsSortedFunc(all, func(a, b storage.Change) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.ID, a.ID))
	}))
	require.Len(w, all, 24+12+20)
	return all
}

// changePages: every filter, and all of them together, select what they say, whatever the size of a page.
func changePages(w *world) {
	all := w.changeCrowd()
	selected := func(fits func(storage.Change) bool) []storage.Change {
		return slices.DeleteFunc(slices.Clone(all), func(c storage.Change) bool { return !fits(c) })
	}
	for _, story := range []struct {
		query storage.ChangeQuery
		fits  func(c storage.Change) bool
		found int
	}{
		{storage.ChangeQuery{}, func(storage.Change) bool { return true }, len(all)},
		{storage.ChangeQuery{ChangeID: "change-3"}, func(c storage.Change) bool { return c.ChangeID == "change-3" }, 3},
		{storage.ChangeQuery{By: "key-1"}, func(c storage.Change) bool { return c.By == "key-1" }, 28},
		{storage.ChangeQuery{Declaration: "d2"}, func(c storage.Change) bool { return c.Declaration == "d2" }, 12},
		{storage.ChangeQuery{Set: "s1"}, func(c storage.Change) bool { return c.Set == "s1" }, 8},
		{storage.ChangeQuery{EnrollmentID: "e4"}, func(c storage.Change) bool { return c.EnrollmentID == "e4" }, 4},
		{storage.ChangeQuery{Action: "set-declaration.put"}, func(c storage.Change) bool { return c.Action == "set-declaration.put" }, 12},
		{storage.ChangeQuery{Declaration: "d2", Set: "s1"}, func(c storage.Change) bool { return c.Declaration == "d2" && c.Set == "s1" }, 1},
		{storage.ChangeQuery{By: "key-0", Action: "declaration.put", Declaration: "d0"}, func(c storage.Change) bool {
			return c.By == "key-0" && c.Action == "declaration.put" && c.Declaration == "d0"
		}, 4},
		{storage.ChangeQuery{By: "nobody"}, func(storage.Change) bool { return false }, 0},
		{storage.ChangeQuery{By: "KEY-0"}, func(storage.Change) bool { return false }, 0},
		{storage.ChangeQuery{By: "key-0", Set: "none"}, func(storage.Change) bool { return false }, 0},
		{storage.ChangeQuery{ChangeID: "change-3", Declaration: "d0", By: "key-1", Set: "s3", Action: "set-declaration.put"},
			func(c storage.Change) bool { return c.ChangeID == "change-3" && c.Action == "set-declaration.put" }, 1},
	} {
		wanted := selected(story.fits)
		require.Len(w, wanted, story.found, "%+v", story.query)
		for _, limit := range []int{1, 2, 7, 1000} {
			story.query.Limit = limit
			require.Equal(w, wanted, append([]storage.Change{}, w.changes(story.query)...), "%+v", story.query)
		}
	}
	// One that is there when the pages begin is on one of them, whatever comes meanwhile.
	var seen []storage.Change
	for query := (storage.ChangeQuery{Limit: 5}); ; {
		page, next, err := w.store.Changes(w.ctx, query)
		require.NoError(w, err)
		seen = append(seen, page...)
		w.assign(fmt.Sprint("new-", len(seen)), "s1")
		if next == nil {
			break
		}
		query.After = *next
	}
	require.Equal(w, all, seen)
}

// changePagesLookAtABoundedNumber: a page of what hardly ever occurs together is short, and the next ones find it.
func changePagesLookAtABoundedNumber(w *world) {
	options := w.options()
	options.MaxLooked = 4
	w.store = w.open(options)
	all := w.changeCrowd()
	query := storage.ChangeQuery{By: "key-0", Action: "set-declaration.put", Limit: 100}
	var found []storage.Change
	pages := 1
	for ; ; pages++ {
		page, next, err := w.store.Changes(w.ctx, query)
		require.NoError(w, err)
		require.LessOrEqual(w, len(page), 4)
		found = append(found, page...)
		if next == nil {
			break
		}
		query.After = *next
	}
	require.Equal(w, slices.DeleteFunc(slices.Clone(all), func(c storage.Change) bool {
		return c.By != "key-0" || c.Action != "set-declaration.put"
	}), found)
	require.GreaterOrEqual(w, pages, 7, "28 rows of the key")
}

// changesBetweenTimes: from the first time on, and before the last.
func changesBetweenTimes(w *world) {
	start := w.clock.Now()
	for range 6 {
		w.assign(fmt.Sprint(w.clock.Now()), "s")
		w.assign(fmt.Sprint(w.clock.Now()), "t")
		w.clock.Advance(time.Second)
	}
	second := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	count := func(query storage.ChangeQuery) int {
		w.Helper()
		all := w.changes(query)
		query.Limit = 1
		require.Equal(w, all, w.changes(query))
		return len(all)
	}
	require.Equal(w, 12, count(storage.ChangeQuery{}))
	require.Equal(w, 8, count(storage.ChangeQuery{Since: second(2)}))
	require.Equal(w, 6, count(storage.ChangeQuery{Since: second(2).Add(time.Nanosecond)}))
	require.Equal(w, 4, count(storage.ChangeQuery{Until: second(2)}))
	require.Equal(w, 6, count(storage.ChangeQuery{Until: second(2).Add(time.Nanosecond)}))
	require.Equal(w, 4, count(storage.ChangeQuery{Since: second(1), Until: second(3)}))
	require.Equal(w, 2, count(storage.ChangeQuery{Since: second(1), Until: second(3), Set: "s"}))
	require.Equal(w, 2, count(storage.ChangeQuery{Since: second(1), Until: second(3), Set: "s", By: "key"}))
	require.Zero(w, count(storage.ChangeQuery{Since: second(3), Until: second(3)}))
	require.Zero(w, count(storage.ChangeQuery{Since: second(3), Until: second(1)}))
	require.Zero(w, count(storage.ChangeQuery{Since: second(100)}))
	require.Equal(w, 12, count(storage.ChangeQuery{Until: second(100_000_000)}))
}

// changesAreTrimmed: the newest stay, and what is done to many enrollments does not push out what is done to declarations.
func changesAreTrimmed(w *world) {
	options := w.options()
	options.KeepChanges = 5
	w.store = w.open(options)
	collect := func() {
		w.Helper()
		_, err := w.store.Collect(w.ctx, time.Hour, 3)
		require.NoError(w, err)
	}
	var texts []string
	for i := range 8 {
		w.put(configuration("d", fmt.Sprint(i)))
		texts = append(texts, w.declaration("d").ServerToken)
	}
	for i := range 30 {
		w.assign(fmt.Sprint("e", i), "s")
	}
	collect()
	left := func(query storage.ChangeQuery) (subjects []string) {
		for _, change := range w.changes(query) {
			subjects = append(subjects, change.EnrollmentID+change.ToToken)
		}
		return subjects
	}
	slices.Reverse(texts)
	require.Equal(w, texts[:5], left(storage.ChangeQuery{Declaration: "d"}))
	require.Equal(w, []string{"e29", "e28", "e27", "e26", "e25"}, left(storage.ChangeQuery{Set: "s"}))
	require.Equal(w, 10, w.count(`SELECT COUNT(*) FROM changes`))
	collect()
	require.Equal(w, 10, w.count(`SELECT COUNT(*) FROM changes`))
	// Ids have gaps, which count for nothing.
	_, err := w.database.SQL.ExecContext(w.ctx, `UPDATE changes SET id = id + 1000 WHERE enrollment_id = 'e29'`)
	require.NoError(w, err)
	collect()
	require.Equal(w, 10, w.count(`SELECT COUNT(*) FROM changes`))
}

// trimmedAtTheirEnd: what waits for fan-outs stays until these are done, and holds nothing else up.
func trimmedAtTheirEnd(w *world) {
	options := w.options()
	options.KeepChanges = 2
	w.store = w.open(options)
	collect := func() {
		w.Helper()
		_, err := w.store.Collect(w.ctx, time.Hour, 2)
		require.NoError(w, err)
	}
	w.assignAll("s", "a", "b", "c")
	w.fill("s", "d")
	w.settle()
	w.put(configuration("e", "first"))
	for range 5 {
		w.touch("d")
	}
	w.put(configuration("e", "second"))
	w.advance(1)
	collect()
	require.Len(w, w.changes(storage.ChangeQuery{Declaration: "d"}), 5)
	require.Len(w, w.changes(storage.ChangeQuery{Declaration: "e"}), 1)
	require.Equal(w, 5, w.count(`SELECT COUNT(*) FROM change_fanouts`))
	w.drain()
	for _, change := range w.changes(storage.ChangeQuery{Declaration: "d"}) {
		require.Equal(w, reached(3), change.Reach)
	}
	collect()
	require.Len(w, w.changes(storage.ChangeQuery{Declaration: "d"}), 1)
	require.Len(w, w.changes(storage.ChangeQuery{Declaration: "e"}), 1)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM change_fanouts`))
}

// trimmedOnceBehindTheRest: the log is not counted at each step of what else there is to collect.
func trimmedOnceBehindTheRest(w *world) {
	options := w.options()
	options.KeepChanges = 2
	w.store = w.open(options)
	for i := range 6 {
		w.put(configuration("d", fmt.Sprint(i)))
		require.NoError(w, w.store.SaveManifest(w.ctx, fmt.Sprint(i), []byte("{}")))
	}
	w.clock.Advance(time.Hour)
	left := func() int { return w.count(`SELECT COUNT(*) FROM changes`) }
	steps := 0
	for more := true; more; steps++ {
		require.Equal(w, 6, left())
		var err error
		more, err = w.store.Collect(w.ctx, time.Minute, 2)
		require.NoError(w, err)
	}
	require.Greater(w, steps, 2)
	require.Equal(w, 2, left())
}
