package storagetest

import (
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var deletionTests = []test{
	{"DeleteEnrollment", deleteEnrollment},
	{"DeleteEnrollmentBesideOthers", deleteEnrollmentBesideOthers},
}

// traces counts the rows that name an enrollment, in all tables that can.
func (w *world) traces(id string) map[string]int {
	w.Helper()
	tables := w.strings(`SELECT name FROM sqlite_master WHERE type = 'table'`)
	if tables == nil {
		tables = w.strings(`SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()`)
	}
	traces := map[string]int{"enrollments": w.count(`SELECT COUNT(*) FROM enrollments WHERE id = ?`, id)}
	for _, table := range tables {
		rows, err := w.database.SQL.QueryContext(w.ctx, `SELECT * FROM `+table+` LIMIT 0`) // #nosec G202 -- the schema's names
		require.NoError(w, err)
		columns, err := rows.Columns()
		require.NoError(w, err)
		require.NoError(w, rows.Err())
		require.NoError(w, rows.Close())
		// The log tells what happened, also to who is forgotten.
		log := table == "events" || table == "event_outbox" || table == "changes"
		if !log && slices.Contains(columns, "enrollment_id") {
			traces[table] = w.count(`SELECT COUNT(*) FROM `+table+` WHERE enrollment_id = ?`, id)
		}
	}
	require.GreaterOrEqual(w, len(traces), 6)
	return traces
}

// strings returns the one column of a query, or nil where the database cannot run it.
func (w *world) strings(query string) (list []string) {
	w.Helper()
	rows, err := w.database.SQL.QueryContext(w.ctx, query)
	if err != nil {
		return nil
	}
	defer func() { require.NoError(w, rows.Close()) }()
	for rows.Next() {
		var s string
		require.NoError(w, rows.Scan(&s))
		list = append(list, s)
	}
	require.NoError(w, rows.Err())
	return list
}

func deleteEnrollment(w *world) {
	changed, err := w.store.DeleteEnrollment(w.ctx, "e", change)
	require.NoError(w, err)
	require.False(w, changed)

	w.fill("s", "d")
	for _, id := range []string{"e", "other"} {
		w.assign(id, "s")
		w.report(id, `{"StatusItems":{"device":{"model":{"identifier":"Mac1,1"}},"management":{"declarations":{
			"configurations":[{"identifier":"d","server-token":"1","active":true,"valid":"invalid"}]}}},"Errors":[{}]}`)
		claimed := w.claim(lease)
		early := result("u", "Acknowledged", "")
		early.ID = id
		w.apply(early)
		w.finalise(lease, storage.Outcome{Kind: storage.OutcomePostponed, IDs: claimed})
		for table, rows := range w.traces(id) {
			require.Positive(w, rows, table)
		}
	}
	other := w.traces("other")
	require.Contains(w, w.claim(lease), "e")
	changed, err = w.store.DeleteEnrollment(w.ctx, "e", change)
	require.NoError(w, err)
	require.True(w, changed)
	nothing := w.traces("e")
	for table, rows := range nothing {
		require.Zero(w, rows, table)
	}
	require.Equal(w, other, w.traces("other"))

	// Who was at it does not bring it back.
	w.finalise(lease, storage.Outcome{Kind: storage.OutcomeSent, IDs: []string{"e"}, DesiredToken: "t"})
	w.update(storage.DeviceUpdate{ID: "e", FetchedToken: "t"})
	w.put(configuration("d", "second"))
	w.drain()
	require.Equal(w, nothing, w.traces("e"))
	changed, err = w.store.DeleteEnrollment(w.ctx, "e", change)
	require.NoError(w, err)
	require.False(w, changed)
	w.assign("e", "s")
	require.Equal(w, []string{"s"}, w.list(w.store, storage.EnrollmentFilter{}, 1)[0].Sets)
}

// deleteEnrollmentBesideOthers checks that nothing is left of an enrollment of which others write at the same time,
// unless all of it is.
func deleteEnrollmentBesideOthers(w *world) {
	for range 20 {
		assigned := w.start(func() error {
			_, err := w.store.PutEnrollmentSet(w.ctx, "e", "s", change)
			return err
		})
		deleted := w.start(func() error {
			_, err := w.store.DeleteEnrollment(w.ctx, "e", change)
			return err
		})
		require.NoError(w, assigned())
		require.NoError(w, deleted())
		traces := w.traces("e")
		require.Equal(w, traces["enrollments"], traces["enrollment_sets"])
	}
}
