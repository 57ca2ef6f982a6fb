package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var summaryTests = []test{
	{"DeclarationSummaries", declarationSummaries},
	{"DeclarationSummariesOfMany", declarationSummariesOfMany},
	{"SummariesThatAreStale", summariesThatAreStale},
	{"TouchedDeclarations", touchedDeclarations},
}

// tireless is for counting without a rest.
func tireless(context.Context) error { return nil }

// counted counts a declaration and returns what came of it, as "assigned current active valid invalid".
func (w *world) counted(identifier string) string {
	w.Helper()
	w.clock.Advance(time.Second)
	counted, early, err := w.store.CountDeclaration(w.ctx, identifier, nil, 0, tireless)
	require.NoError(w, err)
	require.Zero(w, early)
	require.Equal(w, []string{identifier}, counted)
	summary, err := w.store.DeclarationSummary(w.ctx, identifier)
	require.NoError(w, err)
	require.True(w, summary.CountedAt.Equal(w.clock.Now()), summary.CountedAt)
	require.Equal(w, summary.Assigned-summary.Current, summary.Pending())
	return numbersOf(summary)
}

func numbersOf(s *storage.DeclarationSummary) string {
	return fmt.Sprint(s.Assigned, s.Current, s.Active, s.Valid, s.Invalid)
}

// says has a device report one configuration, and nothing else.
func (w *world) says(enrollment, identifier, token, valid, reasons string) {
	w.Helper()
	w.report(enrollment, declared(status(identifier, token, valid, reasons)))
}

// tokenOf returns a declaration's current token.
func (w *world) tokenOf(identifier string) string {
	w.Helper()
	return w.declaration(identifier).ServerToken
}

// fleetStory makes a fleet with all that can be said of "d", which two sets hold.
func (w *world) fleetStory() {
	w.fill("s", "d", "other")
	w.fill("t", "d")
	old := w.tokenOf("d")
	w.put(configuration("d", "second"))
	token := w.tokenOf("d")
	for _, id := range []string{"a valid", "b invalid", "c old", "d silent", "e left", "f both", "g reasons", "h unknown"} {
		w.assign(id, "s")
	}
	for _, id := range []string{"f both", "i second", "j back"} {
		w.assign(id, "t")
	}
	w.assign("k other", "u")
	w.says("a valid", "d", token, "valid", `[]`)
	w.says("b invalid", "d", token, "invalid", `[{"code":"Error.Bad","description":"why"}]`)
	w.says("c old", "d", old, "invalid", `[{"code":"Error.Old"}]`)
	w.says("e left", "d", token, "invalid", `[{"code":"Error.Bad"}]`)
	w.report("f both", declared(status("d", old, "valid", `[]`), status("d", token, "valid", `[{"code":"Info.Predicate"}]`)))
	w.says("g reasons", "d", token, "valid", `[{"code":"Error.Inside"}]`)
	w.report("h unknown", `{"StatusItems":{"management":{"declarations":{"configurations":[
		{"identifier":"d","server-token":"`+token+`","active":false,"valid":"unknown","reasons":[]}]}}}}`)
	w.says("i second", "d", token, "valid", `[]`)
	w.leave("j back")
	w.leave("e left")
	w.says("k other", "d", token, "invalid", `[{"code":"Error.Bad"}]`) // left over from a set that it had
}

