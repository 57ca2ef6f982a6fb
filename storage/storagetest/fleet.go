package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var fleetTests = []test{
	{"DeclarationEnrollments", declarationEnrollments},
	{"DeclarationEnrollmentsOfManySets", declarationEnrollmentsOfManySets},
	{"StatusSummary", statusSummary},
	{"StatusSummaryStopsAtABound", statusSummaryStopsAtABound},
	{"Problems", problemGroups},
	{"ProblemsStopAtABound", problemsStopAtABound},
	{"EnrollmentDeclarations", enrollmentDeclarations},
}

// enrollmentsOf reads all pages of a declaration's enrollments.
func (w *world) enrollmentsOf(
	store storage.Store, identifier string, state storage.DeclarationState, limit int,
) (list []storage.DeclarationEnrollment) {
	w.Helper()
	page := storage.Page{Limit: limit}
	for range 1000 {
		more, next, err := store.DeclarationEnrollments(w.ctx, identifier, state, page)
		require.NoError(w, err)
		require.LessOrEqual(w, len(more), limit)
		list = append(list, more...)
		if next == "" {
			return list
		}
		require.Greater(w, next, page.After)
		page.After = next
	}
	require.Fail(w, "the list does not end")
	return nil
}

func enrollmentIDs(list []storage.DeclarationEnrollment) string {
	var ids []string
	for _, e := range list {
		ids = append(ids, e.EnrollmentID)
	}
	return strings.Join(ids, ", ")
}

func declarationEnrollments(w *world) {
	_, _, err := w.store.DeclarationEnrollments(w.ctx, "d", storage.StateAssigned, all)
	require.ErrorIs(w, err, storage.ErrNotFound)
	w.fleetStory()
	options := w.options()
	options.MaxLooked = 2
	short := w.open(options)
	states := map[storage.DeclarationState]string{
		storage.StateAssigned: "a valid, b invalid, c old, d silent, f both, g reasons, h unknown, i second",
		storage.StateCurrent:  "a valid, b invalid, f both, g reasons, h unknown, i second",
		storage.StateActive:   "a valid, b invalid, f both, g reasons, i second",
		storage.StateValid:    "a valid, f both, i second",
		storage.StateInvalid:  "b invalid, g reasons",
		storage.StatePending:  "c old, d silent",
	}
	for _, state := range storage.DeclarationStates {
		for _, limit := range []int{1, 2, 3, 100} {
			require.Equal(w, states[state], enrollmentIDs(w.enrollmentsOf(w.store, "d", state, limit)), "%s %d", state, limit)
			require.Equal(w, states[state], enrollmentIDs(w.enrollmentsOf(short, "d", state, limit)), "%s %d", state, limit)
		}
	}
	list := w.enrollmentsOf(w.store, "d", storage.StateAssigned, 100)
	require.Equal(w, "Error.Old", errorCodeOf(list[2].Status), "of the version of which it spoke last")
	require.False(w, list[2].Status.Current)
	require.Nil(w, list[3].Status)
	require.Equal(w, w.tokenOf("d"), list[4].Status.ServerToken, "the current one of two")
	report, err := w.store.StatusReportByIndex(w.ctx, "b invalid", 0)
	require.NoError(w, err)
	require.Equal(w, &storage.DeclarationStatus{
		Identifier: "d", ServerToken: w.tokenOf("d"), Active: true, Valid: "invalid", Current: true,
		Reasons: []byte(`[{"code":"Error.Bad","description":"why"}]`), ReceivedAt: report.ReceivedAt, StatusID: report.StatusID,
	}, list[1].Status)

	w.says("b invalid", "d", w.tokenOf("d"), "invalid", `[{"code":"Error.Long","x":"`+strings.Repeat("x", 20_000)+`"}]`)
	list = w.enrollmentsOf(w.store, "d", storage.StateInvalid, 1)
	require.Equal(w, "b invalid, g reasons", enrollmentIDs(list))
	require.Nil(w, list[0].Status.Reasons, "they are too long for a list")
}

// errorCodeOf returns the one code in the reasons of a status.
func errorCodeOf(s *storage.DeclarationStatus) string {
	_, code, _ := strings.Cut(string(s.Reasons), `"code":"`)
	code, _, _ = strings.Cut(code, `"`)
	return code
}

