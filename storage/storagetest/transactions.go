package storagetest

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var transactionTests = []test{
	{"CancelledWhileItWaits", cancelledWhileItWaits},
	{"CancelledMidway", cancelledMidway},
	{"CancelledBefore", cancelledBefore},
	{"Reopened", reopened},
	{"Ping", ping},
}

// cancelledWhileItWaits cancels a change that has written already, and waits to write more.
func cancelledWhileItWaits(w *world) {
	w.fill("s", "d")
	w.put(activation("a", "d"))
	w.assign("e", "s")
	w.settle()
	before := w.declaration("d")
	vector := w.vector("e")
	release := w.hold(`SELECT name FROM sets WHERE name = ?`, "s")
	defer release()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	changed := w.start(func() error {
		_, err := w.store.PutDeclaration(ctx, configuration("d", "second"), change)
		return err
	})
	w.await(1)
	cancel()
	require.ErrorIs(w, changed(), context.Canceled)
	release()
	require.Equal(w, before, w.declaration("d"))
	require.Equal(w, vector, w.vector("e"))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM fanouts`))
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM declaration_versions WHERE identifier = 'd'`))
	require.True(w, w.put(configuration("d", "second")), "nothing holds a lock")
}

// cancelledMidway cancels a change of many statements at many moments: all of it is there, or nothing.
func cancelledMidway(w *world) {
	const tries, size = 30, 1000
	finished, told := 0, 0
	for try := range tries {
		var targets storage.NotifyTargets
		for i := range size {
			targets.Enrollments = append(targets.Enrollments, fmt.Sprintf("e%02d-%03d", try, i))
			targets.Sets = append(targets.Sets, fmt.Sprintf("s%02d-%03d", try, i))
		}
		ctx, cancel := context.WithTimeout(w.ctx, time.Duration(try)*time.Millisecond)
		err := w.store.Notify(ctx, targets, change)
		cancel()
		enrollments := w.count(`SELECT COUNT(*) FROM enrollments WHERE id LIKE ?`, fmt.Sprintf("e%02d-%%", try))
		marked := w.count(`SELECT COUNT(*) FROM enrollments WHERE id LIKE ? AND notify_seq = 1`, fmt.Sprintf("e%02d-%%", try))
		fanouts := w.count(`SELECT COUNT(*) FROM fanouts WHERE set_name LIKE ?`, fmt.Sprintf("s%02d-%%", try))
		links := w.count(`SELECT COUNT(*) FROM change_fanouts WHERE set_name LIKE ?`, fmt.Sprintf("s%02d-%%", try))
		require.Equal(w, []int{enrollments, enrollments, enrollments}, []int{marked, fanouts, links}, "half a change")
		if err != nil {
			// It may have been cancelled while the answer to the commit was on its way.
			require.ErrorIs(w, err, context.DeadlineExceeded)
			require.Contains(w, []int{0, size}, enrollments)
			told += enrollments / size
			continue
		}
		require.Equal(w, size, enrollments)
		finished++
		told++
	}
	require.Equal(w, told, w.count(`SELECT COUNT(*) FROM changes`))
	w.Logf("%d of %d were not cancelled", finished, tries)
	w.notify(storage.NotifyTargets{Enrollments: []string{"after"}})
}

func cancelledBefore(w *world) {
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	_, err := w.store.PutDeclaration(ctx, configuration("d", "x"), change)
	require.ErrorIs(w, err, context.Canceled)
	_, err = w.store.PutEnrollmentSet(ctx, "e", "s", change)
	require.ErrorIs(w, err, context.Canceled)
	_, _, err = w.store.Enrollment(ctx, "e")
	require.ErrorIs(w, err, context.Canceled)
	_, err = w.store.Claim(ctx, lease, 1)
	require.ErrorIs(w, err, context.Canceled)
	_, err = w.store.Declaration(w.ctx, "d")
	require.ErrorIs(w, err, storage.ErrNotFound)
	require.False(w, w.enrollment("e").Known)
	require.True(w, w.put(configuration("d", "x")))
}

// reopened checks that a database keeps everything, and that migrating what is up to date changes nothing.
func reopened(w *world) {
	store, err := w.database.Open(w.ctx, w.options())
	require.NoError(w, err)
	other := w.store
	w.store = store
	w.fill("s", "d")
	w.touch("d")
	w.assign("e", "s")
	w.claim(lease)
	w.sent("e")
	require.NoError(w, store.SaveManifest(w.ctx, "token", []byte("{}")))
	id := w.report("e", `{"StatusItems":{"n":1},"Errors":[{}]}`)
	enrollment, declaration, vector := w.enrollment("e"), w.declaration("d"), w.vector("e")
	require.NoError(w, store.Close())
	require.Error(w, store.Ping(w.ctx))

	w.store = w.open(w.options())
	for _, store := range []storage.Store{w.store, other} {
		w.store = store
		require.Equal(w, enrollment, w.enrollment("e"))
		require.Equal(w, declaration, w.declaration("d"))
		require.Equal(w, vector, w.vector("e"))
		require.Equal(w, []string{"n 1"}, w.values("e"))
		report, err := store.StatusReportByID(w.ctx, "e", id)
		require.NoError(w, err)
		require.Zero(w, report.Index)
		_, err = store.Manifest(w.ctx, "token")
		require.NoError(w, err)
		w.requireSound()
	}
	require.NotNil(w, w.advance(10), "the fan-out waits still")
}

func ping(w *world) {
	require.NoError(w, w.store.Ping(w.ctx))
	// The database's clock is about right, and in microseconds.
	store := w.open(sqlstore.Options{})
	_, err := store.PutEnrollmentSet(w.ctx, "e", "s", change)
	require.NoError(w, err)
	e, _, err := store.Enrollment(w.ctx, "e")
	require.NoError(w, err)
	require.WithinDuration(w, time.Now(), e.Now, time.Minute)
	require.WithinDuration(w, e.Now, e.CreatedAt, time.Minute)
	require.Equal(w, time.UTC, e.Now.Location())
	delay := e.NotifyAt.Sub(e.CreatedAt)
	require.GreaterOrEqual(w, delay, 400*time.Millisecond, "half a second by default")
	require.Less(w, delay, 500*time.Millisecond+timeout)
}