func declarationSummaries(w *world) {
	list, err := w.store.DeclarationSummaries(w.ctx, all)
	require.NoError(w, err)
	require.Empty(w, list)
	_, err = w.store.DeclarationSummary(w.ctx, "d")
	require.ErrorIs(w, err, storage.ErrNotFound)
	_, early, err := w.store.CountDeclaration(w.ctx, "d", []string{"e"}, 0, tireless)
	require.NoError(w, err, "it is none of its business")
	require.Zero(w, early)

	w.fleetStory()
	summary, err := w.store.DeclarationSummary(w.ctx, "d")
	require.NoError(w, err)
	require.Equal(w, &storage.DeclarationSummary{Identifier: "d", Type: typeConfiguration, ServerToken: w.tokenOf("d")}, summary,
		"not counted yet")
	// a, b, c, d, f, g, h, i; without c and d; without h; a, f, i; b, g.
	require.Equal(w, "8 6 5 3 2", w.counted("d"))
	require.Equal(w, "7 0 0 0 0", w.counted("other"))

	// Those that are in the same sets are counted together, with the same numbers.
	w.fill("s", "e", "f")
	w.fill("t", "f")
	w.clock.Advance(time.Second)
	counted, _, err := w.store.CountDeclaration(w.ctx, "f", []string{"d", "e", "other", "unknown"}, 0, tireless)
	require.NoError(w, err)
	require.ElementsMatch(w, []string{"d", "f"}, counted)
	for identifier, wanted := range map[string]string{"d": "8 6 5 3 2", "f": "8 0 0 0 0"} {
		summary, err := w.store.DeclarationSummary(w.ctx, identifier)
		require.NoError(w, err)
		require.Equal(w, wanted, numbersOf(summary))
		require.Equal(w, w.clock.Now(), summary.CountedAt)
	}
	counted, _, err = w.store.CountDeclaration(w.ctx, "other", []string{"d", "e"}, 0, tireless)
	require.NoError(w, err)
	require.ElementsMatch(w, []string{"e", "other"}, counted)
	for _, identifier := range []string{"e", "f"} {
		w.remove("s", identifier)
	}
	w.remove("t", "f")
	for _, identifier := range []string{"e", "f"} {
		require.True(w, w.deleteDeclaration(identifier))
	}

	// What is counted is of the version that was counted, until there is a new count.
	version := w.tokenOf("d")
	w.touch("d")
	summary, err = w.store.DeclarationSummary(w.ctx, "d")
	require.NoError(w, err)
	require.Equal(w, version, summary.ServerToken)
	require.Equal(w, "8 6 5 3 2", numbersOf(summary))
	require.Equal(w, "8 0 0 0 0", w.counted("d"))

	w.remove("s", "d")
	require.Equal(w, "2 0 0 0 0", w.counted("d"))
	w.remove("t", "d")
	require.Equal(w, "0 0 0 0 0", w.counted("d"))

	w.put(configuration("e", "never counted"))
	list, err = w.store.DeclarationSummaries(w.ctx, storage.Page{After: "d", Limit: 2})
	require.NoError(w, err)
	require.Len(w, list, 2)
	require.Equal(w, []string{"e", "other"}, []string{list[0].Identifier, list[1].Identifier})
	require.Zero(w, list[0].CountedAt)
	require.EqualValues(w, 7, list[1].Assigned)
	list, err = w.store.DeclarationSummaries(w.ctx, storage.Page{Limit: 1})
	require.NoError(w, err)
	require.Len(w, list, 1)
	require.True(w, w.deleteDeclaration("d"))
	_, err = w.store.DeclarationSummary(w.ctx, "d")
	require.ErrorIs(w, err, storage.ErrNotFound)
	require.Equal(w, 2, w.count(`SELECT COUNT(*) FROM declaration_summaries`))
}

// declarationSummariesOfMany is for more enrollments than are counted with one statement, in overlapping sets.
func declarationSummariesOfMany(w *world) {
	const n = 4100
	w.fill("s", "d")
	w.fill("t", "d")
	for from := 0; from < n; from += 100 {
		var enrollments, sets []string
		for i := from; i < from+100; i++ {
			enrollments = append(enrollments, fmt.Sprintf("('e%04d', 0)", i))
			for _, set := range []string{"s", "t"}[i%2:] {
				sets = append(sets, fmt.Sprintf("('e%04d', '%s')", i, set))
			}
		}
		for _, statement := range []string{
			`INSERT INTO enrollments (id, created_at) VALUES ` + strings.Join(enrollments, ","),
			`INSERT INTO enrollment_sets (enrollment_id, set_name) VALUES ` + strings.Join(sets, ","),
		} {
			_, err := w.database.SQL.ExecContext(w.ctx, statement)
			require.NoError(w, err)
		}
	}
	require.Equal(w, "4100 0 0 0 0", w.counted("d"))

	rests := 0
	_, _, err := w.store.CountDeclaration(w.ctx, "d", nil, 0, func(context.Context) error { rests++; return nil })
	require.NoError(w, err)
	require.Greater(w, rests, 3, "there is a rest between statements")
	stopped := errors.New("stopped")
	w.clock.Advance(time.Second)
	_, _, err = w.store.CountDeclaration(w.ctx, "d", nil, 0, func(context.Context) error { return stopped })
	require.ErrorIs(w, err, stopped)
	summary, err := w.store.DeclarationSummary(w.ctx, "d")
	require.NoError(w, err)
	require.EqualValues(w, n, summary.Assigned, "half a count is none")
}

