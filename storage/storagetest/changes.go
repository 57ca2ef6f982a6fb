package storagetest

import (
	"cmp"
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
	{"ChangesOfManySets", changesOfManySets},
	{"ChangesOfImports", changesOfImports},
	{"ChangesThatAreUndone", changesThatAreUndone},
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

// losses are the rows of the sets that an enrollment has lost with a change that another row tells of.
func losses(all storage.Change, sets ...string) (list []storage.Change) {
	for _, set := range sets {
		list = append(list, storage.Change{
			ChangeID: all.ChangeID, By: all.By, Action: "enrollment-set.delete", EnrollmentID: all.EnrollmentID, Set: set, Held: all.Held,
		})
	}
	return list
}

// waits is the reach of a change that is not.
func waits(enrollments int64) *storage.Reach { return &storage.Reach{Enrollments: enrollments} }

// changesOfEachKind does everything that can be done, and in between what changes nothing: each change is one row, which
// tells it, and one more for each of several sets that are lost at once.
func changesOfEachKind(w *world) {
	options := storage.ChangeOptions{ChangeID: "id", By: "somebody"}
	quiet := storage.ChangeOptions{ChangeID: "id", By: "somebody", Held: true}
	token := func() string { return w.declaration("d").ServerToken }
	var before string
	put := func(text string) func() (bool, error) {
		return func() (bool, error) { return w.store.PutDeclaration(w.ctx, configuration("d", text), options) }
	}
	lost := map[string][]string{
		"take away all": {"s", "t"}, "take away all of one": {"s"}, "forget who has sets": {"s", "t"},
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
			w.assign("e", "t")
			w.assign("e", "s")
			return w.store.DeleteEnrollmentSets(w.ctx, "e", quiet)
		}, func() storage.Change {
			return storage.Change{Action: "enrollment-sets.delete", EnrollmentID: "e", Held: true, Amount: 2, Reach: reached(1)}
		}},
		{"take away all of one", func() (bool, error) {
			w.assign("e", "s")
			return w.store.DeleteEnrollmentSets(w.ctx, "e", options)
		}, func() storage.Change {
			return storage.Change{Action: "enrollment-sets.delete", EnrollmentID: "e", Amount: 1, Reach: reached(1)}
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
		{"forget who has sets", func() (bool, error) {
			w.assign("f", "t")
			w.assign("f", "s")
			return w.store.DeleteEnrollment(w.ctx, "f", quiet)
		}, func() storage.Change {
			return storage.Change{Action: "enrollment.delete", EnrollmentID: "f", Amount: 2, Reach: reached(0)}
		}},
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
		sets := lost[step.name]
		require.Len(w, w.changes(storage.ChangeQuery{By: "somebody"}), rows+1+len(sets), step.name)
		wanted := step.wanted()
		wanted.ChangeID, wanted.By = "id", "somebody"
		require.Equal(w, append(losses(wanted, sets...), wanted), w.newest(1+len(sets)), step.name)
	}
	w.drain()
	for _, change := range w.changes(storage.ChangeQuery{}) {
		require.True(w, change.Reach == nil || change.Reach.Finished, "%+v", change)
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
	lost := storage.Change{
		ChangeID: "event", By: "mdm event", Action: "enrollment-sets.delete", EnrollmentID: "e", Amount: 2, Reach: reached(1),
	}
	lostByUser := lost
	lostByUser.EnrollmentID, lostByUser.Amount = "e:user", 1
	require.Equal(w, slices.Concat(losses(lost, "base", "more"), []storage.Change{lost},
		losses(lostByUser, "own"), []storage.Change{lostByUser}), w.newest(5))
	rows := len(w.changes(storage.ChangeQuery{}))
	w.clock.Advance(time.Minute)
	w.applyWith(w.checkedOut(0), leaving)
	w.apply(w.authenticated(0))
	w.clock.Advance(time.Minute)
	w.applyWith(w.checkedOut(0), storage.EventOptions{Change: event})
	require.Len(w, w.changes(storage.ChangeQuery{}), rows)
	w.requireLogTellsAll()
}

// changesOfManySets: who has more sets than a statement takes loses each of them in the log, in one change.
func changesOfManySets(w *world) {
	const many = 2*200 + 50
	var sets []string
	for i := range many {
		sets = append(sets, fmt.Sprintf("s%03d", i))
	}
	options := storage.ChangeOptions{ChangeID: "loss", By: "somebody"}
	for name, lose := range map[string]func(id string) error{
		"enrollment-sets.delete": func(id string) error {
			_, err := w.store.DeleteEnrollmentSets(w.ctx, id, options)
			return err
		},
		"enrollment.delete": func(id string) error {
			_, err := w.store.DeleteEnrollment(w.ctx, id, options)
			return err
		},
		"mdm.CheckOut": func(id string) error {
			event := w.checkedOut(0)
			event.ID = id
			_, err := w.store.ApplyEvent(w.ctx, event, storage.EventOptions{RemoveSets: true, Change: options})
			return err
		},
	} {
		var rows []storage.EnrollmentSet
		for _, set := range sets {
			rows = append(rows, storage.EnrollmentSet{EnrollmentID: name, Set: set}, storage.EnrollmentSet{EnrollmentID: "other", Set: set})
		}
		_, err := w.store.ImportEnrollmentSets(w.ctx, rows, storage.ImportOptions{ChangeOptions: change})
		require.NoError(w, err)
		require.NoError(w, lose(name))
		told := w.newest(many + 1)
		require.EqualValues(w, many, told[many].Amount, name)
		require.NotNil(w, told[many].Reach, name)
		require.Equal(w, losses(told[many], sets...), told[:many], name)
		require.Len(w, w.changes(storage.ChangeQuery{EnrollmentID: name, Limit: 100}), many+1, name)
		require.Len(w, w.changes(storage.ChangeQuery{EnrollmentID: name, Set: "s007"}), 1, name)
		require.Empty(w, w.enrollmentSets(name))
	}
	require.Len(w, w.changes(storage.ChangeQuery{Set: "s449"}), 3)
	require.Len(w, w.enrollmentSets("other"), many)
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

// changesThatAreUndone: what cannot be told is not made, and what is not made is not told.
func changesThatAreUndone(w *world) {
	w.fill("s", "d")
	w.put(configuration("other", "first"))
	w.assign("e", "s")
	w.settle()
	before, declaration, vector := w.changes(storage.ChangeQuery{}), w.declaration("d"), w.vector("e")
	seq := w.seqs("e")
	attempts := map[string]func() error{
		"put": func() error {
			_, err := w.store.PutDeclaration(w.ctx, configuration("d", "second"), change)
			return err
		},
		"touch": func() error { return w.store.TouchDeclaration(w.ctx, "d", change) },
		"add": func() error {
			_, err := w.store.PutSetDeclaration(w.ctx, "s", "other", change)
			return err
		},
		"remove": func() error {
			_, err := w.store.DeleteSetDeclaration(w.ctx, "s", "d", change)
			return err
		},
		"notify": func() error {
			return w.store.Notify(w.ctx, storage.NotifyTargets{Sets: []string{"s"}, Enrollments: []string{"e"}}, change)
		},
	}
	exec := func(statement string) {
		w.Helper()
		_, err := w.database.SQL.ExecContext(w.ctx, statement)
		require.NoError(w, err)
	}
	exec(`ALTER TABLE change_fanouts RENAME TO away`)
	for name, attempt := range attempts {
		require.Error(w, attempt(), name)
	}
	exec(`ALTER TABLE away RENAME TO change_fanouts`)
	require.Equal(w, before, w.changes(storage.ChangeQuery{}))
	exec(`ALTER TABLE changes RENAME TO away`)
	attempts["assign"] = func() error {
		_, err := w.store.PutEnrollmentSet(w.ctx, "e", "t", change)
		return err
	}
	attempts["unassign"] = func() error {
		_, err := w.store.DeleteEnrollmentSets(w.ctx, "e", change)
		return err
	}
	attempts["delete"] = func() error {
		_, err := w.store.DeleteDeclaration(w.ctx, "other", change)
		return err
	}
	attempts["forget"] = func() error {
		_, err := w.store.DeleteEnrollment(w.ctx, "e", change)
		return err
	}
	attempts["event"] = func() error {
		_, err := w.store.ApplyEvent(w.ctx, w.checkedOut(0), storage.EventOptions{RemoveSets: true, Change: change})
		return err
	}
	for name, attempt := range attempts {
		require.Error(w, attempt(), name)
	}
	exec(`ALTER TABLE away RENAME TO changes`)
	require.Equal(w, before, w.changes(storage.ChangeQuery{}))
	require.Equal(w, declaration, w.declaration("d"))
	require.Equal(w, vector, w.vector("e"))
	require.Equal(w, seq, w.seqs("e"))
	require.Zero(w, w.enrollment("e").LeftAt)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM fanouts`))
	w.requireLogTellsAll()
	w.touch("d")
	w.requireSound()
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
			// Each set has a row of its own before.
			for assignment := range assigned {
				require.NotEqual(w, row.EnrollmentID, assignment[0], "%+v", row)
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
