package storagetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

var changeTests = []test{
	{"ChangesOfEachKind", changesOfEachKind},
	{"ChangesOfEvents", changesOfEvents},
	{"ChangesOfImports", changesOfImports},
	{"ChangesThatAreUndone", changesThatAreUndone},
	{"ReachOfMergedFanouts", reachOfMergedFanouts},
	{"ReachThroughSeveralSets", reachThroughSeveralSets},
	{"ReachOfMoreThanAPage", reachOfMoreThanAPage},
	{"ChangePages", changePages},
	{"ChangePagesLookAtABoundedNumber", changePagesLookAtABoundedNumber},
	{"ChangesBetweenTimes", changesBetweenTimes},
	{"ChangesAreTrimmed", changesAreTrimmed},
	{"TrimmedAtTheirEnd", trimmedAtTheirEnd},
}

// changes returns all rows that fit a query, the newest first, by pages of that limit.
func (w *world) changes(query storage.ChangeQuery) []storage.Change {
	w.Helper()
	if query.Limit == 0 {
		query.Limit = 1000
	}
	var all []storage.Change
	for {
		page, next, err := w.store.Changes(w.ctx, query)
		require.NoError(w, err)
		require.LessOrEqual(w, len(page), query.Limit)
		all = append(all, page...)
		if next == nil {
			return all
		}
		query.After = *next
	}
}

// newest returns the newest rows of the log, the oldest of them first, without their ids and times.
func (w *world) newest(n int) []storage.Change {
	w.Helper()
	page, _, err := w.store.Changes(w.ctx, storage.ChangeQuery{Limit: n})
	require.NoError(w, err)
	require.Len(w, page, n)
	for i := range page {
		require.True(w, page[i].At.Equal(w.clock.Now()))
		page[i].ID, page[i].At = 0, time.Time{}
	}
	slices.Reverse(page)
	return page
}

// reached is the reach of a change that is finished.
func reached(enrollments int64) *storage.Reach {
	return &storage.Reach{Enrollments: enrollments, Finished: true}
}

// waits is the reach of a change that is not.
func waits(enrollments int64) *storage.Reach { return &storage.Reach{Enrollments: enrollments} }

