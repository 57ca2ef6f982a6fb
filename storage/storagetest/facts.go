package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var factTests = []test{
	{"FactsOfStatus", factsOfStatus},
	{"FactsOfOddStatus", factsOfOddStatus},
	{"CapabilitiesOfStatus", capabilitiesOfStatus},
	{"FactsEndWithTheEnrollment", factsEndWithTheEnrollment},
	{"ListByFacts", listByFacts},
	{"ListByFactsTogether", listByFactsTogether},
	{"ProblemsOfStatus", problemsOfStatus},
	{"ProblemsAreAsNewAsWhatIsSaid", problemsAreAsNewAsWhatIsSaid},
	{"ProblemsOfTheErrorsThatAreKept", problemsOfTheErrorsThatAreKept},
	{"HappeningsOfStatus", happeningsOfStatus},
	{"HappeningsOfLongStatus", happeningsOfLongStatus},
}

// facts returns an enrollment's facts.
func (w *world) facts(id string) storage.Facts {
	w.Helper()
	facts, err := w.store.Facts(w.ctx, []string{id, "nobody"})
	require.NoError(w, err)
	require.NotContains(w, facts, "nobody")
	return facts[id]
}

func device(items string) string { return `{"StatusItems":{"device":{` + items + `}}}` }

func factsOfStatus(w *world) {
	require.Zero(w, w.facts("e"))
	w.report("e", device(`"identifier":{"serial-number":"C02","udid":"u"},"model":{"identifier":"Mac14,2","family":"Mac"},
		"operating-system":{"family":"macOS","version":"15.9","build-version":"24G1","marketing-name":"x"}`))
	known := storage.Facts{SerialNumber: "C02", Model: "Mac14,2", OSFamily: "macOS", OSVersion: "15.9", OSBuild: "24G1"}
	require.Equal(w, known, w.facts("e"))
	w.report("e", `{"StatusItems":{"mdm":{"app":[]}}}`)
	require.Equal(w, known, w.facts("e"))
	w.report("e", device(`"operating-system":{"version":"15.10","build-version":"24H1"}`))
	known.OSVersion, known.OSBuild = "15.10", "24H1"
	require.Equal(w, known, w.facts("e"))
	require.Zero(w, w.facts("other"))

	// A full report without them takes them away.
	w.report("e", `{"FullReport":true,"StatusItems":{"device":{"model":{"identifier":"Mac14,2"}}}}`)
	require.Equal(w, storage.Facts{Model: "Mac14,2"}, w.facts("e"))
}

// factsOfOddStatus checks that facts survive values of types that nobody expects.
func factsOfOddStatus(w *world) {
	for _, odd := range []struct{ json, version string }{
		{`15`, "15"}, {`15.10`, "15.10"}, {`1e3`, "1e3"}, {`null`, ""}, {`true`, ""}, {`{}`, ""}, {`{"a":1}`, ""}, {`["15"]`, ""},
		{`[]`, ""}, {`""`, ""}, {`"` + strings.Repeat("9", 256) + `"`, ""}, {`"` + strings.Repeat("é", 127) + `"`, strings.Repeat("é", 127)},
		{`"\u0031\u0035"`, "15"}, {`"beta"`, "beta"},
	} {
		w.report("e", device(`"operating-system":{"version":"14.1"},"identifier":{"serial-number":"S"}`))
		require.Equal(w, "14.1", w.facts("e").OSVersion)
		w.report("e", device(`"operating-system":{"version":`+odd.json+`}`))
		require.Equal(w, storage.Facts{SerialNumber: "S", OSVersion: odd.version}, w.facts("e"), odd.json)
	}
	// What was an object becomes something else, and an object again.
	w.report("e", device(`"operating-system":"x"`))
	require.Equal(w, storage.Facts{SerialNumber: "S"}, w.facts("e"))
	w.report("e", `{"StatusItems":{"device":7}}`)
	require.Zero(w, w.facts("e"))
	w.report("e", device(`"operating-system":{"version":"16"}`))
	require.Equal(w, storage.Facts{OSVersion: "16"}, w.facts("e"))
}

