package storagetest

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// crowdSize is how many enrollments Populate makes.
const crowdSize = 4000

// Populate fills a database that has Decree's schema with thousands of rows, so that its query planner has to choose.
// Nothing in it is due at the time that Exercise begins with.
func Populate(t testing.TB, db *sql.DB) {
	t.Helper()
	insert := func(table, columns string, n int, row func(i int) string) {
		t.Helper()
		for from := 0; from < n; from += 1000 {
			var rows []string
			for i := from; i < min(n, from+1000); i++ {
				rows = append(rows, "("+row(i)+")")
			}
			_, err := db.ExecContext(t.Context(),
				"INSERT INTO "+table+" ("+columns+") VALUES "+strings.Join(rows, ",")) // #nosec G202 -- names of the tests'
			require.NoError(t, err)
		}
	}
	insert("enrollments", "id, created_at, notify_at, priority", crowdSize, func(i int) string {
		at := "NULL"
		if i%10 == 0 {
			at = "9000000000000000" // the far future
		}
		return fmt.Sprintf("'e%04d', 0, %s, %d", i, at, i%3%2)
	})
	insert("sets", "name, version, changed_at", crowdSize, func(i int) string {
		return fmt.Sprintf("'s%04d', %d, 0", i, i)
	})
	insert("enrollment_sets", "enrollment_id, set_name", crowdSize, func(i int) string {
		return fmt.Sprintf("'e%04d', 's%04d'", i, i)
	})
	insert("enrollment_sets", "enrollment_id, set_name", crowdSize-1, func(i int) string {
		return fmt.Sprintf("'e%04d', 's0000'", i+1)
	})
	insert("declarations", "identifier, type, class, server_token, content_hash, touches, created_at, changed_at",
		crowdSize, func(i int) string { return fmt.Sprintf("'d%04d', 't', 'configuration', 't', 'h', 0, 0, 0", i) })
	insert("declaration_versions", "identifier, server_token, type, class, payload, created_at", crowdSize,
		func(i int) string { return fmt.Sprintf("'d%04d', 't', 't', 'configuration', '{}', 0", i) })
	insert("declaration_references", "identifier, referred", crowdSize-1, func(i int) string {
		return fmt.Sprintf("'d%04d', 'd%04d'", i, i+1)
	})
	insert("set_declarations", "set_name, identifier", crowdSize, func(i int) string {
		return fmt.Sprintf("'s%04d', 'd%04d'", i, i)
	})
	insert("manifests", "token, items, served_at", crowdSize, func(i int) string {
		return fmt.Sprintf("'t%04d', '{}', 9000000000000000", i)
	})
	insert("fanouts", "set_name, pending, held, force_id, change_id, run, due_at", crowdSize, func(i int) string {
		return fmt.Sprintf("'other%04d', %d, 0, 0, 'c', %d, 9000000000000000", i, i%2, i)
	})
	insert("changes", "change_id, at, key_name, action, declaration, set_name, enrollment_id, held, reached, waiting, of_enrollment",
		crowdSize, func(i int) string {
			return fmt.Sprintf("'c%04d', %d, 'key%d', 'action%d', 'd%04d', 's%04d', 'e%04d', 0, 0, 1, %d", i, i, i%2, i%5, i, i, i, i%2)
		})
	insert("change_fanouts", "set_name, run, change_row", crowdSize, func(i int) string {
		return fmt.Sprintf("'other%04d', %d, %d", i, i, i+1)
	})
	for _, table := range []string{"events", "event_outbox"} {
		insert(table, "id, at, kind, enrollment_id, detail", crowdSize, func(i int) string {
			return fmt.Sprintf("%d, 0, 'enrollment.left', 'e%04d', '{}'", i+1, i)
		})
	}
	_, err := db.ExecContext(t.Context(), fmt.Sprintf("UPDATE event_log SET last_id = %d WHERE id = 1", crowdSize))
	require.NoError(t, err)
	insert("status_reports", "enrollment_id, received_at, body", crowdSize, func(i int) string {
		return fmt.Sprintf("'e%04d', 0, 'x'", i)
	})
	insert("status_errors", "enrollment_id, path, error, report_id, received_at", crowdSize, func(i int) string {
		return fmt.Sprintf("'e%04d', 'p', '{}', 1, 0", i)
	})
	insert("status_declarations",
		"enrollment_id, identifier, server_token, class, active, valid, report_id, received_at", crowdSize,
		func(i int) string {
			return fmt.Sprintf("'e%04d', 'd%04d', 't', 'configuration', 1, 'valid', 1, 0", i, i)
		})
	insert("status_values",
		"enrollment_id, path_hash, element_hash, value_hash, path, element, value, report_id, changed_at", crowdSize,
		func(i int) string {
			return fmt.Sprintf("'e%04d', X'%032x', X'%032x', X'%032x', 'p', '', '1', 1, 0", i, i, i, i)
		})
	insert("declaration_summaries",
		"identifier, server_token, assigned, current, active, valid, invalid, counted_at", crowdSize,
		func(i int) string { return fmt.Sprintf("'d%04d', 't', 1, 1, 1, 1, 0, 9000000000000000", i) })
	insert("problems", "kind, subject, enrollment_id, server_token, code, received_at", crowdSize, func(i int) string {
		// Of one of them there are more than are grouped together.
		return fmt.Sprintf("'declaration', 'd%04d', 'e%04d', 't', 'Error.%04d', %d", max(0, i%7-i/500), i, max(0, i%5-i/500), i)
	})
	path := sha256.Sum256([]byte(".StatusItems.n"))
	insert("status_values",
		"enrollment_id, path_hash, element_hash, value_hash, path, element, value, report_id, changed_at", crowdSize,
		func(i int) string {
			return fmt.Sprintf("'e%04d', X'%x', X'00000000000000000000000000000000', X'%032x', '.StatusItems.n', '', '1', 1, 0",
				i, path[:16], max(3000, i))
		})
	insert("facts",
		"enrollment_id, serial_number, model, os_family, os_version, os_order, os_build, capabilities, confirmed_at", crowdSize,
		func(i int) string {
			return fmt.Sprintf("'e%04d', 's%d', 'm%d', 'f%d', '%d', '%d', 'b', 'c', 0", i, i, i%3, i%2, i, i)
		})
}