// changesOfEachKind does everything that can be done, and in between what changes nothing: each change is one row, which
// tells it.
func changesOfEachKind(w *world) {
	options := storage.ChangeOptions{ChangeID: "id", By: "somebody"}
	quiet := storage.ChangeOptions{ChangeID: "id", By: "somebody", Held: true}
	token := func() string { return w.declaration("d").ServerToken }
	var before string
	put := func(text string) func() (bool, error) {
		return func() (bool, error) { return w.store.PutDeclaration(w.ctx, configuration("d", text), options) }
	}
	for _, step := range []struct {
		name   string
		change func() (bool, error)
		wanted func() storage.Change
	}{
		{"create", put("first"), func() storage.Change {
			return storage.Change{Action: "declaration.put", Declaration: "d", ToToken: token(), Reach: reached(0)}
		}},
		{"put the same", put("first"), nil},
		{"put", put("second"), func() storage.Change {
			return storage.Change{Action: "declaration.put", Declaration: "d", FromToken: before, ToToken: token(), Reach: reached(0)}
		}},
		{"refer to what is not there", func() (bool, error) {
			_, err := w.store.PutDeclaration(w.ctx, activation("a", "missing"), options)
			return false, ignore[*storage.MissingReferencesError](err)
		}, nil},
		{"touch", func() (bool, error) { return true, w.store.TouchDeclaration(w.ctx, "d", quiet) }, func() storage.Change {
			return storage.Change{
				Action: "declaration.touch", Declaration: "d", FromToken: before, ToToken: token(), Held: true, Reach: reached(0),
			}
		}},
		{"add", func() (bool, error) { return w.store.PutSetDeclaration(w.ctx, "s", "d", options) }, func() storage.Change {
			return storage.Change{Action: "set-declaration.put", Set: "s", Declaration: "d", Reach: waits(0)}
		}},
		{"add again", func() (bool, error) { return w.store.PutSetDeclaration(w.ctx, "s", "d", options) }, nil},
		{"delete what is in use", func() (bool, error) {
			_, err := w.store.DeleteDeclaration(w.ctx, "d", options)
			return false, ignore[*storage.InUseError](err)
		}, nil},
		{"take out", func() (bool, error) { return w.store.DeleteSetDeclaration(w.ctx, "s", "d", quiet) }, func() storage.Change {
			return storage.Change{Action: "set-declaration.delete", Set: "s", Declaration: "d", Held: true, Reach: waits(0)}
		}},
		{"take out again", func() (bool, error) { return w.store.DeleteSetDeclaration(w.ctx, "s", "d", options) }, nil},
		{"delete", func() (bool, error) { return w.store.DeleteDeclaration(w.ctx, "d", quiet) }, func() storage.Change {
			return storage.Change{Action: "declaration.delete", Declaration: "d", FromToken: before, Reach: reached(0)}
		}},
		{"delete again", func() (bool, error) { return w.store.DeleteDeclaration(w.ctx, "d", options) }, nil},
		{"roll back to what never was", func() (bool, error) {
			_, err := w.store.RollbackDeclaration(w.ctx, "d", "unknown", options)
			require.ErrorIs(w, err, storage.ErrNotFound)
			return false, nil
		}, nil},
		{"touch what is not there", func() (bool, error) {
			err := w.store.TouchDeclaration(w.ctx, "d", options)
			require.ErrorIs(w, err, storage.ErrNotFound)
			return false, nil
		}, nil},
		{"create again", put("third"), func() storage.Change {
			return storage.Change{Action: "declaration.put", Declaration: "d", ToToken: token(), Reach: reached(0)}
		}},
		{"roll back", func() (bool, error) {
			first := ddm.ServerToken(configuration("d", "first").ContentHash(), 0)
			return w.store.RollbackDeclaration(w.ctx, "d", first, quiet)
		}, func() storage.Change {
			return storage.Change{
				Action: "declaration.rollback", Declaration: "d", FromToken: before, ToToken: token(), Held: true, Reach: reached(0),
			}
		}},
		{"roll back to the same", func() (bool, error) {
			return w.store.RollbackDeclaration(w.ctx, "d", token(), options)
		}, nil},
		{"assign", func() (bool, error) { return w.store.PutEnrollmentSet(w.ctx, "e", "s", quiet) }, func() storage.Change {
			return storage.Change{Action: "enrollment-set.put", EnrollmentID: "e", Set: "s", Held: true, Reach: reached(1)}
		}},
		{"assign again", func() (bool, error) { return w.store.PutEnrollmentSet(w.ctx, "e", "s", options) }, nil},
		{"take away", func() (bool, error) { return w.store.DeleteEnrollmentSet(w.ctx, "e", "s", options) }, func() storage.Change {
			return storage.Change{Action: "enrollment-set.delete", EnrollmentID: "e", Set: "s", Reach: reached(1)}
		}},
		{"take away again", func() (bool, error) { return w.store.DeleteEnrollmentSet(w.ctx, "e", "s", options) }, nil},
		{"take away all of none", func() (bool, error) { return w.store.DeleteEnrollmentSets(w.ctx, "e", options) }, nil},
		{"take away all", func() (bool, error) {
			for _, set := range []string{"s", "t"} {
				_, err := w.store.PutEnrollmentSet(w.ctx, "e", set, change)
				require.NoError(w, err)
			}
			return w.store.DeleteEnrollmentSets(w.ctx, "e", options)
		}, func() storage.Change {
			return storage.Change{Action: "enrollment-sets.delete", EnrollmentID: "e", Amount: 2, Reach: reached(1)}
		}},
		{"notify one", func() (bool, error) {
			return true, w.store.Notify(w.ctx, storage.NotifyTargets{Enrollments: []string{"e"}}, quiet)
		}, func() storage.Change {
			return storage.Change{Action: "notify", EnrollmentID: "e", Reach: reached(1)}
		}},
		{"notify many", func() (bool, error) {
			return true, w.store.Notify(w.ctx, storage.NotifyTargets{
				Enrollments: []string{"e", "f", "e"}, Sets: []string{"s"}, Declarations: []string{"d", "unknown"},
			}, options)
		}, func() storage.Change {
			return storage.Change{Action: "notify", Set: "s", Amount: 5, Reach: waits(2)}
		}},
		{"forget", func() (bool, error) { return w.store.DeleteEnrollment(w.ctx, "e", quiet) }, func() storage.Change {
			return storage.Change{Action: "enrollment.delete", EnrollmentID: "e", Reach: reached(0)}
		}},
		{"forget again", func() (bool, error) { return w.store.DeleteEnrollment(w.ctx, "e", options) }, nil},
	} {
		w.clock.Advance(time.Second)
		if d, err := w.store.Declaration(w.ctx, "d"); err == nil {
			before = d.ServerToken
		}
		rows := len(w.changes(storage.ChangeQuery{By: "somebody"}))
		changed, err := step.change()
		require.NoError(w, err, step.name)
		require.Equal(w, step.wanted != nil, changed, step.name)
		if step.wanted == nil {
			require.Len(w, w.changes(storage.ChangeQuery{By: "somebody"}), rows, step.name)
			continue
		}
		require.Len(w, w.changes(storage.ChangeQuery{By: "somebody"}), rows+1, step.name)
		wanted := step.wanted()
		wanted.ChangeID, wanted.By = "id", "somebody"
		require.Equal(w, []storage.Change{wanted}, w.newest(1), step.name)
	}
	w.drain()
	for _, change := range w.changes(storage.ChangeQuery{}) {
		require.True(w, change.Reach.Finished, "%+v", change)
	}
	w.requireLogTellsAll()
}