func capable(types ...string) string {
	return `{"StatusItems":{"management":{"client-capabilities":{"supported-versions":["1.0.0"],"supported-payloads":{
		"declarations":{"configurations":["` + strings.Join(types, `","`) + `",7,null]},"status-items":["mdm.app"]}}}}}`
}

func capabilitiesOfStatus(w *world) {
	w.report("e", capable("a", "b"))
	require.Equal(w, w.clock.Now(), w.facts("e").ConfirmedAt)
	confirmed := w.clock.Now()
	w.report("other", capable("b", "a"))
	require.Equal(w, 1, w.count(`SELECT COUNT(DISTINCT id) FROM capabilities`), "it is one list")
	for _, c := range []struct{ supports, found string }{{"a", "e, other"}, {"mdm.app", "e, other"}, {"7", "e, other"}, {"c", ""}} {
		require.Equal(w, c.found, strings.Join(listed(w.list(w.store, storage.EnrollmentFilter{Supports: c.supports}, 100)), ", "), c.supports)
	}
	w.clock.Advance(1)
	w.report("e", capable("c"))
	require.Equal(w, confirmed, w.facts("e").ConfirmedAt, "since when it is known")
	require.Equal(w, "other", strings.Join(listed(w.list(w.store, storage.EnrollmentFilter{Supports: "a"}, 100)), ", "))
	require.Equal(w, "e", strings.Join(listed(w.list(w.store, storage.EnrollmentFilter{Supports: "c"}, 100)), ", "))

	// Lists that nobody has are forgotten: devices can report new ones without end.
	for i := range 5 {
		w.report("e", capable(fmt.Sprint("type", i)))
	}
	require.Equal(w, 2, w.count(`SELECT COUNT(DISTINCT id) FROM capabilities`))
	_, err := w.store.DeleteEnrollment(w.ctx, "e", change)
	require.NoError(w, err)
	w.report("other", `{"FullReport":true,"StatusItems":{"device":{"model":{"identifier":"x"}}}}`)
	require.Zero(w, w.facts("other").ConfirmedAt)
	require.Zero(w, w.count(`SELECT COUNT(*) FROM capabilities`))
}