// Exercise calls everything that a store has, so that it runs every kind of statement, over a database that Populate has
// filled.
func Exercise(ctx context.Context, t *testing.T, store storage.Store, clock *Clock) {
	w := &world{T: t, ctx: ctx, clock: clock, store: store}
	for _, shard := range []bool{false, true, true} {
		_, err := store.ServeWith(ctx, shard)
		require.NoError(t, err)
	}
	w.fill("s0001", "new", "other")
	w.put(activation("activation", "new", "other"))
	w.put(configuration("new", "second"))
	w.touch("new")
	_, err := store.DeleteDeclaration(ctx, "new", change)
	require.Error(t, err)
	w.remove("s0001", "other")
	w.put(activation("activation", "new"))
	require.True(t, w.deleteDeclaration("other"))
	w.declaration("new")
	for _, page := range []storage.Page{all, {After: "e", Limit: 3}} {
		for _, list := range []func() ([]string, error){
			func() ([]string, error) { return store.DeclarationIdentifiers(ctx, page) },
			func() ([]string, error) { return store.DeclarationSets(ctx, "new", page) },
			func() ([]string, error) { return store.SetNames(ctx, page) },
			func() ([]string, error) { return store.SetDeclarations(ctx, "s0001", page) },
			func() ([]string, error) { return store.EnrollmentSets(ctx, "e0001", page) },
		} {
			_, err := list()
			require.NoError(t, err)
		}
	}
	w.assign("e0001", "s0009")
	w.assign("new", "new")
	w.unassign("e0001", "s0009")
	_, err = store.DeleteEnrollmentSets(ctx, "new", change)
	require.NoError(t, err)
	_, known, err := store.VectorContents(ctx, "e0001", nil)
	require.NoError(t, err)
	require.NotEmpty(t, known)
	_, _, err = store.VectorContents(ctx, "e0001", w.vector("e0001"))
	require.NoError(t, err)
	_, err = store.DeclarationVersion(ctx, "new", "t")
	require.ErrorIs(t, err, storage.ErrNotFound)
	versions, _, err := store.DeclarationVersions(ctx, "new", storage.VersionPlace{}, 10)
	require.NoError(t, err)
	_, _, err = store.DeclarationVersions(ctx, "new", storage.VersionPlace{ServerToken: versions[0].ServerToken}, 1)
	require.NoError(t, err)
	changed, err := store.RollbackDeclaration(ctx, "new", versions[len(versions)-1].ServerToken, change)
	require.NoError(t, err)
	require.True(t, changed)
	_, _, err = store.DeclarationVersions(ctx, "unknown", storage.VersionPlace{}, 1)
	require.ErrorIs(t, err, storage.ErrNotFound)

	w.exerciseImport()
	targets := storage.NotifyTargets{
		Enrollments: []string{"e0002", "e0003"}, Declarations: []string{"d0005"}, Sets: []string{"s0000"},
	}
	_, err = store.Unmatched(ctx, targets)
	require.NoError(t, err)
	w.notify(targets)
	for range 20 {
		w.advance(300)
	}
	_, err = store.PutSetDeclaration(ctx, "s0000", "new", held)
	require.NoError(t, err)
	w.advance(10)
	for _, kind := range kinds {
		one := w.claimed(lease, 3)
		require.NotEmpty(t, one)
		early := result("early", "Acknowledged", "")
		early.ID = one[0].Enrollment.ID
		w.apply(early)
		w.finalise(lease, storage.Outcome{Kind: kind, IDs: ids(one), CommandUUID: "early", DesiredToken: "t", After: time.Hour, Spread: time.Hour})
	}
	for _, check := range []storage.CheckChange{storage.CheckKeep, storage.CheckClear, storage.CheckPostpone} {
		w.update(storage.DeviceUpdate{
			ID: "e0005", Type: "Device", ParentID: "p", DesiredToken: "t", AskedToken: "t", Acknowledged: true, Check: check,
		})
		w.update(storage.DeviceUpdate{ID: "e0005", FetchedToken: "t", LostSync: true, Create: true})
		w.update(storage.DeviceUpdate{ID: "e0005", SyncedToken: "t"})
	}
	w.update(storage.DeviceUpdate{ID: "channel", ParentID: "e0007", Create: true})
	w.update(storage.DeviceUpdate{ID: "channel", ParentID: "e0007"})
	for _, kind := range []storage.EventKind{
		storage.EventAuthenticate, storage.EventTokenUpdate, storage.EventCheckOut, storage.EventCommand,
	} {
		for _, id := range []string{"e0007", "enrolls"} {
			clock.Advance(time.Second)
			_, err := store.ApplyEvent(ctx, storage.Event{
				Kind: kind, ID: id, Type: "Device", At: clock.Now(), Tally: 1, CommandUUID: "u", Status: "Acknowledged",
			}, storage.EventOptions{EnrollSets: []string{"s0001"}, RemoveSets: true})
			require.NoError(t, err)
		}
	}
	w.report("e0001", `{"StatusItems":{"n":1,"list":[1,2,3],"management":{"declarations":{"assets":[
		{"identifier":"a","server-token":"1","active":true,"valid":"valid"}]}}},"Errors":[{}]}`)
	w.report("e0001", `{"StatusItems":{"list":[4],"management":{"declarations":{}}},"FullReport":true,"Errors":[{}]}`)
	w.declarationStatuses("e0001")
	w.values("e0001")
	_, err = store.StatusErrors(ctx, "e0001", 0, 10)
	require.NoError(t, err)
	report, err := store.StatusReportByIndex(ctx, "e0001", 1)
	require.NoError(t, err)
	_, err = store.StatusReportByID(ctx, "e0001", report.StatusID)
	require.NoError(t, err)

	w.overview(all)
	w.overview(storage.Page{After: "e2", Limit: 3})
	AskFleet(ctx, t, store, all)
	AskFleet(ctx, t, store, storage.Page{After: "e2", Limit: 3})
	for _, id := range []string{"e0007", "unknown"} {
		_, err = store.DeleteEnrollment(ctx, id, change)
		require.NoError(t, err)
	}

	for _, query := range []storage.ChangeQuery{
		{}, {ChangeID: "change"}, {EnrollmentID: "e0001"}, {Declaration: "d0001"}, {Set: "s0001"}, {By: "key"},
		{Action: storage.ActionNotify}, {By: "key", Action: storage.ActionNotify, Since: clock.Now(), Until: clock.Now()},
	} {
		query.Limit = 10
		_, _, err := store.Changes(ctx, query)
		require.NoError(t, err)
	}
	w.exerciseHappenings()
	require.NoError(t, store.SaveManifest(ctx, "token", (&ddm.Composition{}).DeclarationItemsJSON()))
	require.NoError(t, store.SaveManifest(ctx, "token", (&ddm.Composition{}).DeclarationItemsJSON()))
	_, err = store.Manifest(ctx, "token")
	require.NoError(t, err)
	clock.Advance(time.Hour)
	w.exerciseClock()
	for more := true; more; {
		more, err = store.Collect(ctx, time.Minute, 100)
		require.NoError(t, err)
	}
	require.NoError(t, store.Ping(ctx))
}

