package storagetest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

var importTests = []test{
	{"ImportDeclarations", importDeclarations},
	{"ImportConflicts", importConflicts},
	{"ImportTokensOfAnotherDecree", importTokensOfAnotherDecree},
	{"ImportReferences", importReferences},
	{"ImportTokenTaken", importTokenTaken},
	{"ImportedTokensAreNobodyElses", importedTokensAreNobodyElses},
	{"ImportSetDeclarations", importSetDeclarations},
	{"ImportEnrollmentSets", importEnrollmentSets},
	{"ImportDryRun", importDryRun},
	{"ImportBesideChanges", importBesideChanges},
}

// importing are the options of an ordinary import.
var importing = storage.ImportOptions{ChangeOptions: change}

var overwriting = storage.ImportOptions{ChangeOptions: change, Overwrite: true}

func withToken(declaration *ddm.Declaration, token string) *ddm.Declaration {
	declaration.ServerToken = token
	return declaration
}

// imported returns what became of declarations.
func (w *world) imported(options storage.ImportOptions, declarations ...*ddm.Declaration) []storage.ImportResult {
	w.Helper()
	results, err := w.store.ImportDeclarations(w.ctx, declarations, options)
	require.NoError(w, err)
	require.Len(w, results, len(declarations))
	for _, result := range results {
		require.False(w, result.Changed && result.Err != nil)
	}
	return results
}

// importOne imports a declaration.
func (w *world) importOne(options storage.ImportOptions, declaration *ddm.Declaration) (changed bool, err error) {
	w.Helper()
	result := w.imported(options, declaration)[0]
	return result.Changed, result.Err
}

// version is the version of the one set of an enrollment.
func (w *world) version(enrollment string) int64 {
	w.Helper()
	vector := w.vector(enrollment)
	require.Len(w, vector, 1)
	return vector[0].Version
}

func importDeclarations(w *world) {
	require.Empty(w, w.imported(importing))
	first := withToken(configuration("d", "first"), "given-1")
	require.Equal(w, []storage.ImportResult{{Changed: true}, {Changed: true}},
		w.imported(importing, first, withToken(configuration("other", "x"), "given-1")), "tokens are a declaration's own")
	require.Equal(w, first, w.declaration("d"))
	w.add("s", "d")
	w.assign("e", "s")
	w.drain()
	require.Equal(w, []ddm.Item{{Class: ddm.ClassConfiguration, Identifier: "d", ServerToken: "given-1"}}, w.compose("e").Items)

	before := w.enrollment("e").NotifySeq
	version := w.version("e")
	for range 2 {
		changed, err := w.importOne(importing, withToken(withPayload("d", ` { "Echo" : "\u0066irst" } `), "given-1"))
		require.NoError(w, err)
		require.False(w, changed, "the same content with the same token")
	}
	w.drain()
	require.Equal(w, before, w.enrollment("e").NotifySeq)
	require.Equal(w, version, w.version("e"))
	require.Equal(w, 2, w.count(`SELECT COUNT(*) FROM declaration_versions`))

	// The other server touched it.
	w.clock.Advance(time.Second)
	changed, err := w.importOne(importing, withToken(configuration("d", "first"), "given-2"))
	require.NoError(w, err)
	require.True(w, changed)
	require.Equal(w, "given-2", w.declaration("d").ServerToken)
	require.NotEqual(w, version, w.version("e"))
	require.True(w, w.vector("e")[0].ChangedAt.Equal(w.clock.Now()))
	w.drain()
	require.Equal(w, before+1, w.enrollment("e").NotifySeq, "its enrollments are marked")
	old, err := w.store.DeclarationVersion(w.ctx, "d", "given-1")
	require.NoError(w, err, "who was served its manifest can still fetch it")
	require.Equal(w, first.Payload, old.Payload)

	// It stays until the content changes.
	require.False(w, w.put(configuration("d", "first")))
	require.Equal(w, "given-2", w.declaration("d").ServerToken)
	require.True(w, w.put(configuration("d", "second")))
	require.True(w, w.put(configuration("d", "first")))
	require.Equal(w, ddm.ServerToken(first.ContentHash(), 0), w.declaration("d").ServerToken)

	// One that was put by hand before the import takes the token, so that no device has to fetch it again.
	changed, err = w.importOne(storage.ImportOptions{ChangeOptions: held}, withToken(configuration("d", "first"), "given-1"))
	require.NoError(w, err)
	require.True(w, changed)
	require.Equal(w, "given-1", w.declaration("d").ServerToken)
	w.requireSound()
}

