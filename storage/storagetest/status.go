package storagetest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var statusTests = []test{
	{"PanicWhileStoringAReport", panicWhileStoringAReport},
	{"StatusReports", statusReports},
	{"StatusReportsAreExact", statusReportsAreExact},
	{"StatusOfAnEarlierEnrollment", statusOfAnEarlierEnrollment},
	{"StatusDeclarations", statusDeclarations},
	{"StatusDeclarationsCurrent", statusDeclarationsCurrent},
	{"StatusValues", statusValues},
	{"StatusValuesOrder", statusValuesOrder},
	{"StatusValuesUnchanged", statusValuesUnchanged},
	{"StatusValuesMany", statusValuesMany},
	{"StatusErrors", statusErrors},
	{"StatusInParallel", statusInParallel},
}

// received returns a report as a device sent it.
func (w *world) received(enrollment, report string) storage.ReceivedStatus {
	w.Helper()
	parsed, err := ddm.ParseStatusReport([]byte(report))
	require.NoError(w, err)
	return storage.ReceivedStatus{Raw: []byte(report), Report: parsed, Device: storage.DeviceUpdate{ID: enrollment}}
}

// report stores a report and returns the id that it got.
func (w *world) report(enrollment, report string) (statusID int64) {
	w.Helper()
	require.NoError(w, w.store.PutStatus(w.ctx, w.received(enrollment, report)))
	newest, err := w.store.StatusReportByIndex(w.ctx, enrollment, 0)
	require.NoError(w, err)
	require.Equal(w, report, string(newest.Raw))
	return newest.StatusID
}

// values returns what is known of an enrollment, as lines.
func (w *world) values(enrollment string) []string {
	w.Helper()
	values, err := w.store.StatusValues(w.ctx, enrollment)
	require.NoError(w, err)
	var lines []string
	for _, value := range values {
		lines = append(lines, strings.TrimPrefix(value.Path, ".StatusItems.")+" "+string(value.Value))
	}
	return lines
}

func statusReports(w *world) {
	w.store = w.open(sqlstore.Options{KeepReports: 3, Clock: w.clock.Now})
	_, err := w.store.StatusReportByIndex(w.ctx, "e", 0)
	require.ErrorIs(w, err, storage.ErrNotFound)
	_, err = w.store.StatusReportByID(w.ctx, "e", 1)
	require.ErrorIs(w, err, storage.ErrNotFound)

	other := w.report("f", `{"StatusItems":{}}`)
	require.True(w, w.enrollment("f").Known, "a report makes a row")
	var reported []storage.StatusReport
	for i := range 5 {
		raw := fmt.Sprintf(`{"StatusItems":{"test":{"n":%d}}}`, i)
		id := w.report("e", raw)
		require.Greater(w, id, other)
		reported = append([]storage.StatusReport{{StatusID: id, Raw: []byte(raw), ReceivedAt: w.clock.Now()}}, reported...)
		w.clock.Advance(time.Second)
	}
	for i, wanted := range reported {
		wanted.Index = i
		byIndex, err := w.store.StatusReportByIndex(w.ctx, "e", i)
		if i >= 3 {
			require.ErrorIs(w, err, storage.ErrNotFound)
			_, err = w.store.StatusReportByID(w.ctx, "e", wanted.StatusID)
			require.ErrorIs(w, err, storage.ErrNotFound)
			continue
		}
		require.NoError(w, err)
		require.Equal(w, &wanted, byIndex)
		byID, err := w.store.StatusReportByID(w.ctx, "e", wanted.StatusID)
		require.NoError(w, err)
		require.Equal(w, &wanted, byID)
		_, err = w.store.StatusReportByID(w.ctx, "f", wanted.StatusID)
		require.ErrorIs(w, err, storage.ErrNotFound, "it is another enrollment's")
	}
	_, err = w.store.StatusReportByID(w.ctx, "f", other)
	require.NoError(w, err, "each enrollment has reports of its own")

	// A report does what any request of a device does.
	status := w.received("e", `{"StatusItems":{}}`)
	status.Device.SyncedToken, status.Device.Type = "t", "Device"
	require.NoError(w, w.store.PutStatus(w.ctx, status))
	require.Equal(w, "t", w.enrollment("e").SyncedToken)
	require.Equal(w, "Device", w.enrollment("e").Type)
	require.True(w, w.enrollment("e").LastSeen.Equal(w.clock.Now()))
}