// ignore returns an error unless it is of a kind.
func ignore[Kind error](err error) error {
	var kind Kind
	if errors.As(err, &kind) {
		return nil
	}
	return err
}

// changesOfEvents: what events of the MDM do to the sets of enrollments is told, once.
func changesOfEvents(w *world) {
	w.fill("base", "d")
	event := storage.ChangeOptions{ChangeID: "event", By: storage.ByEvent}
	enrolling := storage.EventOptions{EnrollSets: []string{"base", "more"}, Change: event}
	require.True(w, w.applyWith(w.authenticated(0), enrolling))
	wanted := []storage.Change{
		{ChangeID: "event", By: "mdm event", Action: "enrollment-set.put", EnrollmentID: "e", Set: "base", Reach: reached(1)},
		{ChangeID: "event", By: "mdm event", Action: "enrollment-set.put", EnrollmentID: "e", Set: "more", Reach: reached(1)},
	}
	require.Equal(w, wanted, w.newest(2))
	user := storage.Event{Kind: storage.EventTokenUpdate, ID: "e:user", ParentID: "e", Type: "User", Tally: 1, At: w.clock.Now()}
	w.applyWith(w.authenticated(0), enrolling)
	w.applyWith(w.tokenUpdated(1, 0), enrolling)
	w.apply(user)
	require.Equal(w, wanted, w.newest(2), "what assigns nothing is no change")
	w.assign("e:user", "own")

	w.clock.Advance(time.Minute)
	leaving := storage.EventOptions{RemoveSets: true, Change: event}
	w.applyWith(w.checkedOut(0), leaving)
	require.Equal(w, []storage.Change{
		{ChangeID: "event", By: "mdm event", Action: "enrollment-sets.delete", EnrollmentID: "e", Amount: 2, Reach: reached(1)},
		{ChangeID: "event", By: "mdm event", Action: "enrollment-sets.delete", EnrollmentID: "e:user", Amount: 1, Reach: reached(1)},
	}, w.newest(2))
	rows := len(w.changes(storage.ChangeQuery{}))
	w.clock.Advance(time.Minute)
	w.applyWith(w.checkedOut(0), leaving)
	w.apply(w.authenticated(0))
	w.clock.Advance(time.Minute)
	w.applyWith(w.checkedOut(0), storage.EventOptions{Change: event})
	require.Len(w, w.changes(storage.ChangeQuery{}), rows)
	w.requireLogTellsAll()
}