// AskFleet asks everything that can be asked about the fleet, and counts it, over a database that Populate has filled.
func AskFleet(ctx context.Context, t testing.TB, store storage.Store, page storage.Page) {
	t.Helper()
	for _, set := range []string{"s0000", "s0002"} {
		_, err := store.PutSetDeclaration(ctx, set, "d0001", change)
		require.NoError(t, err)
	}
	_, err := store.DeclarationSummaries(ctx, page)
	require.NoError(t, err)
	_, err = store.DeclarationSummary(ctx, "d0001")
	require.NoError(t, err)
	for _, state := range storage.DeclarationStates {
		_, _, err = store.DeclarationEnrollments(ctx, "d0001", state, page)
		require.NoError(t, err)
	}
	_, _, err = store.StatusSummary(ctx, ".StatusItems.n", storage.Page{Limit: page.Limit})
	require.NoError(t, err)
	for _, after := range []storage.ProblemKey{{}, {Code: "Error.0001", Kind: "declaration", Subject: "d0001"}} {
		_, _, err = store.Problems(ctx, after, page.Limit)
		require.NoError(t, err)
	}
	_, err = store.EnrollmentDeclarations(ctx, "e0001")
	require.NoError(t, err)
	_, err = store.Facts(ctx, []string{"e0001", "e0002"})
	require.NoError(t, err)
	for _, filter := range []storage.EnrollmentFilter{
		{Serial: "s1"}, {Model: "m1"}, {OSFamily: "f1"}, {OSVersionFrom: "15"}, {OSVersionBelow: "15"}, {Supports: "x"},
		{Confirmed: &yes},
	} {
		_, _, err := store.ListEnrollments(ctx, filter, page)
		require.NoError(t, err)
	}
	_, _, err = store.TouchedDeclarations(ctx)
	require.NoError(t, err)
	_, err = store.StaleSummaries(ctx, time.Hour, page.Limit)
	require.NoError(t, err)
	_, err = store.PutSetDeclaration(ctx, "s0001", "d0002", change)
	require.NoError(t, err)
	_, err = store.PutSetDeclaration(ctx, "s0000", "d0002", change)
	require.NoError(t, err)
	for _, others := range [][]string{nil, {"d0002", "d0003"}} {
		_, _, err = store.CountDeclaration(ctx, "d0001", others, 0, tireless)
		require.NoError(t, err)
	}
}