func importConflicts(w *world) {
	w.put(configuration("d", "mine"))
	w.add("s", "d")
	w.assign("e", "s")
	version := w.version("e")
	_, err := w.importOne(importing, withToken(configuration("d", "theirs"), "given"))
	require.ErrorIs(w, err, storage.ErrConflict)
	require.Equal(w, configuration("d", "mine").Payload, w.declaration("d").Payload)
	require.Equal(w, version, w.version("e"))

	results := w.imported(importing, withToken(configuration("d", "theirs"), "given"), withToken(configuration("f", "x"), "given"))
	require.ErrorIs(w, results[0].Err, storage.ErrConflict)
	require.True(w, results[1].Changed, "the others are taken")

	changed, err := w.importOne(overwriting, withToken(configuration("d", "theirs"), "given"))
	require.NoError(w, err)
	require.True(w, changed)
	require.Equal(w, withToken(configuration("d", "theirs"), "given"), w.declaration("d"))
	require.NotEqual(w, version, w.version("e"))

	// What an import has left is replaced by the next one.
	changed, err = w.importOne(importing, withToken(configuration("d", "theirs later"), "given-2"))
	require.NoError(w, err)
	require.True(w, changed)
	require.Equal(w, withToken(configuration("d", "theirs later"), "given-2"), w.declaration("d"))
	w.put(configuration("d", "mine again"))
	_, err = w.importOne(importing, withToken(configuration("d", "theirs at last"), "given-3"))
	require.ErrorIs(w, err, storage.ErrConflict, "it was changed here since")
	_, err = w.importOne(overwriting, withToken(configuration("d", "theirs"), "given"))
	require.NoError(w, err)

	w.touch("d")
	touched := w.declaration("d")
	require.NotEqual(w, "given", touched.ServerToken)
	_, err = w.importOne(importing, withToken(configuration("d", "theirs"), "given"))
	require.ErrorIs(w, err, storage.ErrTouched)
	require.Equal(w, touched, w.declaration("d"))
	_, err = w.importOne(importing, withToken(configuration("d", "theirs later"), "given-2"))
	require.ErrorIs(w, err, storage.ErrConflict, "it was touched here since")
	changed, err = w.importOne(overwriting, withToken(configuration("d", "theirs"), "given"))
	require.NoError(w, err)
	require.True(w, changed)
	changed, err = w.importOne(importing, withToken(configuration("d", "theirs"), "given-3"))
	require.NoError(w, err, "the touch was taken back")
	require.True(w, changed)
	w.touch("d")
	require.NotContains(w, []string{"given", touched.ServerToken}, w.declaration("d").ServerToken,
		"a touch never goes back to what devices have had")
	w.requireSound()
}