// changesOfImports: each batch has a row for each declaration and member, and one that tells whom all of them have reached.
func changesOfImports(w *world) {
	by := storage.ImportOptions{ChangeOptions: storage.ChangeOptions{ChangeID: "import", By: storage.ByImport}}
	w.put(configuration("old", "mine"))
	w.put(configuration("same", "mine"))
	old := w.declaration("old").ServerToken
	w.add("s", "old")
	w.add("t", "old")
	w.assignAll("s", "a", "b")
	w.assignAll("t", "b")
	w.drain()
	overwrite := by
	overwrite.Overwrite = true
	same := w.declaration("same")
	w.imported(overwrite, withToken(configuration("new", "x"), "token-1"), withToken(configuration("old", "x"), "token-2"),
		withToken(configuration("same", "mine"), same.ServerToken), withToken(activation("bad", "missing"), "token-3"))
	row := func(change storage.Change) storage.Change {
		change.ChangeID, change.By = "import", "decree import"
		return change
	}
	require.Equal(w, []storage.Change{
		row(storage.Change{Action: "declaration.put", Declaration: "new", ToToken: "token-1"}),
		row(storage.Change{Action: "declaration.put", Declaration: "old", FromToken: old, ToToken: "token-2"}),
		row(storage.Change{Action: "import", Amount: 2, Reach: waits(0)}),
	}, w.newest(3))
	w.drain()
	require.Equal(w, reached(3), w.newest(1)[0].Reach, "b has both of the sets")

	_, err := w.store.ImportSetDeclarations(w.ctx, []storage.SetDeclaration{
		{Set: "s", Identifier: "old"}, {Set: "s", Identifier: "new"}, {Set: "s", Identifier: "new"}, {Set: "s", Identifier: "missing"},
	}, by)
	require.NoError(w, err)
	w.drain()
	require.Equal(w, []storage.Change{
		row(storage.Change{Action: "set-declaration.put", Set: "s", Declaration: "new"}),
		row(storage.Change{Action: "import", Amount: 1, Reach: reached(2)}),
	}, w.newest(2))

	var rows []storage.EnrollmentSet
	for i := range 300 {
		rows = append(rows, storage.EnrollmentSet{EnrollmentID: fmt.Sprint("e", i), Set: "s"},
			storage.EnrollmentSet{EnrollmentID: fmt.Sprint("e", i), Set: "t"})
	}
	count := len(w.changes(storage.ChangeQuery{}))
	_, err = w.store.ImportEnrollmentSets(w.ctx, rows, by)
	require.NoError(w, err)
	require.Equal(w, row(storage.Change{Action: "import", Amount: 600, Reach: reached(300)}), w.newest(1)[0])
	require.Len(w, w.changes(storage.ChangeQuery{}), count+1, "not a row for each enrollment")

	dry := by
	dry.DryRun = true
	w.imported(dry, withToken(configuration("dry", "x"), "token"))
	for _, again := range []storage.ImportOptions{by, dry} {
		_, err = w.store.ImportEnrollmentSets(w.ctx, rows, again)
		require.NoError(w, err)
	}
	require.Len(w, w.changes(storage.ChangeQuery{}), count+1, "what changes nothing is not told")

	// More than a statement takes.
	var many []*ddm.Declaration
	for i := range 450 {
		many = append(many, withToken(configuration(fmt.Sprintf("many%03d", i), "x"), "token"))
	}
	w.imported(by, many...)
	require.Len(w, w.changes(storage.ChangeQuery{}), count+1+451)
	w.requireLogTellsAll()
}

