package nanomdmtest

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestRestartKeepsTheQueue(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, storage Option) {
		ctx, stub := testContext(t), startStub(t)
		server := Start(t, storage, WithDM(stub.dmURL()))
		device := enrolled(ctx, t, server)
		url := server.URL()
		enqueue(ctx, t, server, stub.tokens(), device.ID())

		server.Stop()
		server.Stop()
		require.Error(t, device.Poll(ctx))
		require.Empty(t, device.Commands())

		server.Restart()
		require.Equal(t, url, server.URL())
		require.NoError(t, device.Poll(ctx))
		require.Len(t, device.Commands(), 1)
		require.Equal(t, stub.token(), device.DeclarationsToken())

		// The push certificate and the push token were kept too.
		require.Equal(t, http.StatusOK, enqueue(ctx, t, server, nil, device.ID()).code)
		server.Restart()
		require.NoError(t, device.Poll(ctx))
		require.Len(t, device.Commands(), 2)
		require.Len(t, server.Enqueued(), 2)
	})
}

// TestStopCutsConnections stops NanoMDM while it waits for an answer that never
// comes.
func TestStopCutsConnections(t *testing.T) {
	t.Parallel()

	ctx := testContext(t)
	arrived := make(chan struct{}, 1)
	released := make(chan struct{})
	hanging := http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		arrived <- struct{}{}

		select {
		case <-request.Context().Done():
		case <-released:
		}
	})
	stub := startStub(t)
	stub.server.Config.Handler = hanging
	t.Cleanup(func() { close(released) })

	server := Start(t, WithDM(stub.dmURL()))
	device := enrolled(ctx, t, server)
	result := make(chan error, 1)

	go func() { result <- device.Sync(ctx, nil) }()

	<-arrived
	server.Stop()
	require.Error(t, <-result)
	require.NoError(t, ctx.Err())
}

func TestPushFailures(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, storage Option) {
		ctx := testContext(t)
		server := Start(t, storage, WithDM(startStub(t).dmURL()))
		good, bad := enrolled(ctx, t, server), enrolled(ctx, t, server)

		server.FailPushes(func(token string) error {
			if token == bad.PushToken() {
				return errors.New("APNs push error: InternalServerError")
			}

			return nil
		})

		result := enqueue(ctx, t, server, nil, good.ID(), bad.ID())
		require.Equal(t, http.StatusMultiStatus, result.code)
		require.Empty(t, result.Status[good.ID()].PushError)
		require.Contains(t, result.Status[bad.ID()].PushError, "InternalServerError")
		require.Empty(t, result.Status[bad.ID()].CommandError)

		result = enqueue(ctx, t, server, nil, bad.ID())
		require.Equal(t, http.StatusInternalServerError, result.code)
		require.Empty(t, result.PushError)
		require.Contains(t, result.Status[bad.ID()].PushError, "InternalServerError")

		// Both commands are queued all the same, and a push alone gets them.
		server.FailPushes(nil)
		result = call(ctx, t, server, http.MethodGet, server.PushURL(), "", "", bad.ID())
		require.Equal(t, http.StatusOK, result.code)
		require.NoError(t, bad.WaitPush(ctx))
		require.NoError(t, bad.Poll(ctx))
		require.Len(t, bad.Commands(), 2)

		// A push token that is no longer good.
		require.NoError(t, bad.CheckOut(ctx))
		result = enqueue(ctx, t, server, nil, bad.ID())
		require.Equal(t, http.StatusInternalServerError, result.code)
		require.Empty(t, result.Status[bad.ID()].CommandError)
		require.Equal(t, errUnregistered.Error(), result.Status[bad.ID()].PushError)
		require.Len(t, server.Enqueued(), 3)
	})
}

func TestWithoutPushCertificate(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, storage Option) {
		ctx := testContext(t)
		server := Start(t, storage, WithoutPushCertificate(), WithDM(startStub(t).dmURL()))
		device, other := enrolled(ctx, t, server), enrolled(ctx, t, server)

		for _, ids := range [][]string{{device.ID()}, {device.ID(), other.ID()}} {
			result := enqueue(ctx, t, server, nil, ids...)
			require.Equal(t, http.StatusInternalServerError, result.code)
			require.NotEmpty(t, result.PushError)
			require.Empty(t, result.CommandError)
			require.Empty(t, result.Status)
		}

		server.StorePushCertificate()
		require.Equal(t, http.StatusOK, enqueue(ctx, t, server, nil, device.ID(), other.ID()).code)
		require.NoError(t, device.Poll(ctx))
		require.Len(t, device.Commands(), 3)
	})
}

