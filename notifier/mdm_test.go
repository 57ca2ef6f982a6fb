package notifier_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

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

// TestFleetWithUnknownIDs: NanoMDM on SQL refuses a whole request for one id that it does not know. Who shared the request
// is told all the same, once, and the others when NanoMDM knows them.
func TestFleetWithUnknownIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	server := nanomdmtest.Start(t, nanomdmtest.WithPostgres())
	const enrollments = 200
	unknown := map[int]bool{3: true, 104: true, 105: true}
	devices := make([]*nanomdmtest.Device, enrollments)
	var group errgroup.Group
	group.SetLimit(8)
	for i := range devices {
		devices[i] = server.NewDeviceWithID(t, fmt.Sprintf("DEVICE-%03d", i))
		if !unknown[i] {
			group.Go(func() error { return devices[i].Enroll(t.Context()) })
		}
	}
	require.NoError(t, group.Wait())
	w.fill("set", "a")
	for _, device := range devices {
		w.assign("set", device.ID())
	}
	w.drain()
	w.startWithNanoMDM(server)
	w.settle()

	queued := func() map[string]int {
		count := map[string]int{}
		for _, command := range server.Enqueued() {
			for _, id := range command.IDs {
				count[id]++
			}
		}
		return count
	}
	require.Len(t, queued(), 197)
	require.LessOrEqual(t, len(server.Enqueued())+len(server.Refused()), 3+3*2*7)
	requireTold := func(i int) {
		t.Helper()
		e := w.enrollment(devices[i].ID())
		require.Equal(t, 1, queued()[e.ID], e.ID)
		require.Equal(t, 1, e.Sends)
		require.Zero(t, e.Attempts)
		require.Empty(t, e.LastError)
		require.Equal(t, 1, devices[i].Pushes())
	}
	for attempt := 1; attempt <= 3; attempt++ {
		for i, device := range devices {
			if !unknown[i] {
				requireTold(i)
				continue
			}
			e := w.enrollment(device.ID())
			require.Zero(t, e.CommandSentAt)
			require.Contains(t, e.LastError, "foreign key")
			require.Equal(t, attempt, e.Attempts)
			require.True(t, e.NotifyAt.After(e.Now))
		}
		w.clock.advance(time.Minute)
		w.settle()
	}
	require.False(t, w.notifier.Breaker().Open)

	for i := range unknown {
		require.NoError(t, devices[i].Enroll(t.Context()))
	}
	w.clock.advance(2 * time.Hour)
	w.settle()
	for i := range devices {
		requireTold(i)
	}
}

// TestNanoMDMsDatabaseIsDown: then NanoMDM answers, and refuses everything.
func TestNanoMDMsDatabaseIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newSQLite(t))
	server := nanomdmtest.Start(t, nanomdmtest.WithPostgres())
	w.fill("set", "a")
	var ids []string
	for range 20 {
		ids = append(ids, w.enroll(server).ID())
	}
	w.assign("set", ids...)
	w.drain()
	server.StopStorage()
	w.startWithNanoMDM(server)
	for range 5 {
		w.settle()
		w.clock.advance(10 * time.Second)
	}
	require.LessOrEqual(t, len(server.Refused()), 6, "nobody is asked for one by one")
	require.Empty(t, server.Enqueued())
	require.True(t, w.notifier.Breaker().Open)

	server.Restart()
	for range 5 {
		w.clock.advance(time.Minute)
		w.settle()
	}
	told := map[string]int{}
	for _, command := range server.Enqueued() {
		for _, id := range command.IDs {
			told[id]++
		}
	}
	require.Len(t, told, len(ids))
	for id, times := range told {
		require.Equal(t, 1, times, id)
	}
}

// TestHeldAlready: a device that asked for its tokens each time it was told, and then for nothing, holds them.
func TestHeldAlready(t *testing.T) {
	eachStore(t, func(w *world) {
		w.fill("set", "a")
		w.assign("set", "e", "fetching")
		w.drain()
		token := w.compose("e").Token
		ask := func() {
			for _, id := range []string{"e", "fetching"} {
				require.NoError(w, w.store.UpdateDevice(w.Context(), storage.DeviceUpdate{
					ID: id, NotifySeq: w.enrollment(id).NotifySeq, DesiredToken: token, AskedToken: token, Acknowledged: true,
					Check: storage.CheckPostpone, CheckAfter: storage.AskGrace,
				}))
			}
		}
		w.start()
		w.settle()
		require.NotNil(w, w.mdm.take()[0].command.Data)
		w.clock.advance(time.Second)
		ask()
		w.clock.advance(storage.AskGrace)
		w.settle()
		require.Empty(w, w.enrollment("e").SyncedToken, "it may have gone away")
		require.Empty(w, w.mdm.take())

		w.clock.advance(6 * time.Hour)
		w.settle()
		again := w.mdm.take()
		require.Len(w, again, 1)
		require.Nil(w, again[0].command.Data, "it has to ask")
		w.clock.advance(time.Second)
		ask()
		require.NoError(w, w.store.UpdateDevice(w.Context(), storage.DeviceUpdate{
			ID: "fetching", NotifySeq: w.enrollment("fetching").NotifySeq, DesiredToken: token, FetchedToken: token,
			Check: storage.CheckPostpone, CheckAfter: storage.FetchGrace,
		}))
		w.clock.advance(storage.AskGrace)
		w.settle()
		require.Equal(w, token, w.enrollment("e").SyncedToken)
		require.Zero(w, w.enrollment("e").NotifyAt)
		require.Empty(w, w.enrollment("fetching").SyncedToken)
		require.Empty(w, w.mdm.take())
	})
}