// changesThatAreUndone: what is not committed is not told.
func changesThatAreUndone(w *world) {
	w.fill("s", "d")
	w.assign("e", "s")
	w.drain()
	before := w.changes(storage.ChangeQuery{})
	release := w.hold(`SELECT id FROM enrollments WHERE id = ?`, "e")
	defer release()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	// This has asked for a fan-out already when it waits.
	changed := w.start(func() error {
		return w.store.Notify(ctx, storage.NotifyTargets{Sets: []string{"s"}, Enrollments: []string{"e"}}, change)
	})
	w.await(1)
	cancel()
	require.ErrorIs(w, changed(), context.Canceled)
	release()
	require.Equal(w, before, w.changes(storage.ChangeQuery{}))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM change_fanouts`))
}

// reachOfMergedFanouts: changes whose fan-outs merge have reached the same enrollments, and each is told so.
func reachOfMergedFanouts(w *world) {
	members := []string{"a", "b", "c"}
	w.assignAll("s", members...)
	w.fill("s", "d")
	w.settle()
	reach := func(changeID string) *storage.Reach {
		w.Helper()
		found := w.changes(storage.ChangeQuery{ChangeID: changeID})
		require.Len(w, found, 1)
		return found[0].Reach
	}
	put := func(changeID string) {
		w.Helper()
		_, err := w.store.PutDeclaration(w.ctx, configuration("d", changeID), storage.ChangeOptions{ChangeID: changeID, By: "key"})
		require.NoError(w, err)
	}
	for _, changeID := range []string{"one", "two", "three"} {
		put(changeID)
		require.Equal(w, waits(0), reach(changeID))
	}
	w.advance(2)
	put("four")
	w.assign("d", "s")
	require.Equal(w, waits(0), reach("one"), "it is told when it is over")
	w.clock.Advance(time.Second)
	require.True(w, w.advance(3).Done)
	for _, changeID := range []string{"one", "two", "three"} {
		require.Equal(w, reached(4), reach(changeID))
	}
	require.Equal(w, waits(0), reach("four"), "this one came when the other ran")
	w.drain()
	require.Equal(w, reached(4), reach("four"))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM change_fanouts`))
}

// reachThroughSeveralSets: a change is finished when the last of its fan-outs is.
func reachThroughSeveralSets(w *world) {
	w.put(configuration("d", "first"))
	for i := range 230 {
		w.add(fmt.Sprintf("s%03d", i), "d")
	}
	w.assignAll("s007", "a", "b")
	w.assignAll("s229", "b", "c", "e")
	w.settle()
	w.clock.Advance(time.Second)
	w.put(configuration("d", "second"))
	require.Equal(w, 230, w.count(`SELECT COUNT(*) FROM change_fanouts`))
	steps := 0
	for page := w.advance(100); page != nil; page = w.advance(100) {
		steps++
		require.Equal(w, steps == 230, w.newest(1)[0].Reach.Finished)
	}
	require.Equal(w, 230, steps)
	require.Equal(w, reached(5), w.newest(1)[0].Reach, "b counts twice")

	require.NoError(w, w.store.Notify(w.ctx, storage.NotifyTargets{
		Enrollments: []string{"a", "new"}, Sets: []string{"s007", "none"}, Declarations: []string{"d"},
	}, change))
	require.Equal(w, waits(2), w.newest(1)[0].Reach)
	w.drain()
	require.Equal(w, reached(7), w.newest(1)[0].Reach)
}

