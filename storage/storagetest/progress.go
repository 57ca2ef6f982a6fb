package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// What devices and notifiers write at the same time, and how much one device can make the database keep.
var progressTests = []test{
	{"InSyncUnlessServed", inSyncUnlessServed},
	{"LateFetch", lateFetch},
	{"LateSync", lateSync},
	{"BoundedValues", boundedValues},
	{"SameErrorAgain", sameErrorAgain},
}

// fetched is the update for a device that was served a manifest, as it was read.
func fetched(e *storage.Enrollment, token string) storage.DeviceUpdate {
	return storage.DeviceUpdate{
		ID: e.ID, Epoch: e.Epoch, NotifySeq: e.NotifySeq, SeenFetched: e.FetchedToken,
		DesiredToken: token, FetchedToken: token, LostSync: e.SyncedToken != "",
		Check: storage.CheckPostpone, CheckAfter: storage.FetchGrace,
	}
}

// finished is the update for a device that has finished with what it was served, as it was read.
func finished(e *storage.Enrollment) storage.DeviceUpdate {
	return storage.DeviceUpdate{
		ID: e.ID, Epoch: e.Epoch, NotifySeq: e.NotifySeq, SeenFetched: e.FetchedToken,
		DesiredToken: e.FetchedToken, SyncedToken: e.FetchedToken, Check: storage.CheckClear,
	}
}

// inSyncUnlessServed: an enrollment is claimed as one in sync, and its device fetches the manifest again.
func inSyncUnlessServed(w *world) {
	w.assign("e", "s")
	w.settle()
	token := w.compose("e").Token
	w.clock.Advance(time.Minute)
	w.assign("e", "empty")
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.update(fetched(w.enrollment("e"), token))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{"e"}, DesiredToken: token})
	e := w.enrollment("e")
	require.Empty(w, e.SyncedToken)
	require.True(w, e.OutOfSync)
	require.Equal(w, w.clock.Now().Add(storage.FetchGrace), e.NotifyAt, "it is looked at again")
}

// lateFetch: a device is served what is desired no more when that is written, and may hold neither the one nor the other.
func lateFetch(w *world) {
	w.assign("e", "s")
	w.settle()
	before := w.compose("e").Token
	w.put(configuration("d", "x"))
	w.add("s", "d")
	w.drain()
	served := fetched(w.enrollment("e"), w.compose("e").Token)
	w.remove("s", "d")
	w.drain()
	require.Equal(w, []string{"e"}, w.claim(lease))
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeInSync, IDs: []string{"e"}, DesiredToken: before})
	require.Zero(w, w.enrollment("e").NotifyAt)

	w.update(served)
	e := w.enrollment("e")
	require.Empty(w, e.SyncedToken)
	require.Equal(w, served.FetchedToken, e.FetchedToken)
	require.Equal(w, w.clock.Now().Add(storage.FetchGrace), e.NotifyAt, "it is looked at again")
}

// lateSync: what a device said before it was served something else is written after.
func lateSync(w *world) {
	w.assign("e", "s")
	w.settle()
	w.update(fetched(w.enrollment("e"), "first"))
	late := finished(w.enrollment("e"))
	w.update(fetched(w.enrollment("e"), "second"))
	w.update(late)
	e := w.enrollment("e")
	require.Empty(w, e.SyncedToken)
	require.True(w, e.OutOfSync)
	require.NotZero(w, e.NotifyAt)

	w.update(finished(e))
	w.update(late)
	e = w.enrollment("e")
	require.Equal(w, "second", e.SyncedToken)
	require.False(w, e.OutOfSync)
	require.Zero(w, e.NotifyAt)
}

// boundedValues: reports of any size are kept whole, and what is folded of them is bounded.
func boundedValues(w *world) {
	many := func(prefix string, n int) string {
		items := make([]string, n)
		for i := range items {
			items[i] = fmt.Sprintf(`"%s%d":%d`, prefix, i, i)
		}
		return `{"StatusItems":{"test":{` + strings.Join(items, ",") + `}}}`
	}
	w.report("e", `{"StatusItems":{"device":{"model":"before"}}}`)
	w.report("e", many("a", 30_000))
	kept := w.count(`SELECT COUNT(*) FROM status_values`)
	require.LessOrEqual(w, kept, 20_000)
	w.report("e", many("b", 1000))
	require.Equal(w, kept, w.count(`SELECT COUNT(*) FROM status_values`))
	w.report("e", `{"StatusItems":{"device":{"model":"after"}}}`)
	require.Contains(w, w.values("e"), `device.model "after"`, "what is known changes all the same")

	long := `{"StatusItems":{"device":{"model":"` + strings.Repeat(`\"`, 5<<20) + `","n":1}}}`
	w.report("e", long)
	require.Contains(w, w.values("e"), `device.model "`+strings.Repeat(`\"`, 5<<20)+`"`, "what is long is known whole")
	report, err := w.store.StatusReportByIndex(w.ctx, "e", 0)
	require.NoError(w, err)
	require.Len(w, report.Raw, len(long))

	w.report("e", `{"FullReport":true,"StatusItems":{"device":{"model":"new"}}}`)
	require.Equal(w, []string{`device.model "new"`}, w.values("e"))
}

// sameErrorAgain: a device that says the same in each report says it once.
func sameErrorAgain(w *world) {
	one := `{"Errors":[{"StatusItem":"a"},{"StatusItem":"b"}]}`
	w.report("e", one)
	w.report("e", one)
	w.report("e", `{"StatusItems":{}}`)
	w.report("e", one)
	require.Equal(w, 2, w.count(`SELECT COUNT(*) FROM status_errors`))
	w.report("e", `{"Errors":[{"StatusItem":"c"},{"StatusItem":"b"}]}`)
	require.Equal(w, 4, w.count(`SELECT COUNT(*) FROM status_errors`), "one is new, so all are said")
	w.report("e", `{"Errors":[{"StatusItem":"b"}]}`)
	w.report("e", one)
	require.Equal(w, 6, w.count(`SELECT COUNT(*) FROM status_errors`), "both are new after the other")
	w.report("other", one)
	require.Equal(w, 8, w.count(`SELECT COUNT(*) FROM status_errors`))
}
