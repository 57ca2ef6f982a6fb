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
	{"StatusDictionaries", statusDictionaries},
	{"StatusEmptyFamilies", statusEmptyFamilies},
	{"StatusLongPaths", statusLongPaths},
	{"StatusValuesAreBounded", statusValuesAreBounded},
	{"StatusCodesOfAnySpelling", statusCodesOfAnySpelling},
	{"StatusFullWithoutDeclarations", statusFullWithoutDeclarations},
	{"StatusAboveWhatIsReported", statusAboveWhatIsReported},
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

	// The MDM's clock is behind: what was said last comes after the leaving by it.
	w.clock.Advance(time.Hour)
	w.report("f", device(`"operating-system":{"version":"15"}`))
	w.report("f", `{"Errors":[{"StatusItem":"x"}]}`)
	w.report("f", capable("a"))
	w.report("f", declared(`{"identifier":"a","server-token":"1","valid":"invalid"}`))
	event := w.checkedOut(time.Second)
	event.ID = "f"
	w.apply(event)
	require.Empty(w, w.problems("f"))
	require.Empty(w, w.declarationStatuses("f"))
	require.Empty(w, w.values("f"))
	require.Zero(w, w.facts("f"))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM status_errors WHERE enrollment_id = 'f'`))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM capabilities`))
	_, err = w.store.StatusReportByIndex(w.ctx, "f", 0)
	require.NoError(w, err)
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
	w.report("e", `{"StatusItems":{"softwareupdate":{"failure-reason":{"reason":"no","count":2}}}}`)
	require.Len(w, w.noted(), 3)
	w.report("e", `{"StatusItems":{"softwareupdate":{"failure-reason":{"count":0}}}}`)
	require.Len(w, w.noted(), 4)
	require.Equal(w, 2, w.count(`SELECT COUNT(*) FROM event_outbox WHERE detail = ?`,
		`{"install_state":"downloading","pending_os_version":"15.3"}`), "the failure is over")
}

// statusDictionaries checks that an item of Apple's that is a dictionary is replaced as a whole, and what only looks like
// one is not.
func statusDictionaries(w *world) {
	w.report("e", `{"StatusItems":{"softwareupdate":{"failure-reason":{"count":3,"reason":"no","timestamp":"t"},"install-state":"none"},
		"test":{"dictionary-value":{"key1":"a","key2":"b"},"other-value":{"key1":"a","key2":"b"}}}}`)
	w.report("e", `{"StatusItems":{"softwareupdate":{"failure-reason":{"count":0}},
		"test":{"dictionary-value":{"key1":"a"},"other-value":{"key1":"a"}}}}`)
	require.Equal(w, []string{
		`softwareupdate.failure-reason.count 0`, `softwareupdate.install-state "none"`, `test.dictionary-value.key1 "a"`,
		`test.other-value.key1 "a"`, `test.other-value.key2 "b"`,
	}, w.values("e"))
	w.report("e", `{"StatusItems":{"management":{"client-capabilities":{"supported-versions":["1"],"supported-payloads":{"declarations":{"assets":["x"]}}}}}}`)
	w.report("e", `{"StatusItems":{"management":{"client-capabilities":{"supported-versions":["1"],"supported-payloads":{"declarations":{}}}}}}`)
	require.Empty(w, w.list(w.store, storage.EnrollmentFilter{Supports: "x"}, 100))
	require.False(w, w.facts("e").ConfirmedAt.IsZero())
}

// statusEmptyFamilies checks that a family without items says nothing of those that are known.
func statusEmptyFamilies(w *world) {
	w.report("e", declared(status("a", "1", "valid", `[]`)))
	w.report("e", device(`"operating-system":{"version":"15"}`))
	w.report("e", `{"StatusItems":{"management":{},"device":{}}}`)
	require.Len(w, w.declarationStatuses("e"), 1)
	require.Equal(w, "15", w.facts("e").OSVersion)
	require.Equal(w, []string{`device.operating-system.version "15"`}, w.values("e"))
}

// statusLongPaths checks that what has a path that is too long goes with what it is below.
func statusLongPaths(w *world) {
	long := strings.Repeat("k", 300)
	parent := strings.Repeat("p", 215)
	for _, path := range []string{`{"` + long + `":{"x":1},"n":2}`, `{"` + parent + `":{"` + long + `":1,"` + long + `k":2}}`} {
		w.report("e", `{"StatusItems":{"a":{"b":`+path+`},"z":1}}`)
		require.Len(w, w.values("e"), 3, path)
		w.report("e", `{"StatusItems":{"a":{"b":5}}}`)
		require.Equal(w, []string{"a.b 5", "z 1"}, w.values("e"), path)
	}
	w.report("e", `{"StatusItems":{"a":{"`+parent+`":{"`+long+`":1,"`+long+`k":2}}}}`)
	w.report("e", `{"StatusItems":{"a":{"`+parent+`":null}}}`)
	require.Equal(w, []string{"a.b 5", "a." + parent + " null", "z 1"}, w.values("e"))
	w.report("e", `{"StatusItems":{"a":{"`+long+`":{"x":{"y":1}}}}}`)
	w.report("e", `{"StatusItems":{"a":{"`+long+`":[]}}}`)
	require.Equal(w, []string{"a.b 5", "a." + parent + " null", "z 1"}, w.values("e"))
}