// reachOfMoreThanAPage: however many changes merge, a step tells a bounded number of them, and the next fan-out waits.
func reachOfMoreThanAPage(w *world) {
	const changes = 450
	w.fill("s", "d")
	w.assign("e", "s")
	w.settle()
	before := w.seqs("e")[0]
	for range changes {
		w.touch("d")
	}
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM fanouts`))
	page := w.advance(10)
	require.Equal(w, &storage.FanoutPage{Set: "s", ChangeID: "change", Marked: 1, Reached: 1}, page)
	finished := func() int {
		return w.count(`SELECT COUNT(*) FROM changes WHERE action = 'declaration.touch' AND waiting = 0`)
	}
	require.Less(w, finished(), changes)
	require.Positive(w, finished())
	w.touch("d")
	w.clock.Advance(time.Second)
	var steps []storage.FanoutPage
	for page := w.advance(10); page != nil; page = w.advance(10) {
		steps = append(steps, *page)
	}
	require.Equal(w, []storage.FanoutPage{
		{Set: "s", ChangeID: "change", Reached: 1}, {Set: "s", ChangeID: "change", Reached: 1, Done: true},
		{Set: "s", ChangeID: "change", Marked: 1, Reached: 1, Done: true},
	}, steps)
	require.Equal(w, changes+1, finished())
	require.Equal(w, before+2, w.seqs("e")[0], "one mark a fan-out")
	for _, change := range w.changes(storage.ChangeQuery{Action: storage.ActionTouchDeclaration, Limit: 100}) {
		require.Equal(w, reached(1), change.Reach)
	}
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

// requireLogTellsAll does what the log of changes says, from the beginning, and ends with what there is.
func (w *world) requireLogTellsAll() {
	w.Helper()
	rows := w.changes(storage.ChangeQuery{})
	slices.SortFunc(rows, func(a, b storage.Change) int { return cmp.Compare(a.ID, b.ID) })
	tokens := map[string]string{}
	members, assigned := map[[2]string]bool{}, map[[2]string]bool{}
	imported := false
	for _, row := range rows {
		require.NotEmpty(w, row.By, "%+v", row)
		member, assignment := [2]string{row.Set, row.Declaration}, [2]string{row.EnrollmentID, row.Set}
		switch row.Action {
		case storage.ActionPutDeclaration, storage.ActionTouchDeclaration, storage.ActionDeleteDeclaration,
			storage.ActionRollbackDeclaration:
			require.Equal(w, tokens[row.Declaration], row.FromToken, "%+v", row)
			require.NotEqual(w, row.FromToken, row.ToToken, "%+v", row)
			if tokens[row.Declaration] = row.ToToken; row.ToToken == "" {
				delete(tokens, row.Declaration)
			}
		case storage.ActionPutSetDeclaration:
			require.False(w, members[member], "%+v", row)
			members[member] = true
		case storage.ActionDropSetDeclaration:
			require.True(w, members[member], "%+v", row)
			delete(members, member)
		case storage.ActionPutEnrollmentSet:
			require.False(w, assigned[assignment], "%+v", row)
			assigned[assignment] = true
		case storage.ActionDropEnrollmentSet:
			require.True(w, assigned[assignment] || imported, "%+v", row)
			delete(assigned, assignment)
		case storage.ActionDropEnrollmentSets, storage.ActionDeleteEnrollment:
			for assignment := range assigned {
				if assignment[0] == row.EnrollmentID {
					delete(assigned, assignment)
				}
			}
		case storage.ActionImport:
			imported = true
		default:
			require.Equal(w, storage.ActionNotify, row.Action)
		}
	}
	identifiers, err := w.store.DeclarationIdentifiers(w.ctx, all)
	require.NoError(w, err)
	there := map[string]string{}
	for _, identifier := range identifiers {
		there[identifier] = w.declaration(identifier).ServerToken
	}
	require.Equal(w, there, tokens)
	held := map[[2]string]bool{}
	for _, set := range w.setNames() {
		for _, identifier := range w.setDeclarations(set) {
			held[[2]string{set, identifier}] = true
		}
	}
	require.Equal(w, held, members)
	if imported {
		return // the enrollments of an import are counted, and not named
	}
	has := map[[2]string]bool{}
	for _, id := range w.enrollmentIDs() {
		for _, set := range w.enrollmentSets(id) {
			has[[2]string{id, set}] = true
		}
	}
	require.Equal(w, has, assigned)
}
