package storagetest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var oddStatusTests = []test{
	{"StatusListsThatChangeTheirKind", statusListsThatChangeTheirKind},
	{"StatusReplacedAtTheBound", statusReplacedAtTheBound},
	{"StatusDeclarationsOfAnotherShape", statusDeclarationsOfAnotherShape},
	{"StatusProblemOfDeclarations", statusProblemOfDeclarations},
	{"StatusOfWhoHasLeft", statusOfWhoHasLeft},
	{"StatusVerdictsAreBounded", statusVerdictsAreBounded},
	{"StatusUpdateDetails", statusUpdateDetails},
	{"StatusWithLongMembers", statusWithLongMembers},
	{"StatusBesideALockedRow", statusBesideALockedRow},
	{"StatusOfNewEnrollmentsAtOnce", statusOfNewEnrollmentsAtOnce},
}

func statusListsThatChangeTheirKind(w *world) {
	for _, before := range []string{`"none"`, `null`, `[1,2]`, `[{"n":1}]`, `{"x":1}`} {
		w.report("e", `{"StatusItems":{"a":`+before+`}}`)
		w.report("e", `{"StatusItems":{"a":[{"identifier":"x"}]}}`)
		require.Equal(w, []string{`a {"identifier":"x"}`}, w.values("e"), before)
	}
	// A strange element costs nothing else.
	w.report("e", `{"StatusItems":{"a":[{"identifier":"y","v":1}]}}`)
	w.report("e", `{"StatusItems":{"a":[{"identifier":"y","v":2},null]}}`)
	w.report("e", `{"StatusItems":{"a":[{"identifier":"y","v":3}]}}`)
	require.Equal(w, []string{`a {"identifier":"x"}`, `a {"identifier":"y","v":3}`, `a null`}, w.values("e"))
	w.report("e", `{"StatusItems":{"a":[{"identifier":"y","_removed":true}]}}`)
	w.report("e", `{"StatusItems":{"a":[]}}`)
	require.Equal(w, []string{`a {"identifier":"x"}`, `a null`}, w.values("e"))
}

// statusReplacedAtTheBound checks that what goes makes room for what comes.
func statusReplacedAtTheBound(w *world) {
	list := func(prefix string, n int) string {
		elements := make([]string, n)
		for i := range elements {
			elements[i] = fmt.Sprintf(`{"identifier":"%s%d"}`, prefix, i)
		}
		return strings.Join(elements, ",")
	}
	for _, prefix := range []string{"a", "b"} {
		w.report("e", `{"FullReport":true,"StatusItems":{"list":[`+list(prefix, 12_000)+`]}}`)
		require.Len(w, w.values("e"), 12_000)
	}
	w.report("e", `{"FullReport":true,"StatusItems":{"list":[`+list("c", 30_000)+`]}}`)
	require.Len(w, w.values("e"), 20_000)
	removed := strings.ReplaceAll(list("c", 25_000), `"}`, `","_removed":true}`)
	w.report("e", `{"StatusItems":{"list":[`+removed+`,`+list("d", 100)+`]}}`)
	require.Len(w, w.values("e"), 100)
}

func statusDeclarationsOfAnotherShape(w *world) {
	proper := declared(status("a", "1", "valid", `[]`))
	for _, odd := range []string{
		`{"StatusItems":{"management":{"declarations":{"activations":[5],"others":1}}}}`,
		`{"StatusItems":{"management":{"declarations":null}}}`, `{"StatusItems":{"management":7}}`,
		`{"StatusItems":{"management":{"declarations":[1]}}}`,
	} {
		w.report("e", proper)
		w.report("e", odd)
		require.Empty(w, w.declarationStatuses("e"), odd)
		w.report("e", proper)
		require.Empty(w, w.values("e"), odd)
		require.Len(w, w.declarationStatuses("e"), 1)
	}
}

func statusProblemOfDeclarations(w *world) {
	for _, item := range []string{"management.declarations", "management"} {
		w.report("e", `{"Errors":[{"StatusItem":"`+item+`"}]}`)
		require.Len(w, w.problems("e"), 1)
		w.report("e", declared(status("a", "1", "valid", `[]`)))
		require.Empty(w, w.problems("e"), item)
	}
}