// importTokensOfAnotherDecree checks that a ServerToken which this server could have made itself later is not made again.
func importTokensOfAnotherDecree(w *world) {
	hash := configuration("d", "x").ContentHash()
	for touches := range int64(4) {
		token := ddm.ServerToken(hash, touches)
		_, err := w.importOne(overwriting, withToken(configuration("d", "x"), token))
		require.NoError(w, err)
		w.touch("d")
		require.NotEqual(w, token, w.declaration("d").ServerToken, "touched %d times", touches)
	}
	_, err := w.importOne(importing, withToken(configuration("new", "x"), ddm.ServerToken(configuration("new", "x").ContentHash(), 1)))
	require.NoError(w, err)
	seen := []string{w.declaration("new").ServerToken}
	for range 3 {
		w.touch("new")
		require.NotContains(w, seen, w.declaration("new").ServerToken)
		seen = append(seen, w.declaration("new").ServerToken)
	}

	// Where the token does not tell whose the content is, it is taken for one that was made here.
	_, err = w.importOne(importing, withToken(configuration("own", "x"), ddm.ServerToken(configuration("own", "x").ContentHash(), 0)))
	require.NoError(w, err)
	later := configuration("own", "y")
	_, err = w.importOne(importing, withToken(later, ddm.ServerToken(later.ContentHash(), 0)))
	require.ErrorIs(w, err, storage.ErrConflict)
	_, err = w.importOne(importing, withToken(configuration("own", "x"), ddm.ServerToken(configuration("own", "x").ContentHash(), 2)))
	require.NoError(w, err)
	_, err = w.importOne(importing, withToken(later, ddm.ServerToken(later.ContentHash(), 0)))
	require.NoError(w, err, "a token that another number of touches makes was given")
}