// statusValuesAreBounded checks that a device cannot have any number of long values kept, also where they are well compressed.
func statusValuesAreBounded(w *world) {
	for i := range 10 {
		w.report("e", fmt.Sprintf(`{"StatusItems":{"a":{"v%d":"%s"}}}`, i, strings.Repeat(fmt.Sprint(i), 15<<20)))
	}
	kept := 0
	for i, value := range w.values("e") {
		require.Equal(w, fmt.Sprintf("a.v%d", i), value[:4])
		kept += len(value)
	}
	require.Greater(w, kept, 45<<20)
	require.LessOrEqual(w, kept, 64<<20)
	// What has no room is not known any more, and what goes makes room.
	w.report("e", `{"StatusItems":{"a":{"v0":"`+strings.Repeat("x", 15<<20)+`"}}}`)
	require.Equal(w, 3, w.count(`SELECT COUNT(*) FROM status_values`))
	w.report("e", `{"StatusItems":{"a":{"v0":"`+strings.Repeat("x", 15<<20)+`"}}}`)
	require.Equal(w, 4, w.count(`SELECT COUNT(*) FROM status_values`))
	w.report("e", `{"StatusItems":{"a":1}}`)
	require.Equal(w, []string{"a 1"}, w.values("e"))
}

// statusCodesOfAnySpelling checks that an error is one however its code is written.
func statusCodesOfAnySpelling(w *world) {
	long := "Error." + strings.Repeat("x", 300)
	w.report("e", declared(
		status("a", "1", "unknown", `[{"code":"Error\u002eBad"}]`),
		status("b", "1", "unknown", `[{"\u0043ode":"\u0045rror.Worse"}]`),
		status("c", "1", "valid", `[{"code":"`+long+`"}]`),
		status("d", "1", "invalid", `[{"code":"`+long+`"}]`),
		status("e", "1", "valid", `[{"code":"Info.\u0045rror."}]`),
	))
	problems := w.problems("e")
	require.Len(w, problems, 4)
	require.Equal(w, []string{"declaration a 1 Error.Bad", "declaration b 1 Error.Worse"}, problems[:2])
	code := strings.TrimPrefix(problems[2], "declaration c 1 ")
	require.True(w, strings.HasPrefix(code, long[:200]))
	require.LessOrEqual(w, len(code), 255)
	require.Equal(w, "declaration d 1 "+code, problems[3])
	require.Equal(w, []string{"declaration.invalid", "declaration.invalid", "declaration.invalid", "declaration.invalid",
		"declaration.valid"}, w.noted())
	reported, err := w.store.StatusErrors(w.ctx, "e", 0, 10)
	require.NoError(w, err)
	require.Len(w, reported, 4)
}

// statusFullWithoutDeclarations checks that a full report that does not speak of declarations leaves alone what is known of
// them, wherever it says that it is full.
func statusFullWithoutDeclarations(w *world) {
	for _, full := range []string{
		`{"FullReport":true,"StatusItems":{"test":{"n":1}}}`, `{"StatusItems":{"FullReport":true,"test":{"n":1}}}`,
		`{"FullReport":true,"StatusItems":{"test":{"n":1},"management":{"client-capabilities":{"supported-versions":["1"]}}}}`,
		`{"FullReport":true}`,
	} {
		w.report("e", `{"StatusItems":{"gone":1}}`)
		w.report("e", declared(status("a", "1", "invalid", `[]`)))
		w.report("e", full)
		require.Len(w, w.declarationStatuses("e"), 1, full)
		require.Equal(w, []string{"declaration a 1 unknown"}, w.problems("e"), full)
		require.NotContains(w, w.values("e"), "gone 1", full)
	}
	w.report("e", `{"FullReport":true,"StatusItems":{"management":{"declarations":{}}}}`)
	require.Empty(w, w.declarationStatuses("e"))
	require.Empty(w, w.problems("e"))
}

// statusAboveWhatIsReported checks that a value goes that has become an object, also where the report has two keys of one
// dictionary before it.
func statusAboveWhatIsReported(w *world) {
	w.report("e", `{"StatusItems":{"z":{"a":1}}}`)
	w.report("e", `{"StatusItems":{"softwareupdate":{"pending-version":{"os-version":"1","build-version":"2"}},"z":{"a":{"b":2}}}}`)
	require.Equal(w, []string{
		`softwareupdate.pending-version.build-version "2"`, `softwareupdate.pending-version.os-version "1"`, "z.a.b 2",
	}, w.values("e"))
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