func (w *world) stale(age time.Duration, limit int) []string {
	w.Helper()
	list, err := w.store.StaleSummaries(w.ctx, age, limit)
	require.NoError(w, err)
	return list
}

func summariesThatAreStale(w *world) {
	w.fill("s", "a", "b", "c")
	require.ElementsMatch(w, []string{"a", "b", "c"}, w.stale(time.Hour, 10), "they were never counted")
	require.Len(w, w.stale(time.Hour, 2), 2)
	for _, identifier := range []string{"b", "a"} {
		w.counted(identifier)
	}
	require.Equal(w, []string{"c"}, w.stale(time.Hour, 10))
	w.clock.Advance(time.Hour)
	require.Equal(w, []string{"c", "b"}, w.stale(time.Hour, 10))
	w.clock.Advance(time.Second)
	require.Equal(w, []string{"c", "b", "a"}, w.stale(time.Hour, 10))

	// One that was just counted, by whichever server, is left alone for a while.
	w.counted("a")
	w.clock.Advance(2 * time.Second)
	_, early, err := w.store.CountDeclaration(w.ctx, "a", nil, 5*time.Second, func(context.Context) error {
		return errors.New("it was counted")
	})
	require.NoError(w, err)
	require.Equal(w, 3*time.Second, early)
}

func touchedDeclarations(w *world) {
	touched := func(wanted ...string) {
		w.Helper()
		identifiers, all, err := w.store.TouchedDeclarations(w.ctx)
		require.NoError(w, err)
		require.False(w, all)
		require.Equal(w, append([]string{}, wanted...), append([]string{}, identifiers...))
	}
	touched()
	w.put(configuration("a", "x"))
	touched("a")
	touched()
	w.put(configuration("a", "x"))
	touched()
	w.put(configuration("a", "y"))
	w.put(configuration("b", "y"))
	touched("a", "b")
	w.touch("b")
	touched("b")
	w.add("s", "a")
	touched("a")
	w.add("t", "b")
	touched("b")
	w.assign("e", "s")
	touched("a")
	w.assign("e", "s")
	touched()
	w.assign("e", "t")
	touched("b")
	w.says("e", "a", "1", "valid", `[]`)
	touched("a")
	w.says("e", "a", "1", "valid", `[]`)
	touched()
	w.says("e", "unknown", "1", "valid", `[]`)
	touched("a")
	w.unassign("e", "t")
	touched("a", "b")
	w.assign("e", "t")
	touched("b")
	w.leave("e")
	touched("a", "b")
	w.clock.Advance(time.Second)
	w.apply(w.authenticated(0))
	touched("a", "b")
	_, err := w.store.DeleteEnrollment(w.ctx, "e", change)
	require.NoError(w, err)
	touched("a", "b")
	w.assign("e", "s")
	_, err = w.store.DeleteEnrollmentSets(w.ctx, "e", change)
	require.NoError(w, err)
	touched("a")
	w.remove("s", "a")
	touched("a")
	require.True(w, w.deleteDeclaration("a"))
	touched()

	// A device that speaks of any number of declarations touches those that it should have.
	many := func(first, count int) string {
		var said []string
		for i := range count {
			said = append(said, status(fmt.Sprint(first+i), "1", "valid", `[]`))
		}
		return declared(said...)
	}
	w.add("t", "b")
	w.assign("e", "t")
	touched("b")
	w.report("e", many(0, 10_001))
	touched("b")

	// Too many to remember are all.
	for i := range 51 {
		w.report(fmt.Sprint("e", i), many(200*i, 200))
	}
	_, all, err := w.store.TouchedDeclarations(w.ctx)
	require.NoError(w, err)
	require.True(w, all)
	touched()
}