func importReferences(w *world) {
	_, err := w.importOne(importing, withToken(activation("a", "b", "c"), "t"))
	var missing *storage.MissingReferencesError
	require.ErrorAs(w, err, &missing)
	require.Equal(w, "a", missing.Identifier)
	require.Equal(w, []string{"b", "c"}, missing.Missing)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM declarations`))

	// Together they can, in any order; what refers to something refused is refused too.
	results := w.imported(importing, withToken(activation("a", "b", "c"), "t"), withToken(configuration("c", "x"), "t"),
		withToken(configuration("b", "x"), "t"), withToken(activation("bad2", "bad1"), "t"), withToken(activation("bad1", "no"), "t"),
		withToken(activation("bad3", "bad2", "b"), "t"))
	for i, changed := range []bool{true, true, true, false, false, false} {
		require.Equal(w, changed, results[i].Changed, i)
	}
	require.ErrorAs(w, results[5].Err, &missing)
	require.Equal(w, []string{"bad2"}, missing.Missing)
	require.Equal(w, 2, w.count(`SELECT COUNT(*) FROM declaration_references`))

	// In a circle, and to itself.
	for _, result := range w.imported(importing, withToken(activation("x", "y"), "t"), withToken(activation("y", "x"), "t"),
		withToken(activation("self", "self"), "t")) {
		require.True(w, result.Changed)
		require.NoError(w, result.Err)
	}
	_, err = w.store.DeleteDeclaration(w.ctx, "y", change)
	var inUse *storage.InUseError
	require.ErrorAs(w, err, &inUse)

	_, err = w.importOne(overwriting, withToken(activation("x", "gone"), "t2"))
	require.ErrorAs(w, err, &missing)
	require.Equal(w, []string{"y"}, w.declaration("x").References(), "nothing was changed")
	changed, err := w.importOne(overwriting, withToken(activation("x", "b"), "t2"))
	require.NoError(w, err)
	require.True(w, changed)
	require.True(w, w.deleteDeclaration("y"), "it is no longer referred to")
	w.requireSound()
}

// importTokenTaken checks that no content ever goes by a token that devices may know another one by.
func importTokenTaken(w *world) {
	_, err := w.importOne(importing, withToken(configuration("d", "first"), "given"))
	require.NoError(w, err)
	_, err = w.importOne(overwriting, withToken(configuration("d", "second"), "given"))
	require.ErrorIs(w, err, storage.ErrTokenTaken, "it is the current version's")
	w.put(configuration("d", "second"))
	_, err = w.importOne(overwriting, withToken(configuration("d", "third"), "given"))
	require.ErrorIs(w, err, storage.ErrTokenTaken, "it is an old version's")
	require.True(w, w.deleteDeclaration("d"))
	_, err = w.importOne(importing, withToken(configuration("d", "third"), "given"))
	require.ErrorIs(w, err, storage.ErrTokenTaken, "it is a deleted declaration's")
	changed, err := w.importOne(importing, withToken(withPayload("d", `{ "Echo": "first" }`), "given"))
	require.NoError(w, err, "the same content may return under its token")
	require.True(w, changed)
	require.Equal(w, "given", w.declaration("d").ServerToken)
}

func importSetDeclarations(w *world) {
	rows := func(options storage.ImportOptions, rows ...storage.SetDeclaration) []storage.ImportResult {
		w.Helper()
		results, err := w.store.ImportSetDeclarations(w.ctx, rows, options)
		require.NoError(w, err)
		require.Len(w, results, len(rows))
		return results
	}
	require.Empty(w, rows(importing))
	w.put(configuration("d", "x"))
	w.put(configuration("f", "x"))
	w.add("s", "d")
	w.assign("e", "s")
	w.drain()
	before, version := w.enrollment("e").NotifySeq, w.version("e")

	require.Equal(w, []storage.ImportResult{{}, {Err: storage.ErrNotFound}},
		rows(importing, storage.SetDeclaration{Set: "s", Identifier: "d"}, storage.SetDeclaration{Set: "new", Identifier: "unknown"}))
	w.drain()
	require.Equal(w, before, w.enrollment("e").NotifySeq)
	require.Equal(w, version, w.version("e"))
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM sets`), "a set that gets nothing is not made")

	w.clock.Advance(time.Second)
	require.Equal(w, []storage.ImportResult{{Changed: true}, {}, {}, {Changed: true}}, rows(importing,
		storage.SetDeclaration{Set: "s", Identifier: "f"}, storage.SetDeclaration{Set: "s", Identifier: "f"},
		storage.SetDeclaration{Set: "s", Identifier: "d"}, storage.SetDeclaration{Set: "new", Identifier: "f"}))
	require.Equal(w, []string{"d", "f"}, w.setDeclarations("s"))
	require.Equal(w, []string{"f"}, w.setDeclarations("new"))
	require.NotEqual(w, version, w.version("e"))
	require.True(w, w.vector("e")[0].ChangedAt.Equal(w.clock.Now()))
	w.drain()
	require.Equal(w, before+1, w.enrollment("e").NotifySeq)

	// More than a statement takes.
	var declarations []*ddm.Declaration
	var many []storage.SetDeclaration
	for i := range 450 {
		identifier := fmt.Sprintf("d%03d", i)
		declarations = append(declarations, withToken(configuration(identifier, "x"), "t"))
		many = append(many, storage.SetDeclaration{Set: "s", Identifier: identifier},
			storage.SetDeclaration{Set: "of " + identifier, Identifier: identifier})
	}
	w.imported(importing, declarations...)
	for i, result := range rows(importing, many...) {
		require.True(w, result.Changed, i)
	}
	for _, result := range rows(importing, many...) {
		require.False(w, result.Changed)
	}
	require.Len(w, w.setDeclarations("s"), 452)
	require.Len(w, w.setNames(), 452)
	w.requireSound()
}

