package storagetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

var servingTests = []test{
	{"ServingTheOtherWay", servingTheOtherWay},
	{"ServingKeepsHolds", servingKeepsHolds},
	{"ServingWhileServersAreRestarted", servingWhileServersAreRestarted},
}

func (w *world) serveWith(shard bool) (switched bool) {
	w.Helper()
	switched, err := w.store.ServeWith(w.ctx, shard)
	require.NoError(w, err)
	return switched
}

// servingTheOtherWay checks that a switch reaches everybody once, page by page, those without sets too, and that nothing
// else does.
func servingTheOtherWay(w *world) {
	w.assignAll("s", "a", "b", "c")
	w.notify(storage.NotifyTargets{Enrollments: []string{"without"}})
	w.settle()
	ids := []string{"a", "b", "c", "without"}
	before := w.seqs(ids...)
	require.False(w, w.serveWith(false), "nothing was served before")
	require.False(w, w.serveWith(false))
	require.Nil(w, w.advance(2))

	require.True(w, w.serveWith(true))
	require.Equal(w, &storage.FanoutPage{Marked: 2, Reached: 2}, w.advance(2))
	w.store = w.open(w.options())
	w.drain()
	for i, seq := range w.seqs(ids...) {
		require.Equal(w, before[i]+1, seq, ids[i])
	}
	require.Equal(w, ids, w.claim(lease))
}

func servingKeepsHolds(w *world) {
	w.assignAll("s", "a", "b")
	w.settle()
	w.serveWith(false)
	_, err := w.store.PutEnrollmentSet(w.ctx, "a", "held", storage.ChangeOptions{Held: true})
	require.NoError(w, err)
	require.True(w, w.serveWith(true))
	w.drain()
	require.True(w, w.enrollment("a").Held)
	require.False(w, w.enrollment("b").Held)
	require.Equal(w, []string{"a", "b"}, w.claim(lease), "what it should have is to be written down")
}

// servingWhileServersAreRestarted checks that for a day after a switch every server that starts has everybody looked at
// again, since others may have settled what was marked by what they compose.
func servingWhileServersAreRestarted(w *world) {
	w.assignAll("s", "a")
	w.settle()
	w.serveWith(false)
	require.True(w, w.serveWith(true))
	w.settle()
	w.clock.Advance(23 * time.Hour)
	require.False(w, w.serveWith(true))
	require.NotNil(w, w.advance(10))
	w.settle()
	w.clock.Advance(2 * time.Hour)
	require.False(w, w.serveWith(true))
	require.Nil(w, w.advance(10))
}
