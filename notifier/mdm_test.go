package notifier_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/notifier/nanomdm"
	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
	"github.com/decree-ddm/decree/storage"
)

// startWithNanoMDM starts a notifier that tells a real NanoMDM.
func (w *world) startWithNanoMDM(server *nanomdmtest.Server) {
	w.Helper()
	client, err := nanomdm.New(server.EnqueueURL(), server.APIKey())
	require.NoError(w, err)
	w.start(func(c *notifier.Config) { c.MDM = client })
}

func (w *world) enroll(server *nanomdmtest.Server) *nanomdmtest.Device {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	device := server.NewDevice(w)
	require.NoError(w, device.Enroll(ctx))
	return device
}

func TestNanoMDMTakesCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	server := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	w.fill("set", "a")
	w.startWithNanoMDM(server)
	device := w.enroll(server)
	w.assign("set", device.ID())
	w.settle()
	enqueued := server.Enqueued()
	require.Len(t, enqueued, 1)
	require.Equal(t, []string{device.ID()}, enqueued[0].IDs)
	require.Equal(t, w.compose(device.ID()).Tokens(), enqueued[0].Data)
	require.Equal(t, w.enrollment(device.ID()).CommandUUID, enqueued[0].CommandUUID)
	require.Equal(t, 1, device.Pushes())

	// It is down for a while, and the device is told when it is back.
	server.Stop()
	w.put("a", "second", change)
	w.settle()
	require.NotZero(t, w.enrollment(device.ID()).Attempts)
	server.Restart()
	w.clock.advance(time.Minute)
	w.settle()
	enqueued = server.Enqueued()
	require.Len(t, enqueued, 2)
	require.Equal(t, w.compose(device.ID()).Tokens(), enqueued[1].Data)
	require.Zero(t, w.enrollment(device.ID()).Attempts)
}

// TestUnknownIDsBackOff: NanoMDM on SQL refuses a whole batch for one id that it does not know. Who shared the batch is
// told soon all the same, since each backs off for itself.
func TestUnknownIDsBackOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	server := nanomdmtest.Start(t, nanomdmtest.WithPostgres())
	w.fill("set", "a")
	var ids []string
	for range 20 {
		ids = append(ids, w.enroll(server).ID())
	}
	for i := range 2 {
		w.assign("set", fmt.Sprint("UNKNOWN-", i))
	}
	w.assign("set", ids...)
	w.drain()
	w.startWithNanoMDM(server)
	w.settle()
	require.Empty(t, server.Enqueued())
	told := func() (n int) {
		for _, id := range ids {
			if !w.enrollment(id).CommandSentAt.IsZero() {
				n++
			}
		}
		return n
	}
	for elapsed := 0; told() < len(ids); elapsed++ {
		require.Less(t, elapsed, 300, "seconds")
		w.clock.advance(time.Second)
		w.settle()
	}
	for i := range 2 {
		e := w.enrollment(fmt.Sprint("UNKNOWN-", i))
		require.Zero(t, e.CommandSentAt)
		require.NotEmpty(t, e.LastError)
	}
	// Nobody was told twice.
	seen := map[string]bool{}
	for _, command := range server.Enqueued() {
		for _, id := range command.IDs {
			require.False(t, seen[id])
			seen[id] = true
		}
	}
	require.Len(t, seen, len(ids))
}

// TestHeldAlready: a device that asked for its tokens, and then for nothing, holds them.
func TestHeldAlready(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.assign("set", "e", "fetching")
		w.drain()
		token := w.compose("e").Token
		for _, id := range []string{"e", "fetching"} {
			require.NoError(w, w.store.UpdateDevice(w.Context(), storage.DeviceUpdate{
				ID: id, NotifySeq: w.enrollment(id).NotifySeq, DesiredToken: token, AskedToken: token,
				Check: storage.CheckPostpone, CheckAfter: storage.AskGrace,
			}))
		}
		w.start()
		w.clock.advance(storage.AskGrace - time.Second)
		w.settle()
		require.Empty(w, w.enrollment("e").SyncedToken)
		require.NoError(w, w.store.UpdateDevice(w.Context(), storage.DeviceUpdate{
			ID: "fetching", NotifySeq: w.enrollment("fetching").NotifySeq, DesiredToken: token, FetchedToken: token,
			Check: storage.CheckPostpone, CheckAfter: storage.FetchGrace,
		}))
		w.clock.advance(time.Second)
		w.settle()
		require.Equal(w, token, w.enrollment("e").SyncedToken)
		require.Zero(w, w.enrollment("e").NotifyAt)
		require.Empty(w, w.enrollment("fetching").SyncedToken)
		require.Empty(w, w.mdm.take(), "neither needs to be told")

		w.clock.advance(storage.FetchGrace)
		w.settle()
		require.Equal(w, [][]string{{"fetching"}}, idsOf(w.mdm.take()), "it has not come back")
	})
}