func importEnrollmentSets(w *world) {
	rows := func(options storage.ImportOptions, rows ...storage.EnrollmentSet) []storage.ImportResult {
		w.Helper()
		results, err := w.store.ImportEnrollmentSets(w.ctx, rows, options)
		require.NoError(w, err)
		require.Len(w, results, len(rows))
		return results
	}
	require.Empty(w, rows(importing))
	w.assign("known", "s")
	w.settle()
	seq := w.enrollment("known").NotifySeq
	require.Equal(w, []storage.ImportResult{{}, {Changed: true}, {}, {Changed: true}, {Changed: true}}, rows(importing,
		storage.EnrollmentSet{EnrollmentID: "known", Set: "s"}, storage.EnrollmentSet{EnrollmentID: "new", Set: "s"},
		storage.EnrollmentSet{EnrollmentID: "new", Set: "s"}, storage.EnrollmentSet{EnrollmentID: "new", Set: "other"},
		storage.EnrollmentSet{EnrollmentID: "another", Set: "other"}))
	require.Equal(w, []string{"other", "s"}, w.enrollmentSets("new"))
	require.Equal(w, seq, w.enrollment("known").NotifySeq, "what changed nothing marks nobody")
	require.EqualValues(w, 1, w.enrollment("new").NotifySeq, "one mark for both sets")
	require.False(w, w.enrollment("new").NotifyAt.IsZero())
	require.False(w, w.enrollment("new").Held)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM enrollments WHERE id = 'new' AND priority <> 0`),
		"an import does not overtake what an admin does")

	rows(storage.ImportOptions{ChangeOptions: held}, storage.EnrollmentSet{EnrollmentID: "held", Set: "s"})
	require.True(w, w.enrollment("held").Held)

	// More than a statement takes.
	var many []storage.EnrollmentSet
	for i := range 450 {
		many = append(many, storage.EnrollmentSet{EnrollmentID: fmt.Sprintf("e%03d", i), Set: "s"},
			storage.EnrollmentSet{EnrollmentID: fmt.Sprintf("e%03d", i), Set: fmt.Sprintf("own%03d", i)})
	}
	slices.Reverse(many)
	for i, result := range rows(importing, many...) {
		require.True(w, result.Changed, i)
	}
	for _, result := range rows(importing, many...) {
		require.False(w, result.Changed)
	}
	require.Equal(w, []string{"own123", "s"}, w.enrollmentSets("e123"))
	require.EqualValues(w, 1, w.enrollment("e123").NotifySeq)
	w.requireSound()
}

func importDryRun(w *world) {
	w.put(configuration("d", "mine"))
	w.add("s", "d")
	w.assign("e", "s")
	w.drain()
	tables := []string{"declarations", "declaration_versions", "declaration_references", "sets", "set_declarations",
		"enrollments", "enrollment_sets", "fanouts"}
	counts := func() (counts []int) {
		for _, table := range tables {
			counts = append(counts, w.count(`SELECT COUNT(*) FROM `+table))
		}
		return append(counts, int(w.seqs("e")[0]))
	}
	before, version := counts(), w.version("e")
	dry := storage.ImportOptions{
		ChangeOptions: change, DryRun: true, Assume: func(identifier string) bool { return identifier == "assumed" },
	}
	results := w.imported(dry, withToken(configuration("new", "x"), "t"), withToken(configuration("d", "theirs"), "t"),
		withToken(activation("a", "assumed", "new"), "t"), withToken(activation("b", "unknown"), "t"))
	require.True(w, results[0].Changed)
	require.ErrorIs(w, results[1].Err, storage.ErrConflict)
	require.True(w, results[2].Changed)
	require.Error(w, results[3].Err)
	results, err := w.store.ImportSetDeclarations(w.ctx, []storage.SetDeclaration{
		{Set: "s", Identifier: "d"}, {Set: "new", Identifier: "assumed"}, {Set: "new", Identifier: "unknown"},
	}, dry)
	require.NoError(w, err)
	require.Equal(w, []storage.ImportResult{{}, {Changed: true}, {Err: storage.ErrNotFound}}, results)
	results, err = w.store.ImportEnrollmentSets(w.ctx, []storage.EnrollmentSet{
		{EnrollmentID: "e", Set: "s"}, {EnrollmentID: "e", Set: "new"}, {EnrollmentID: "new", Set: "s"},
	}, dry)
	require.NoError(w, err)
	require.Equal(w, []storage.ImportResult{{}, {Changed: true}, {Changed: true}}, results)
	require.Equal(w, before, counts())
	require.Equal(w, version, w.version("e"))
}

// importBesideChanges imports the same rows several times at once, while they change.
func importBesideChanges(w *world) {
	const size = 30
	var declarations []*ddm.Declaration
	var members []storage.SetDeclaration
	var assignments []storage.EnrollmentSet
	for i := range size {
		identifier := fmt.Sprintf("d%02d", i)
		declarations = append(declarations, withToken(configuration(identifier, "imported"), "imported"))
		members = append(members, storage.SetDeclaration{Set: fmt.Sprintf("s%d", i%5), Identifier: identifier})
		assignments = append(assignments, storage.EnrollmentSet{EnrollmentID: fmt.Sprintf("e%02d", i), Set: fmt.Sprintf("s%d", i%5)})
	}
	var all sync.WaitGroup
	failures := make(chan error, 100)
	run := func(work func() error) {
		all.Go(func() {
			if err := work(); err != nil {
				failures <- err
			}
		})
	}
	for range 3 {
		run(func() error {
			for range 3 {
				if _, err := w.store.ImportDeclarations(w.ctx, declarations, overwriting); err != nil {
					return err
				}
				if _, err := w.store.ImportSetDeclarations(w.ctx, members, importing); err != nil {
					return err
				}
				if _, err := w.store.ImportEnrollmentSets(w.ctx, assignments, importing); err != nil {
					return err
				}
			}
			return nil
		})
	}
	run(func() error {
		for i := range 20 {
			identifier := fmt.Sprintf("d%02d", size-1-i)
			if _, err := w.store.PutDeclaration(w.ctx, configuration(identifier, "changed"), change); err != nil {
				return err
			}
			if _, err := w.store.PutSetDeclaration(w.ctx, "s1", identifier, change); err != nil {
				return err
			}
			if _, err := w.store.PutEnrollmentSet(w.ctx, fmt.Sprintf("e%02d", i), "s2", change); err != nil {
				return err
			}
		}
		return nil
	})
	run(func() error {
		for range 40 {
			if _, err := w.store.AdvanceFanout(w.ctx, 10); err != nil {
				return err
			}
		}
		return nil
	})
	all.Wait()
	close(failures)
	for err := range failures {
		require.NoError(w, err)
	}
	w.drain()
	w.requireSound()
	w.requireEverybodyOutOfSyncIsDue()
}

// exerciseImport runs every kind of statement of an import.
func (w *world) exerciseImport() {
	w.imported(overwriting, withToken(configuration("d0010", "x"), "imported"), withToken(configuration("imported", "x"), "t"),
		withToken(activation("refers", "imported", "d0010"), "t"))
	_, err := w.store.ImportSetDeclarations(w.ctx, []storage.SetDeclaration{
		{Set: "s0010", Identifier: "imported"}, {Set: "s0010", Identifier: "d0010"}, {Set: "imported", Identifier: "d0011"},
	}, importing)
	require.NoError(w, err)
	_, err = w.store.ImportEnrollmentSets(w.ctx, []storage.EnrollmentSet{
		{EnrollmentID: "e0010", Set: "s0011"}, {EnrollmentID: "imported", Set: "imported"},
	}, importing)
	require.NoError(w, err)
}

// importedTokensAreNobodyElses: whatever token an import has given, no other content gets that one.
func importedTokensAreNobodyElses(w *world) {
	later := configuration("d", "later")
	tokens := map[string]string{}
	see := func(text string) {
		w.Helper()
		d := w.declaration("d")
		require.Equal(w, string(configuration("d", text).Payload), string(d.Payload))
		if payload, seen := tokens[d.ServerToken]; seen {
			require.Equal(w, payload, string(d.Payload))
		}
		tokens[d.ServerToken] = string(d.Payload)
	}
	for touches := range int64(2) {
		text := fmt.Sprint("imported ", touches)
		w.imported(overwriting, withToken(configuration("d", text), ddm.ServerToken(later.ContentHash(), touches)))
		see(text)
	}
	w.put(configuration("d", "between"))
	see("between")
	w.put(later)
	see("later")
	w.touch("d")
	see("later")
	require.Len(w, tokens, 5)
	w.requireSound()
}