// statusOfWhoHasLeft checks that what a device says while it leaves is kept, and not counted.
func statusOfWhoHasLeft(w *world) {
	w.assign("e", "s")
	w.apply(w.checkedOut(0))
	status := w.received("e", declared(status("a", "1", "invalid", `[]`)))
	status.Device.Epoch = w.enrollment("e").Epoch
	require.NoError(w, w.store.PutStatus(w.ctx, status))
	require.Empty(w, w.problems("e"))
	require.Empty(w, w.declarationStatuses("e"))
	_, err := w.store.StatusReportByIndex(w.ctx, "e", 0)
	require.NoError(w, err)
	status.Device.Back = true
	require.NoError(w, w.store.PutStatus(w.ctx, status))
	require.Len(w, w.problems("e"), 1)
}

// statusVerdictsAreBounded checks that one device cannot push what others do out of the log.
func statusVerdictsAreBounded(w *world) {
	all := make([]string, 5000)
	for i := range all {
		all[i] = status(fmt.Sprint("d", i), "1", "invalid", `[]`)
	}
	w.report("e", declared(all...))
	require.LessOrEqual(w, len(w.noted()), 200)
	require.Len(w, w.declarationStatuses("e"), 5000)
}

func statusUpdateDetails(w *world) {
	for i, items := range []string{
		`"install-state":"downloading"`, `"pending-version":{"os-version":"15.3"}`, `"failure-reason":{"reason":"no","count":1}`,
	} {
		w.report("e", `{"StatusItems":{"softwareupdate":{`+items+`}}}`)
		require.Len(w, w.noted(), i+1, items)
	}
	w.report("e", `{"StatusItems":{"softwareupdate":{"failure-reason":{"count":2}}}}`)
	require.Len(w, w.noted(), 3)
}

// statusWithLongMembers checks that a declaration is known also where what is said of it is too long.
func statusWithLongMembers(w *world) {
	w.report("e", declared(
		status("a", "1", strings.Repeat("v", 200), `[]`),
		status("b", "1", "invalid", `[{"code":"Error.Bad","description":"`+strings.Repeat("x", 2<<20)+`"}]`),
	))
	require.Len(w, w.declarationStatuses("e"), 2)
	require.Equal(w, []string{"declaration b 1 unknown"}, w.problems("e"))
}

// statusBesideALockedRow checks that nobody waits for a row that somebody holds but the device that it is of, and that one
// not for long.
func statusBesideALockedRow(w *world) {
	if !w.database.Shared {
		return // there a transaction holds everything
	}
	w.assign("held", "s")
	w.assign("free", "s")
	release := w.hold(`SELECT 1 FROM enrollments WHERE id = ?`, "held")
	defer release()
	ctx, cancel := context.WithTimeout(w.ctx, 300*time.Millisecond)
	defer cancel()
	waits := w.start(func() error { return w.store.PutStatus(ctx, w.received("held", `{"StatusItems":{"n":1}}`)) })
	for range 20 {
		w.report("free", `{"StatusItems":{"n":1}}`)
		w.report("new", `{"StatusItems":{"n":1}}`)
	}
	require.ErrorIs(w, waits(), context.DeadlineExceeded)
	release()
	require.NoError(w, w.store.PutStatus(w.ctx, w.received("held", `{"StatusItems":{"n":2}}`)))
}

// statusOfNewEnrollmentsAtOnce checks that no report is lost whose enrollment several make at the same moment: each that was
// taken is there.
func statusOfNewEnrollmentsAtOnce(w *world) {
	stores := []storage.Store{w.store, w.open(w.options())}
	if !w.database.Shared {
		stores[1] = w.store
	}
	const enrollments, each = 60, 3
	for i := range enrollments {
		id := fmt.Sprint("new", i)
		var waits []func() error
		for _, store := range stores {
			for range each {
				waits = append(waits, w.start(func() error {
					return store.PutStatus(w.ctx, w.received(id, `{"StatusItems":{"n":1}}`))
				}))
			}
		}
		for _, wait := range waits {
			require.NoError(w, wait())
		}
	}
	require.Equal(w, enrollments*each*len(stores), w.count(`SELECT COUNT(*) FROM status_reports`))
}