// declarationEnrollmentsOfManySets is for a declaration that more sets hold than are merged.
func declarationEnrollmentsOfManySets(w *world) {
	var wanted []string
	for i := range 12 {
		w.fill(fmt.Sprintf("s%02d", i), "d")
		id := fmt.Sprintf("e%02d", i)
		wanted = append(wanted, id)
		w.assign(id, fmt.Sprintf("s%02d", i))
		w.assign(id, "s00")
		w.assign(fmt.Sprintf("other%02d", i), "other")
	}
	for _, limit := range []int{1, 5, 100} {
		for _, state := range []storage.DeclarationState{storage.StateAssigned, storage.StatePending} {
			require.Equal(w, strings.Join(wanted, ", "), enrollmentIDs(w.enrollmentsOf(w.store, "d", state, limit)))
		}
	}
	require.Equal(w, "12 0 0 0 0", w.counted("d"))
}

// valueCounts reads all pages of a summary of values, as lines in order.
func (w *world) valueCounts(store storage.Store, path string, limit int) (lines []string) {
	w.Helper()
	page := storage.Page{Limit: limit}
	for range 1000 {
		list, next, err := store.StatusSummary(w.ctx, path, page)
		require.NoError(w, err)
		require.LessOrEqual(w, len(list), limit)
		for _, value := range list {
			require.Greater(w, value.Key, page.After)
			line := fmt.Sprintf("%s %d", value.Value, value.Count)
			if value.More {
				line += " or more"
			}
			lines = append(lines, line)
		}
		if next == "" {
			slices.Sort(lines)
			return lines
		}
		page.After = next
	}
	require.Fail(w, "the list does not end")
	return nil
}

func statusSummary(w *world) {
	const path = ".StatusItems.device.operating-system.version"
	require.Empty(w, w.valueCounts(w.store, path, 10))
	for i, version := range []string{"15.1", "15.2", "15.2", "15.2", "16", "15.1"} {
		w.report(fmt.Sprint("e", i), device(fmt.Sprintf(`"operating-system":{"version":%q,"family":"macOS"}`, version)))
	}
	w.report("number", device(`"operating-system":{"version":16}`))
	wanted := []string{`"15.1" 2`, `"15.2" 3`, `"16" 1`, `16 1`}
	for _, limit := range []int{1, 2, 3, 4, 5, 100} {
		require.Equal(w, wanted, w.valueCounts(w.store, path, limit), limit)
	}
	require.Empty(w, w.valueCounts(w.store, ".StatusItems.device.operating-system", 10), "it is no value")
	_, _, err := w.store.StatusSummary(w.ctx, path, storage.Page{After: "x", Limit: 1})
	require.Error(w, err)

	// A list has its elements counted, and of what is long there is the beginning.
	w.report("e0", `{"StatusItems":{"list":["a","b"],"long":"`+strings.Repeat("x", 5000)+`","packed":"`+strings.Repeat("y", 100_000)+`"}}`)
	w.report("e1", `{"StatusItems":{"list":["b","a","b"]}}`)
	require.Equal(w, []string{`"a" 2`, `"b" 3`}, w.valueCounts(w.store, ".StatusItems.list", 10))
	for name, c := range map[string]string{"long": "x", "packed": "y"} {
		list, _, err := w.store.StatusSummary(w.ctx, ".StatusItems."+name, all)
		require.NoError(w, err)
		require.Len(w, list, 1)
		require.True(w, list[0].Cut)
		require.Regexp(w, `^"`+c+`+$`, string(list[0].Value))
		require.Greater(w, len(list[0].Value), 1000)
		require.LessOrEqual(w, len(list[0].Value), storage.MaxListedValue)
	}
}

func statusSummaryStopsAtABound(w *world) {
	store := w.open(sqlstore.Options{Clock: w.clock.Now, MaxScanned: 3})
	const path = ".StatusItems.test.n"
	for i := range 12 {
		w.report(fmt.Sprint("e", i), fmt.Sprintf(`{"StatusItems":{"test":{"n":%d}}}`, max(0, i-5)))
	}
	wanted := []string{"0 3 or more", "1 1", "2 1", "3 1", "4 1", "5 1", "6 1"}
	for _, limit := range []int{1, 2, 3, 100} {
		require.Equal(w, wanted, w.valueCounts(store, path, limit), limit)
	}
	list, next, err := store.StatusSummary(w.ctx, path, all)
	require.NoError(w, err)
	require.Less(w, len(list), 7, "a page ends when enough was read")
	require.NotEmpty(w, next)
}