func statusReportsAreExact(w *world) {
	random := rand.New(rand.NewPCG(1, 2)) // #nosec G404 -- the same in each run
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte('!' + random.IntN(90)) // #nosec G115 -- it is at most 122
	}
	for _, raw := range []string{
		"{}", " {\n \"StatusItems\" : { } } \t\n",
		`{"Unknown":"` + strings.NewReplacer(`\`, `/`, `"`, `'`).Replace(string(noise)) + `"}`,
		`{"StatusItems":{"test":{"large":"` + strings.Repeat("😀", 1<<19) + `"}}}`,
	} {
		require.NoError(w, w.store.PutStatus(w.ctx, w.received("e", raw)))
		report, err := w.store.StatusReportByIndex(w.ctx, "e", 0)
		require.NoError(w, err)
		require.True(w, raw == string(report.Raw), "a report of %d octets has changed", len(raw))
	}
}

func statusOfAnEarlierEnrollment(w *world) {
	w.report("e", `{"StatusItems":{"test":{"n":1}}}`)
	_, err := w.database.SQL.ExecContext(w.ctx, `UPDATE enrollments SET enroll_epoch = 1 WHERE id = 'e'`)
	require.NoError(w, err)
	status := w.received("e", `{"StatusItems":{"test":{"n":2}},"FullReport":true,"Errors":[{"StatusItem":"x"}]}`)
	status.Device.SyncedToken = "t"
	require.NoError(w, w.store.PutStatus(w.ctx, status))
	require.Equal(w, []string{"test.n 1"}, w.values("e"))
	require.Empty(w, w.enrollment("e").SyncedToken)
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM status_reports`))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM status_errors`))
	status.Device.Epoch = 1
	require.NoError(w, w.store.PutStatus(w.ctx, status))
	require.Equal(w, []string{"test.n 2"}, w.values("e"))
	require.Equal(w, "t", w.enrollment("e").SyncedToken)
}

func (w *world) declarationStatuses(enrollment string) []storage.DeclarationStatus {
	w.Helper()
	statuses, err := w.store.DeclarationStatuses(w.ctx, enrollment)
	require.NoError(w, err)
	return statuses
}

func statusDeclarations(w *world) {
	require.Empty(w, w.declarationStatuses("e"))
	first := w.report("e", `{"StatusItems":{"management":{"declarations":{
		"configurations":[
			{"identifier":"b","server-token":"2","active":true,"valid":"valid"},
			{"identifier":"b","server-token":"1","active":false,"valid":"unknown"}],
		"activations":[{"identifier":"a","server-token":"1","active":true,"valid":"valid"}],
		"management":[{"identifier":"é","server-token":"1","active":false,"valid":"invalid",
			"reasons":[{"code":"Error.X","description":"why 😀","details":{"n":1.0}}]}]}}}}`)
	at := w.clock.Now()
	reasons := []byte(`[{"code":"Error.X","description":"why 😀","details":{"n":1.0}}]`)
	wanted := []storage.DeclarationStatus{
		{Identifier: "a", ServerToken: "1", Active: true, Valid: "valid", ReceivedAt: at, StatusID: first},
		{Identifier: "b", ServerToken: "1", Valid: "unknown", ReceivedAt: at, StatusID: first},
		{Identifier: "b", ServerToken: "2", Active: true, Valid: "valid", ReceivedAt: at, StatusID: first},
		{Identifier: "é", ServerToken: "1", Valid: "invalid", Reasons: reasons, ReceivedAt: at, StatusID: first},
	}
	require.Equal(w, wanted, w.declarationStatuses("e"))
	require.Empty(w, w.declarationStatuses("f"))

	w.clock.Advance(time.Second)
	w.report("e", `{"StatusItems":{"test":{"n":1}}}`)
	require.Equal(w, wanted, w.declarationStatuses("e"), "a report that does not speak of declarations keeps them")

	w.clock.Advance(time.Second)
	second := w.report("e", `{"StatusItems":{"management":{"declarations":{
		"activations":[{"identifier":"a","server-token":"1","active":true,"valid":"valid"}],
		"configurations":[{"identifier":"b","server-token":"2","active":false,"valid":"valid"}]}}}}`)
	require.Equal(w, []storage.DeclarationStatus{
		wanted[0], // as it was, so since when it was
		{Identifier: "b", ServerToken: "2", Valid: "valid", ReceivedAt: w.clock.Now(), StatusID: second},
	}, w.declarationStatuses("e"))

	w.report("e", `{"StatusItems":{"management":{"declarations":{"activations":[]}}}}`)
	require.Empty(w, w.declarationStatuses("e"))

	var many []string
	for i := range 450 {
		many = append(many, fmt.Sprintf(`{"identifier":"d%03d","server-token":"t","active":true,"valid":"valid"}`, i))
	}
	w.report("e", `{"StatusItems":{"management":{"declarations":{"assets":[`+strings.Join(many, ",")+`]}}}}`)
	require.Len(w, w.declarationStatuses("e"), 450)
}

func statusDeclarationsCurrent(w *world) {
	w.fill("s", "mine", "old")
	w.fill("t", "others")
	w.assign("e", "s")
	old := w.declaration("old").ServerToken
	w.touch("old")
	shard := ddm.ShardDeclaration("e")
	report := `{"StatusItems":{"management":{"declarations":{"configurations":[`
	for i, d := range [][2]string{
		{"mine", w.declaration("mine").ServerToken}, {"old", old}, {"old", w.declaration("old").ServerToken},
		{"others", w.declaration("others").ServerToken}, {shard.Identifier, shard.ServerToken}, {"unknown", "t"},
	} {
		if i > 0 {
			report += ","
		}
		report += fmt.Sprintf(`{"identifier":%q,"server-token":%q,"active":true,"valid":"valid"}`, d[0], d[1])
	}
	w.report("e", report+`]}}}}`)
	current := map[string]bool{}
	for _, status := range w.declarationStatuses("e") {
		if status.Current {
			current[status.Identifier+" "+status.ServerToken] = true
		}
	}
	require.Equal(w, map[string]bool{
		"mine " + w.declaration("mine").ServerToken: true,
		"old " + w.declaration("old").ServerToken:   true,
		shard.Identifier + " " + shard.ServerToken:  true,
	}, current)
}

func statusValues(w *world) {
	for i, step := range []struct {
		report string
		wanted []string
	}{
		{`{"StatusItems":{"device":{"os":{"version":"17.0"},"n":1.0},"list":["a","b","c"]}}`, []string{
			`device.n 1.0`, `device.os.version "17.0"`, `list "a"`, `list "b"`, `list "c"`,
		}},
		{`{"StatusItems":{"device":{"os":{"version":"17.1"}}}}`, []string{ // incremental
			`device.n 1.0`, `device.os.version "17.1"`, `list "a"`, `list "b"`, `list "c"`,
		}},
		{`{"StatusItems":{"list":["c"]}}`, []string{ // a list of scalars is replaced
			`device.n 1.0`, `device.os.version "17.1"`, `list "c"`,
		}},
		{`{"StatusItems":{"list":[]}}`, []string{`device.n 1.0`, `device.os.version "17.1"`}},
		{`{"StatusItems":{"apps":[{"identifier":"b","v":1},{"identifier":"a","v":1},{"identifier":"é","v":1}]}}`, []string{
			`apps {"identifier":"a","v":1}`, `apps {"identifier":"b","v":1}`, `apps {"identifier":"é","v":1}`,
			`device.n 1.0`, `device.os.version "17.1"`,
		}},
		{`{"StatusItems":{"apps":[{"identifier":"c","v":1},{"identifier":"b","v":2},{"identifier":"a","_removed":true},
			{"identifier":"unknown","_removed":true}]}}`, []string{ // a keyed list is merged
			`apps {"identifier":"b","v":2}`, `apps {"identifier":"c","v":1}`, `apps {"identifier":"é","v":1}`,
			`device.n 1.0`, `device.os.version "17.1"`,
		}},
		{`{"StatusItems":{"device":{"n":{"now":"an object"}}}}`, []string{ // another type
			`apps {"identifier":"b","v":2}`, `apps {"identifier":"c","v":1}`, `apps {"identifier":"é","v":1}`,
			`device.n.now "an object"`, `device.os.version "17.1"`,
		}},
		{`{"StatusItems":{"apps":"none"}}`, []string{
			`apps "none"`, `device.n.now "an object"`, `device.os.version "17.1"`,
		}},
		{`{"Errors":[]}`, []string{
			`apps "none"`, `device.n.now "an object"`, `device.os.version "17.1"`,
		}},
		{`{"StatusItems":{"device":{"n":{}}}}`, []string{ // and back
			`apps "none"`, `device.n {}`, `device.os.version "17.1"`,
		}},
		{`{"FullReport":true,"StatusItems":{"device":{"n":2},"apps":[{"identifier":"z"},{"identifier":"y","_removed":true}]}}`,
			[]string{`apps {"identifier":"z"}`, `device.n 2`}},
		{`{"StatusItems":{"FullReport":true,"apps":[{"identifier":"x"}]}}`, []string{`apps {"identifier":"x"}`}},
		{`{"FullReport":true,"StatusItems":{}}`, nil},
	} {
		w.report("other", step.report)
		w.report("e", step.report)
		require.Equal(w, step.wanted, w.values("e"), "step %d", i)
	}
	require.Zero(w, w.count(`SELECT COUNT(*) FROM status_values`))
}

func statusValuesOrder(w *world) {
	w.report("e", `{"StatusItems":{"b":1,"B":1,"a":1,"a ":1,"a\u0001":1,"a\t":1,"a!":1,"é":1,"😀":1,"aa":1,"a.a":1,
		"l":[{"identifier":"a ","n":2},{"identifier":"a\u0001","n":1},{"identifier":"a","n":0},{"identifier":"A","n":-1}]}}`)
	require.Equal(w, []string{
		"B 1", "a 1", "a\x01 1", "a\t 1", "a  1", "a! 1", "a.a 1", "aa 1", "b 1",
		`l {"identifier":"A","n":-1}`, `l {"identifier":"a","n":0}`, `l {"identifier":"a\u0001","n":1}`,
		`l {"identifier":"a ","n":2}`, "é 1", "😀 1",
	}, w.values("e"))
}

func statusValuesUnchanged(w *world) {
	const report = `{"StatusItems":{"n":1,"list":["a"],"apps":[{"identifier":"a"}],"large":"` + "é" + `"}}`
	first := w.report("e", report)
	before, err := w.store.StatusValues(w.ctx, "e")
	require.NoError(w, err)
	require.Len(w, before, 4)
	for _, value := range before {
		require.True(w, value.ChangedAt.Equal(w.clock.Now()))
		require.Equal(w, first, value.StatusID)
	}
	w.clock.Advance(time.Hour)
	w.report("e", report)
	w.report("e", strings.TrimSuffix(report, "}")+`,"FullReport":true}`)
	after, err := w.store.StatusValues(w.ctx, "e")
	require.NoError(w, err)
	require.Equal(w, before, after, "what is said again has not changed")

	changed := w.report("e", strings.Replace(report, `"n":1`, `"n":1.0`, 1))
	after, err = w.store.StatusValues(w.ctx, "e")
	require.NoError(w, err)
	require.True(w, after[3].ChangedAt.Equal(w.clock.Now()))
	require.Equal(w, changed, after[3].StatusID)
	require.Equal(w, before[:3], after[:3])
}

func statusValuesMany(w *world) {
	const elements = 1500
	report := func(from, to int) string {
		var list []string
		for i := from; i < to; i++ {
			list = append(list, fmt.Sprintf(`{"identifier":"app%05d","name":%q}`, i, strings.Repeat("x", 100)))
		}
		return `{"StatusItems":{"apps":[` + strings.Join(list, ",") + `]}}`
	}
	w.report("e", report(0, elements))
	require.Len(w, w.values("e"), elements)
	w.report("e", report(elements-10, elements+10))
	require.Len(w, w.values("e"), elements+10)
	w.report("e", strings.Replace(report(5, 7), "{", `{"FullReport":true,`, 1))
	require.Len(w, w.values("e"), 2, "thousands that are gone")
	w.report("e", `{"StatusItems":{"text":"`+strings.Repeat("long ", 1<<18)+`"}}`)
	require.Len(w, w.values("e"), 3)
}

func statusErrors(w *world) {
	w.store = w.open(sqlstore.Options{KeepErrors: 5, Clock: w.clock.Now})
	errors := func(offset, limit int) []string {
		list, err := w.store.StatusErrors(w.ctx, "e", offset, limit)
		require.NoError(w, err)
		var texts []string
		for _, e := range list {
			require.Equal(w, ".Errors", e.Path)
			texts = append(texts, string(e.Error))
		}
		return texts
	}
	require.Empty(w, errors(0, 10))
	first := w.report("e", `{"Errors":[{"n":1},{"n":2}]}`)
	w.clock.Advance(time.Second)
	w.report("e", `{"StatusItems":{"n":1}}`)
	w.report("e", `{"Errors":[{"n":3}]}`)
	w.report("f", `{"Errors":[{"n":"other"}]}`)
	require.Equal(w, []string{`{"n":3}`, `{"n":2}`, `{"n":1}`}, errors(0, 10))
	require.Equal(w, []string{`{"n":2}`}, errors(1, 1))
	require.Empty(w, errors(3, 10))
	list, err := w.store.StatusErrors(w.ctx, "e", 2, 1)
	require.NoError(w, err)
	require.Equal(w, first, list[0].StatusID)
	require.True(w, list[0].ReceivedAt.Equal(w.clock.Now().Add(-time.Second)))

	w.report("e", `{"Errors":[{"n":4},{"n":5},{"n":6}]}`)
	require.Equal(w, []string{`{"n":6}`, `{"n":5}`, `{"n":4}`, `{"n":3}`, `{"n":2}`}, errors(0, 10), "the oldest go")
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf(`{"n":%d}`, 100+i))
	}
	w.report("e", `{"Errors":[`+strings.Join(many, ",")+`]}`)
	require.Equal(w, []string{`{"n":599}`, `{"n":598}`, `{"n":597}`, `{"n":596}`, `{"n":595}`}, errors(0, 10))
	require.LessOrEqual(w, w.count(`SELECT COUNT(*) FROM status_errors`), 6+7, "a few more than are shown")

	w.report("g", `{"StatusItems":{"management":{"declarations":{"assets":[
		{"identifier":"a","server-token":"1","active":false,"valid":"invalid"}]}}}}`)
	list, err = w.store.StatusErrors(w.ctx, "g", 0, 10)
	require.NoError(w, err)
	require.Len(w, list, 1)
	require.Equal(w, ".StatusItems.management.declarations.assets", list[0].Path)
}

// statusInParallel checks that reports of one enrollment are folded one after the other.
func statusInParallel(w *world) {
	const reporters, reports = 8, 5
	w.store = w.open(sqlstore.Options{KeepReports: 10})
	var group sync.WaitGroup
	failures := make(chan error, reporters*reports)
	for reporter := range reporters {
		group.Go(func() {
			for i := range reports {
				status := w.received("e", fmt.Sprintf(`{"StatusItems":{"own":{"r%d":%d},"one":"%d-%d","list":[%d,%d],
					"apps":[{"identifier":"app%d","n":%d}]}}`, reporter, i, reporter, i, reporter, i, reporter, i))
				failures <- w.store.PutStatus(w.ctx, status)
			}
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		require.NoError(w, err)
	}
	newest, err := w.store.StatusReportByIndex(w.ctx, "e", 0)
	require.NoError(w, err)
	var last, i int
	_, err = fmt.Sscanf(string(newest.Raw), `{"StatusItems":{"own":{"r%d":%d}`, &last, &i)
	require.NoError(w, err)
	require.Equal(w, reports-1, i, "the newest is one's last")
	var wanted []string
	for r := range reporters {
		wanted = append(wanted, fmt.Sprintf(`apps {"identifier":"app%d","n":%d}`, r, reports-1))
	}
	wanted = append(wanted, fmt.Sprintf("list %d", last), fmt.Sprintf("list %d", i), fmt.Sprintf(`one "%d-%d"`, last, i))
	for r := range reporters {
		wanted = append(wanted, fmt.Sprintf("own.r%d %d", r, reports-1))
	}
	require.Equal(w, wanted, w.values("e"), "no report is lost, and the newest was folded last")
	require.LessOrEqual(w, w.count(`SELECT COUNT(*) FROM status_reports`), 10+7, "a few more than are shown")
}

// panicWhileStoringAReport checks that a defect which some reports meet ends nothing, and fails those only.
func panicWhileStoringAReport(w *world) {
	statuses, errs := make([]storage.ReceivedStatus, 20), make([]error, 20)
	defect := func(i int) bool { return i%10 == 0 }
	var reports sync.WaitGroup
	for i := range statuses {
		statuses[i] = w.received(fmt.Sprint("e", i), `{}`)
		if defect(i) {
			statuses[i].Report = nil // what was never read stands for the defect
		}
	}
	for i, status := range statuses {
		reports.Go(func() { errs[i] = w.store.PutStatus(w.ctx, status) })
	}
	reports.Wait()
	for i, err := range errs {
		if defect(i) {
			require.ErrorContains(w, err, "panic")
		} else {
			require.NoError(w, err)
		}
	}
}