// TestUnknownID shows how the backends differ about an id that was never
// enrolled.
func TestUnknownID(t *testing.T) {
	t.Parallel()

	for name, storage := range map[string]Option{"file": WithFileStorage(), "memory": WithMemoryStorage()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			ctx := testContext(t)
			server := Start(t, storage)
			device := enrolled(ctx, t, server)

			result := enqueue(ctx, t, server, nil, device.ID(), "unknown")
			require.Equal(t, http.StatusMultiStatus, result.code)
			require.Equal(t, "push data missing for id", result.Status["unknown"].PushError)
			require.Empty(t, result.Status["unknown"].CommandError)
			require.Equal(t, []string{device.ID(), "unknown"}, server.Enqueued()[0].IDs)
		})
	}

	t.Run("postgres", func(t *testing.T) {
		t.Parallel()

		ctx := testContext(t)
		server := Start(t, WithPostgres())
		device := enrolled(ctx, t, server)

		result := enqueue(ctx, t, server, nil, device.ID(), "unknown")
		require.Equal(t, http.StatusInternalServerError, result.code)
		require.NotEmpty(t, result.CommandError)
		require.Empty(t, result.Status)
		require.Empty(t, server.Enqueued())
		require.Len(t, server.Refused(), 1)
		require.Error(t, server.Refused()[0].Err)
		require.Zero(t, server.Pushes())
		require.NoError(t, device.Poll(ctx))
		require.Empty(t, device.Commands())

		result = call(ctx, t, server, http.MethodGet, server.PushURL(), "", "", device.ID(), "unknown")
		require.Equal(t, http.StatusMultiStatus, result.code)
		require.Equal(t, "push data missing for id", result.Status["unknown"].PushError)
	})
}

// TestCommandUUIDTwice shows how the backends differ about a CommandUUID that
// was used before.
func TestCommandUUIDTwice(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, storage Option) {
		ctx := testContext(t)
		server := Start(t, storage, WithDM(startStub(t).dmURL()))
		device := enrolled(ctx, t, server)
		command := commandOf(t, uuid.NewString(), nil)

		result := call(ctx, t, server, http.MethodPut, server.EnqueueURL(), "?nopush=1", command, device.ID())
		require.Equal(t, http.StatusOK, result.code)
		require.True(t, result.NoPush)
		require.Zero(t, server.Pushes())

		result = call(ctx, t, server, http.MethodPut, server.EnqueueURL(), "", command, device.ID())

		switch t.Name() {
		case "TestCommandUUIDTwice/file":
			require.Equal(t, http.StatusOK, result.code)
		default:
			require.Equal(t, http.StatusInternalServerError, result.code)
			require.NotEmpty(t, result.CommandError)
			require.Len(t, server.Refused(), 1)
		}

		require.NoError(t, device.Poll(ctx))
		require.Len(t, device.Commands(), 1)
	})
}

func TestEnrollAgain(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, storage Option) {
		ctx, stub := testContext(t), startStub(t)
		server := Start(t, storage, WithDM(stub.dmURL()))
		server.SetWebhook(stub.webhookURL())

		device := enrolled(ctx, t, server)
		channel := device.NewUserChannel()
		require.NoError(t, channel.Enroll(ctx))
		require.NoError(t, device.Sync(ctx, nil))
		require.NoError(t, channel.Sync(ctx, nil))
		enqueue(ctx, t, server, nil, device.ID())

		old := device.PushToken()
		require.NoError(t, device.Enroll(ctx))
		require.NotEqual(t, old, device.PushToken())
		require.Empty(t, device.DeclarationsToken())
		require.Empty(t, device.Declarations())
		require.Empty(t, channel.DeclarationsToken())

		require.NoError(t, device.Poll(ctx))
		require.Empty(t, device.Commands(), "Authenticate clears the queue")

		require.NoError(t, device.Sync(ctx, nil))
		require.Equal(t, stub.token(), device.DeclarationsToken())
		require.NoError(t, device.CheckOut(ctx))

		// A user channel's CheckOut is refused, but by the key-value backend.
		require.Equal(t, t.Name() == "TestEnrollAgain/memory", channel.CheckOut(ctx) == nil)

		want := []string{
			"mdm.Authenticate", "mdm.Authenticate", "mdm.CheckOut", "mdm.TokenUpdate", "mdm.TokenUpdate",
		}

		require.Eventually(t, func() bool {
			topics := slices.DeleteFunc(stub.topics(device.ID()), func(topic string) bool {
				return topic == "mdm.DeclarativeManagement"
			})
			slices.Sort(topics)

			return slices.Equal(want, topics)
		}, 10*time.Second, 5*time.Millisecond)
	})
}

func TestAnswersToCommands(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, storage Option) {
		ctx, stub := testContext(t), startStub(t)
		server := Start(t, storage, WithDM(stub.dmURL()))
		device := enrolled(ctx, t, server)

		device.SetNotNow(true)
		enqueue(ctx, t, server, nil, device.ID())
		enqueue(ctx, t, server, nil, device.ID())
		require.NoError(t, device.Poll(ctx))
		require.Len(t, device.Commands(), 2)
		require.Empty(t, device.Trace())

		device.SetNotNow(false)
		device.SetCommandError(true)
		require.NoError(t, device.Poll(ctx))
		require.Len(t, device.Commands(), 4)
		require.Equal(t, "Error", device.Commands()[3].Status)
		require.Empty(t, device.Trace())

		device.SetCommandError(false)
		require.NoError(t, device.Poll(ctx))
		require.Len(t, device.Commands(), 4, "a command that failed does not come back")
	})
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()

	ctx := testContext(t)
	server, other := Start(t), Start(t)

	stranger := other.NewDevice(t)
	stranger.server = server

	var answer *AnswerError

	require.ErrorAs(t, stranger.Authenticate(ctx), &answer, "an identity of another authority")
	require.Equal(t, http.StatusBadRequest, answer.StatusCode)

	thief := server.NewDevice(t)
	thief.enrollment = enrolled(ctx, t, server).enrollment
	require.ErrorAs(t, thief.TokenUpdate(ctx), &answer, "the id of another device")
	require.Equal(t, http.StatusInternalServerError, answer.StatusCode)

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.PushURL()+"x", nil)
	require.NoError(t, err)

	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
}