// problemLines reads all pages of problems, as lines.
func (w *world) problemLines(store storage.Store, limit int) (lines []string) {
	w.Helper()
	var after storage.ProblemKey
	for range 1000 {
		list, next, err := store.Problems(w.ctx, after, limit)
		require.NoError(w, err)
		require.LessOrEqual(w, len(list), limit)
		for _, p := range list {
			line := fmt.Sprintf("%s %s %s %d", p.Code, p.Kind, p.Subject, p.Count)
			if p.More {
				line += " or more"
			}
			lines = append(lines, line+" "+p.EnrollmentID+" "+string(p.Error))
		}
		if next == nil {
			return lines
		}
		after = *next
	}
	require.Fail(w, "the list does not end")
	return nil
}

func problemGroups(w *world) {
	require.Empty(w, w.problemLines(w.store, 10))
	for i, id := range []string{"a", "b", "c"} {
		w.clock.Advance(time.Second)
		w.report(id, declared(status("d", fmt.Sprint(i), "invalid", fmt.Sprintf(`[{"code":"Error.Bad","n":%d}]`, i)),
			status("e", "1", "invalid", `[]`)))
	}
	w.clock.Advance(time.Second)
	w.report("a", declared(status("d", "0", "invalid", `[{"code":"Error.Bad","n":0}]`), status("e", "1", "valid", `[]`),
		status("f", "1", "invalid", `[{"code":"Error.Bad","x":"`+strings.Repeat("x", 20_000)+`"}]`)))
	w.report("d", `{"Errors":[{"StatusItem":"mdm.app","Reasons":[{"Code":"Error.Bad"}]},{"StatusItem":"other"}]}`)
	wanted := []string{
		`Error.Bad declaration d 3 a [{"code":"Error.Bad","n":0}]`,
		`Error.Bad declaration f 1 a `,
		`Error.Bad status-item mdm.app 1 d {"StatusItem":"mdm.app","Reasons":[{"Code":"Error.Bad"}]}`,
		`unknown declaration e 2 c []`,
		`unknown status-item other 1 d {"StatusItem":"other"}`,
	}
	for _, limit := range []int{1, 2, 3, 4, 5, 100} {
		require.Equal(w, wanted, w.problemLines(w.store, limit), limit)
	}
	list, _, err := w.store.Problems(w.ctx, storage.ProblemKey{}, 1)
	require.NoError(w, err)
	require.True(w, list[0].ReceivedAt.Equal(w.clock.Now()), "the newest is who said it last, also not for the first time")
	// A place between those that there are.
	list, next, err := w.store.Problems(w.ctx, storage.ProblemKey{Code: "Error.Bad", Kind: "n", Subject: "x"}, 1)
	require.NoError(w, err)
	require.Equal(w, "mdm.app", list[0].Subject)
	require.Equal(w, &list[0].ProblemKey, next)
}

func problemsStopAtABound(w *world) {
	store := w.open(sqlstore.Options{Clock: w.clock.Now, MaxScanned: 3})
	for i := range 5 {
		w.clock.Advance(time.Second)
		w.report(fmt.Sprint("e", i), declared(status("d", "1", "invalid", `[{"code":"Error.A"}]`),
			status(fmt.Sprint(i), "1", "invalid", `[{"code":"Error.B"}]`)))
	}
	wanted := []string{`Error.A declaration d 3 or more e4 [{"code":"Error.A"}]`}
	for i := range 5 {
		wanted = append(wanted, fmt.Sprintf(`Error.B declaration %d 1 e%d [{"code":"Error.B"}]`, i, i))
	}
	for _, limit := range []int{1, 2, 100} {
		require.Equal(w, wanted, w.problemLines(store, limit), limit)
	}
}

func enrollmentDeclarations(w *world) {
	list, err := w.store.EnrollmentDeclarations(w.ctx, "e")
	require.NoError(w, err)
	require.Empty(w, list)
	w.fill("s", "b", "a")
	w.fill("t", "a")
	w.fill("other", "c")
	w.assign("e", "t")
	w.assign("e", "s")
	w.assign("e", "empty")
	list, err = w.store.EnrollmentDeclarations(w.ctx, "e")
	require.NoError(w, err)
	require.Equal(w, []storage.EnrollmentDeclaration{
		{Identifier: "a", Type: typeConfiguration, Class: "configuration", ServerToken: w.tokenOf("a"), Sets: []string{"s", "t"}},
		{Identifier: "b", Type: typeConfiguration, Class: "configuration", ServerToken: w.tokenOf("b"), Sets: []string{"s"}},
	}, list)
}