// factsEndWithTheEnrollment checks that who enrolls again is asked anew.
func factsEndWithTheEnrollment(w *world) {
	w.assign("e", "s")
	w.report("e", device(`"operating-system":{"version":"15"}`))
	w.clock.Advance(1000)
	w.apply(w.authenticated(0))
	require.Zero(w, w.facts("e"))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM problems`))
}

func listByFacts(w *world) {
	for i, d := range []struct{ id, family, version, model, serial string }{
		{"a", "macOS", "15.9", "Mac14,2", "S1"}, {"b", "macOS", "15.10", "Mac14,2", "S2"},
		{"c", "iOS", "15.1", "iPhone1,1", "S3"}, {"d", "macOS", "x", "Mac14,3", "S4"},
	} {
		w.assign(d.id, "s")
		w.report(d.id, device(fmt.Sprintf(`"operating-system":{"family":%q,"version":%q},"model":{"identifier":%q},
			"identifier":{"serial-number":%q}`, d.family, d.version, d.model, d.serial)))
		require.Len(w, w.facts(d.id).SerialNumber, 2, i)
	}
	w.assign("silent", "s")
	yes, no := true, false
	for _, c := range []struct {
		filter storage.EnrollmentFilter
		found  string
	}{
		{storage.EnrollmentFilter{OSFamily: "macOS"}, "a, b, d"},
		{storage.EnrollmentFilter{OSFamily: "macos"}, ""},
		{storage.EnrollmentFilter{OSVersionBelow: "15.10"}, "a, c"},
		{storage.EnrollmentFilter{OSVersionBelow: "15.10.1", OSFamily: "macOS"}, "a, b"},
		{storage.EnrollmentFilter{OSVersionFrom: "15.9"}, "a, b"},
		{storage.EnrollmentFilter{OSVersionFrom: "15.9", OSVersionBelow: "15.10"}, "a"},
		{storage.EnrollmentFilter{OSVersionFrom: "15.1.0", OSVersionBelow: "15.1.1"}, "c"},
		{storage.EnrollmentFilter{Model: "Mac14,2"}, "a, b"},
		{storage.EnrollmentFilter{Serial: "S3"}, "c"},
		{storage.EnrollmentFilter{Serial: "S3", OSFamily: "macOS"}, ""},
		{storage.EnrollmentFilter{Serial: "S3", Set: "s"}, "c"},
		{storage.EnrollmentFilter{Confirmed: &yes}, ""},
		{storage.EnrollmentFilter{Confirmed: &no, Model: "Mac14,3"}, "d"},
		{storage.EnrollmentFilter{Confirmed: &no}, "a, b, c, d, silent"},
	} {
		for limit := 1; limit < 6; limit += 4 {
			require.Equal(w, c.found, strings.Join(listed(w.list(w.store, c.filter, limit)), ", "), "%+v", c.filter)
		}
	}
}

// listByFactsTogether checks that all filters together select what each of them selects, on pages of any length.
func listByFactsTogether(w *world) {
	// In their order. Of a beta and a rapid security response, more stands behind the number.
	versions := []string{"", "9.3.5", "15.2", "15.9", "15.10", "17.0.1", "17.0.1 (a)", "17.0.2", "26.0", "26.0 (23A5260u)", "26.0.1"}
	type fleetDevice struct {
		id, family, model, set, supports string
		version                          int
	}
	var devices []fleetDevice
	for i := range 44 {
		d := fleetDevice{
			fmt.Sprintf("%02d", i), []string{"macOS", "iOS"}[i%2], []string{"M1", "M2", "M3"}[i%3], []string{"", "s", "t"}[i%5%3],
			[]string{"x", "y"}[i%7%2], i % len(versions),
		}
		if d.set != "" {
			w.assign(d.id, d.set)
		}
		operatingSystem := `"family":"` + d.family + `"`
		if d.version > 0 {
			operatingSystem += `,"version":"` + versions[d.version] + `"`
		}
		w.report(d.id, device(`"operating-system":{`+operatingSystem+`},"model":{"identifier":"`+d.model+`"}`))
		w.report(d.id, capable(d.supports))
		devices = append(devices, d)
	}
	options := w.options()
	options.MaxLooked = 5
	stores := []storage.Store{w.store, w.open(options)}
	rapid.Check(w.T, func(t *rapid.T) {
		from, below := rapid.IntRange(0, len(versions)-1).Draw(t, "from"), rapid.IntRange(0, len(versions)-1).Draw(t, "below")
		filter := storage.EnrollmentFilter{
			OSVersionFrom: versions[from], OSVersionBelow: versions[below],
			OSFamily: rapid.SampledFrom([]string{"", "macOS", "iOS"}).Draw(t, "family"),
			Model:    rapid.SampledFrom([]string{"", "M1", "M3"}).Draw(t, "model"),
			Set:      rapid.SampledFrom([]string{"", "s", "t"}).Draw(t, "set"),
			Supports: rapid.SampledFrom([]string{"", "x", "mdm.app"}).Draw(t, "supports"),
		}
		wanted := []string{}
		for _, d := range devices {
			given := func(filter, value string) bool { return filter == "" || filter == value }
			if given(filter.OSFamily, d.family) && given(filter.Model, d.model) && given(filter.Set, d.set) &&
				(filter.Supports == "mdm.app" || given(filter.Supports, d.supports)) &&
				(from == 0 || d.version >= from) && (below == 0 || 0 < d.version && d.version < below) {
				wanted = append(wanted, d.id)
			}
		}
		store := rapid.SampledFrom(stores).Draw(t, "store")
		require.Equal(t, wanted, listed(w.list(store, filter, rapid.IntRange(1, 6).Draw(t, "limit"))), "%+v", filter)
	})
}

// problems lists what is wrong with an enrollment.
func (w *world) problems(id string) []string {
	w.Helper()
	rows, err := w.database.SQL.QueryContext(w.ctx, `SELECT kind, subject, server_token, code FROM problems
		WHERE enrollment_id = ? ORDER BY kind, subject, server_token`, id)
	require.NoError(w, err)
	defer func() { require.NoError(w, rows.Close()) }()
	problems := []string{}
	for rows.Next() {
		var kind, subject, serverToken, code string
		require.NoError(w, rows.Scan(&kind, &subject, &serverToken, &code))
		problems = append(problems, kind+" "+subject+" "+serverToken+" "+code)
	}
	require.NoError(w, rows.Err())
	return problems
}

func declared(statuses ...string) string {
	return `{"StatusItems":{"management":{"declarations":{"configurations":[` + strings.Join(statuses, ",") + `]}}}}`
}

func status(identifier, token, valid, reasons string) string {
	return fmt.Sprintf(`{"identifier":%q,"server-token":%q,"active":true,"valid":%q,"reasons":%s}`,
		identifier, token, valid, reasons)
}

func problemsOfStatus(w *world) {
	w.report("e", declared(
		status("a", "1", "valid", `[]`),
		status("b", "1", "invalid", `[{"code":"Info.Something"},{"code":"Error.Bad","description":"x","details":{"n":1}}]`),
		status("b", "2", "unknown", `[{"code":"Error.Worse"}]`),
		status("c", "1", "invalid", `[]`),
		status("d", "1", "valid", `[{"code":"Info.Predicate"}]`),
		status("e", "1", "valid", `[{"code":"Info.NotReferencedByActivation"}]`),
		status("f", "1", "invalid", `{"odd":true}`),
		status("g", "1", "invalid", `[7,null,{"code":5},{"Code":"Error.Upper"}]`),
	))
	declarations := []string{
		"declaration b 1 Error.Bad", "declaration b 2 Error.Worse", "declaration c 1 unknown", "declaration f 1 unknown",
		"declaration g 1 Error.Upper",
	}
	require.Equal(w, declarations, w.problems("e"))
	w.report("e", `{"Errors":[{"StatusItem":"mdm.app","Reasons":[{"Code":"Error.Timeout"}]},{"StatusItem":"mdm"},{},7,
		{"StatusItem":""},{"StatusItem":"x","Reasons":"odd"}]}`)
	items := []string{"status-item mdm  unknown", "status-item mdm.app  Error.Timeout", "status-item x  unknown"}
	require.Equal(w, append(declarations, items...), w.problems("e"))

	// An item that is reported again has recovered, and one in an error again has not.
	w.report("e", `{"StatusItems":{"mdm":{"app":[{"identifier":"a"}]},"xyz":1},"Errors":[{"StatusItem":"mdm"}]}`)
	require.Equal(w, append(declarations, items[0], items[2]), w.problems("e"))
	w.report("e", declared(status("b", "2", "valid", `[]`)))
	require.Equal(w, []string{items[0], items[2]}, w.problems("e"))
	w.report("e", `{"FullReport":true,"StatusItems":{}}`)
	require.Empty(w, w.problems("e"))

	// A device cannot have any number of them.
	for i := range 200 {
		w.report("e", fmt.Sprintf(`{"Errors":[{"StatusItem":"item%d"}]}`, i))
	}
	require.LessOrEqual(w, len(w.problems("e")), 50)
	require.Contains(w, w.problems("e"), "status-item item199  unknown")
}

// problemsAreAsNewAsWhatIsSaid checks that a problem that goes on has the time of the last report that said so, and
// something new.
func problemsAreAsNewAsWhatIsSaid(w *world) {
	broken := func(detail int) string {
		return status("broken", "1", "invalid", fmt.Sprintf(`[{"code":"Error.Bad","details":{"n":%d}}]`, detail))
	}
	app := func(detail int) string {
		return fmt.Sprintf(`{"StatusItem":"mdm.app","Reasons":[{"Code":"Error.Timeout","Details":{"n":%d}}]}`, detail)
	}
	declaration := storage.ProblemKey{Code: "Error.Bad", Kind: "declaration", Subject: "broken"}
	item := storage.ProblemKey{Code: "Error.Timeout", Kind: "status-item", Subject: "mdm.app"}
	newest := map[storage.ProblemKey]time.Time{}
	look := func(why string) {
		w.Helper()
		list, _, err := w.store.Problems(w.ctx, storage.ProblemKey{}, 10)
		require.NoError(w, err)
		require.Len(w, list, len(newest), why)
		for _, p := range list {
			require.Equal(w, newest[p.ProblemKey].UTC(), p.ReceivedAt.UTC(), "%s: %s", why, p.Subject)
			require.Equal(w, "e", p.EnrollmentID, why)
			require.NotEmpty(w, p.Error, why)
		}
	}
	said := func(report string, news ...storage.ProblemKey) {
		w.Helper()
		w.clock.Advance(time.Minute)
		w.report("e", report)
		for _, key := range news {
			newest[key] = w.clock.Now()
		}
		look(report)
	}
	said(declared(broken(1)), declaration)
	said(`{"Errors":[`+app(1)+`]}`, item)
	said(`{"Errors":[`+app(2)+`]}`, item)
	said(`{"Errors":[` + app(2) + `]}`)
	said(`{"Errors":[`+app(2)+`,{"StatusItem":""}]}`, item)
	said(declared(broken(2)), declaration)
	said(declared(broken(2)))
	said(declared(broken(2), status("other", "1", "valid", `[]`)), declaration)
	said(`{"StatusItems":{"test":{"n":1}}}`)
	said(`{"StatusItems":{"test":{"n":1}},"Errors":[`+app(2)+`]}`, item)
	said(`{"StatusItems":{"test":{"n":1}},"Errors":[` + app(2) + `]}`)
	said(`{"StatusItems":{"test":{"n":2}},"Errors":[`+app(2)+`]}`, item)

	// The newest of many is who spoke last, also where that one spoke first too.
	w.clock.Advance(time.Minute)
	w.report("f", declared(broken(1)))
	said(declared(broken(3)), declaration)
}

// problemsOfTheErrorsThatAreKept checks that an error that is kept is also a problem, so that a problem has its error as
// example, however many errors there are.
func problemsOfTheErrorsThatAreKept(w *world) {
	w.store = w.open(sqlstore.Options{KeepErrors: 5, Clock: w.clock.Now})
	report := func(from, until int) {
		var list []string
		for i := from; i <= until; i++ {
			list = append(list, fmt.Sprintf(`{"StatusItem":"item%02d","Reasons":[{"Code":"Error.Timeout"}]}`, i))
		}
		w.clock.Advance(time.Minute)
		w.report("e", `{"Errors":[`+strings.Join(list, ",")+`]}`)
	}
	items := func(numbers ...int) (lines []string) {
		for _, i := range numbers {
			lines = append(lines, fmt.Sprintf(
				`Error.Timeout status-item item%02d 1 e {"StatusItem":"item%02d","Reasons":[{"Code":"Error.Timeout"}]}`, i, i))
		}
		return lines
	}
	report(1, 12)
	require.Equal(w, items(8, 9, 10, 11, 12), w.problemLines(w.store, 10))
	errors, until := w.count(`SELECT COUNT(*) FROM status_errors`), w.clock.Now()
	report(1, 12)
	require.Equal(w, errors, w.count(`SELECT COUNT(*) FROM status_errors`), "it says again what is kept")
	list, _, err := w.store.Problems(w.ctx, storage.ProblemKey{}, 1)
	require.NoError(w, err)
	require.True(w, list[0].ReceivedAt.Equal(until))
	report(20, 22)
	require.Equal(w, items(11, 12, 20, 21, 22), w.problemLines(w.store, 10))
	report(11, 11)
	require.Equal(w, items(11, 12, 20, 21, 22), w.problemLines(w.store, 10))
	report(30, 30)
	require.Equal(w, items(11, 20, 21, 22, 30), w.problemLines(w.store, 10), "the errors of 12 are not kept any more")

	// Of errors about one item the last one counts.
	w.report("e", `{"FullReport":true,"Errors":[{"StatusItem":"a","Reasons":[{"Code":"Error.First"}]},{"StatusItem":"a"}]}`)
	require.Equal(w, []string{`unknown status-item a 1 e {"StatusItem":"a"}`}, w.problemLines(w.store, 10))
}

// noted lists the happenings that wait for their place in the log.
func (w *world) noted() []string {
	w.Helper()
	return w.strings(`SELECT kind FROM event_outbox ORDER BY id`)
}

func happeningsOfStatus(w *world) {
	w.report("e", declared(status("a", "1", "valid", `[]`), status("b", "1", "unknown", `[]`)))
	require.Equal(w, []string{"declaration.valid"}, w.noted())
	w.report("e", declared(status("a", "1", "valid", `[]`), status("b", "1", "invalid", `[{"code":"Error.Bad"}]`)))
	require.Equal(w, []string{"declaration.valid", "declaration.invalid"}, w.noted())
	w.report("e", declared(status("a", "1", "valid", `[]`), status("b", "1", "invalid", `[{"code":"Error.Bad"}]`)))
	w.report("e", declared(status("b", "1", "valid", `[]`)))
	require.Equal(w, []string{"declaration.valid", "declaration.invalid", "declaration.valid"}, w.noted())
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM event_outbox WHERE detail LIKE ?`, `{"code":"Error.Bad",%"identifier":"b"%`))

	w.report("e", device(`"operating-system":{"version":"17.0"}`))
	require.Len(w, w.noted(), 3, "the first is no change")
	w.report("e", device(`"operating-system":{"version":"17.1"}`))
	require.Equal(w, "os-version.changed", w.noted()[3])
	w.report("e", `{"StatusItems":{"softwareupdate":{"install-state":"downloading","pending-version":{"os-version":"17.2"}}}}`)
	w.report("e", `{"StatusItems":{"softwareupdate":{"install-state":"downloading"}}}`)
	w.report("e", `{"StatusItems":{"softwareupdate":{"install-state":{"odd":1}}}}`)
	require.Equal(w, []string{"software-update.changed", "software-update.changed"}, w.noted()[4:])
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM event_outbox WHERE detail = ?`,
		`{"install_state":"downloading","pending_os_version":"17.2"}`))
}

// happeningsOfLongStatus checks that what is told of an update is whole up to a length, and says where it is not.
func happeningsOfLongStatus(w *world) {
	for _, c := range []struct{ items, told string }{
		{`"install-state":"downloading","pending-version":{"os-version":"` + strings.Repeat("x", 500) + `","build-version":23}`,
			`{"install_state":"downloading","pending_build":"23","pending_os_version":"` + strings.Repeat("x", 500) + `"}`},
		{`"install-state":"` + strings.Repeat("y", 16_000) + `","pending-version":{"os-version":"17.2"}`,
			`{"install_state":"` + strings.Repeat("y", 16_000) + `","pending_os_version":"17.2"}`},
		{`"install-state":"` + strings.Repeat("y", 20_000) + `","pending-version":{"os-version":"` + strings.Repeat("x", 1000) + `"}`,
			`{"pending_os_version":"` + strings.Repeat("x", 1000) + `","shortened":true}`},
		{`"install-state":` + strings.Repeat("7", 20_000) + `,"pending-version":{"os-version":"17.2"}`,
			`{"pending_os_version":"17.2","shortened":true}`},
		{`"install-state":"","pending-version":{"os-version":-1e999}`, `{"pending_os_version":"-1e999"}`},
		{`"install-state":null,"pending-version":{"os-version":true}`, `{}`},
	} {
		w.report("e", `{"StatusItems":{"softwareupdate":{`+c.items+`}}}`)
		told := w.strings(`SELECT detail FROM event_outbox ORDER BY id`)
		require.JSONEq(w, c.told, told[len(told)-1])
	}
}
