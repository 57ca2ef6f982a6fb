package nanomdmtest

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testContext(t *testing.T) context.Context {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)

	return ctx
}

// eachBackend runs the test on every kind of NanoMDM storage.
func eachBackend(t *testing.T, test func(t *testing.T, storage Option)) {
	t.Helper()

	for name, storage := range map[string]Option{
		"file": WithFileStorage(), "memory": WithMemoryStorage(), "postgres": WithPostgres(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, storage)
		})
	}
}

func enrolled(ctx context.Context, t *testing.T, server *Server) *Device {
	t.Helper()

	device := server.NewDevice(t)
	require.NoError(t, device.Enroll(ctx))

	return device
}

// TestSyncByCommand is the way that declarations normally take.
func TestSyncByCommand(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, storage Option) {
		ctx, stub := testContext(t), startStub(t)
		server := Start(t, storage)
		server.SetDM(stub.dmURL())

		device := enrolled(ctx, t, server)
		result := enqueue(ctx, t, server, nil, device.ID())
		require.Equal(t, http.StatusOK, result.code)
		require.NotEmpty(t, result.Status[device.ID()].PushResult)
		require.NoError(t, device.WaitPush(ctx))
		require.Equal(t, 1, server.Pushes())
		require.NoError(t, device.Poll(ctx))

		require.Equal(t, []string{
			"tokens", "declaration-items", "declaration/activation/example.activation",
			"declaration/configuration/example.test", "declaration/management/example.organization",
			"tokens", "status",
		}, device.Trace())
		require.Equal(t, stub.token(), device.DeclarationsToken())

		received := device.Commands()
		require.Len(t, received, 1)
		require.Equal(t, ReceivedCommand{
			UUID: result.CommandUUID, RequestType: "DeclarativeManagement", Status: "Acknowledged",
		}, received[0])

		enqueued := server.Enqueued()
		require.Len(t, enqueued, 1)
		require.Equal(t, []string{device.ID()}, enqueued[0].IDs)
		require.Equal(t, result.CommandUUID, enqueued[0].CommandUUID)
		require.Nil(t, enqueued[0].Data)
		require.Empty(t, server.Refused())

		// What has been answered is gone from the queue.
		device.ClearTrace()
		require.NoError(t, device.Poll(ctx))
		require.Empty(t, device.Trace())

		// With Data, the device needs no tokens request; what it holds, it
		// does not fetch again.
		stub.put(testDeclaration("example.test", "2"))
		stub.remove("example.organization")

		data := stub.tokens()
		enqueue(ctx, t, server, data, device.ID())
		require.NoError(t, device.Poll(ctx))
		require.Equal(t, []string{
			"declaration-items", "declaration/configuration/example.test", "tokens", "status",
		}, device.Trace())
		require.Equal(t, data, device.Commands()[1].Data)
		require.Equal(t, data, server.Enqueued()[1].Data)
		require.Equal(t, "2", device.Declarations()["example.test"].ServerToken)
		require.NotContains(t, device.Declarations(), "example.organization")

		// The same again is nothing to do.
		device.ClearTrace()
		enqueue(ctx, t, server, stub.tokens(), device.ID())
		require.NoError(t, device.Poll(ctx))
		require.Empty(t, device.Trace())
	})
}

func TestRun(t *testing.T) {
	t.Parallel()

	ctx, stub := testContext(t), startStub(t)
	server := Start(t, WithDM(stub.dmURL()))
	device := enrolled(ctx, t, server)

	device.Run(ctx)
	enqueue(ctx, t, server, nil, device.ID())
	require.NoError(t, device.WaitSync(ctx, stub.token()))

	// A device that answers NotNow comes back without another push.
	device.SetNotNow(true)
	stub.put(testDeclaration("example.test", "2"))
	enqueue(ctx, t, server, nil, device.ID())
	require.Eventually(t, func() bool {
		commands := device.Commands()

		return commands[len(commands)-1].Status == "NotNow"
	}, 10*time.Second, 5*time.Millisecond)
	require.NotEqual(t, stub.token(), device.DeclarationsToken())

	pushes := device.Pushes()
	device.SetNotNow(false)
	require.NoError(t, device.WaitSync(ctx, stub.token()))
	require.Equal(t, pushes, device.Pushes())
	require.NoError(t, device.LastError())
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, storage Option) {
		ctx, stub := testContext(t), startStub(t)
		server := Start(t, storage, WithDM(stub.dmURL()))
		device, byod := server.NewDevice(t), server.NewUserEnrollment(t)

		for _, test := range []struct {
			device *Device
			kind   string
			parent string
		}{
			{device, "Device", ""},
			{device.NewUserChannel(), "User", device.ID()},
			{device.NewSharedIPadUser("someone@example.com"), "Shared iPad", device.ID()},
			{byod, "User Enrollment (Device)", ""},
			{byod.NewUserChannel(), "User Enrollment", byod.ID()},
		} {
			require.NoError(t, test.device.Enroll(ctx), test.kind)
			require.NoError(t, test.device.Sync(ctx, nil), test.kind)
			require.Equal(t, test.parent, test.device.ParentID())

			requests := stub.received(test.device.ID())
			require.Len(t, requests, 7, test.kind)

			for _, request := range requests {
				require.Equal(t, test.kind, request.header.Get("X-Enrollment-Type"))
				require.Equal(t, test.parent, request.header.Get("X-Enrollment-ParentID"))
				require.Equal(t, test.parent != "", len(request.header.Values("X-Enrollment-ParentID")) == 1)
			}

			status := requests[6]
			require.Equal(t, http.MethodPut, status.method)
			require.Equal(t, "application/json", status.header.Get("Content-Type"))

			// Each channel has a queue and a push token of its own.
			require.Equal(t, http.StatusOK, enqueue(ctx, t, server, nil, test.device.ID()).code)
			require.NoError(t, test.device.WaitPush(ctx))
			require.NoError(t, test.device.Poll(ctx))
			require.Len(t, test.device.Commands(), 1)
		}
	})
}

func TestFailureStopsSync(t *testing.T) {
	t.Parallel()

	for _, code := range []int{http.StatusNotFound, http.StatusInternalServerError, http.StatusNoContent} {
		ctx, stub := testContext(t), startStub(t)
		device := enrolled(ctx, t, Start(t, WithDM(stub.dmURL())))

		stub.fail("declaration/configuration/example.test", code)

		err := device.Sync(ctx, nil)

		var answer *AnswerError

		require.ErrorAs(t, err, &answer)
		require.Equal(t, http.StatusInternalServerError, answer.StatusCode)

		if code != http.StatusNoContent { // which cannot have a body
			require.Equal(t, "Internal Server Error\nthe stub fails\n", string(answer.Body))
		}

		require.Equal(t, err, device.LastError())
		require.Equal(t, []string{
			"tokens", "declaration-items", "declaration/activation/example.activation",
			"declaration/configuration/example.test",
		}, device.Trace())
		require.Empty(t, device.DeclarationsToken())

		stub.fail("declaration/configuration/example.test", 0)
		device.ClearTrace()
		require.NoError(t, device.Sync(ctx, nil))
		require.NoError(t, device.LastError())
		require.Equal(t, []string{
			"tokens", "declaration-items", "declaration/configuration/example.test",
			"declaration/management/example.organization", "tokens", "status",
		}, device.Trace())
	}
}

func TestIdentifiersInPaths(t *testing.T) {
	t.Parallel()

	for _, raw := range []bool{false, true} {
		ctx, stub := testContext(t), startStub(t)
		device := enrolled(ctx, t, Start(t, WithDM(stub.dmURL())))
		device.SetFaults(Faults{RawEndpoints: raw})

		identifiers := []string{"a b", "a/b", "Größe", "日本語", "a:b", "a+b&c=d;e"}
		for _, identifier := range identifiers {
			stub.put(testDeclaration(identifier, "1"))
		}

		require.NoError(t, device.Sync(ctx, nil))

		for _, identifier := range identifiers {
			require.Contains(t, device.Declarations(), identifier)
		}
	}
}

func TestChangeDuringSync(t *testing.T) {
	t.Parallel()

	ctx, stub := testContext(t), startStub(t)
	device := enrolled(ctx, t, Start(t, WithDM(stub.dmURL())))

	// A change between the declarations and the second tokens request makes
	// the sync start over; it reports once.
	changed := false
	device.SetFaults(Faults{FailFetch: func(endpoint string) error {
		if endpoint == "declaration/management/example.organization" && !changed {
			changed = true

			stub.put(testDeclaration("example.test", "2"))
		}

		return nil
	}})
	require.NoError(t, device.Sync(ctx, nil))
	require.Equal(t, stub.token(), device.DeclarationsToken())
	require.Equal(t, []string{
		"tokens", "declaration-items", "declaration/activation/example.activation",
		"declaration/configuration/example.test", "declaration/management/example.organization",
		"tokens", "declaration-items", "declaration/configuration/example.test", "tokens", "status",
	}, device.Trace())

	// Old Data makes the device fetch a manifest that it holds already.
	device.ClearTrace()
	require.NoError(t, device.Sync(ctx,
		[]byte(`{"SyncTokens":{"DeclarationsToken":"old","Timestamp":"2026-11-21T10:00:00Z"}}`)))
	require.Equal(t, []string{"declaration-items", "tokens", "status"}, device.Trace())
	require.Equal(t, stub.token(), device.DeclarationsToken())
}

func TestFaults(t *testing.T) {
	t.Parallel()

	ctx, stub := testContext(t), startStub(t)
	device := enrolled(ctx, t, Start(t, WithDM(stub.dmURL())))

	lost := errors.New("lost")
	device.SetFaults(Faults{FailFetch: func(endpoint string) error {
		if endpoint == "declaration-items" {
			return lost
		}

		return nil
	}})
	require.ErrorIs(t, device.Sync(ctx, nil), lost)
	require.Equal(t, []string{"tokens"}, device.Trace())

	device.ClearTrace()
	device.SetFaults(Faults{SkipSecondTokens: true, SkipStatus: true})
	require.NoError(t, device.Sync(ctx, nil))
	require.Len(t, device.Trace(), 5)
	require.Equal(t, stub.token(), device.DeclarationsToken())

	// The report is still due.
	device.ClearTrace()
	device.SetFaults(Faults{})
	require.NoError(t, device.Sync(ctx, nil))
	require.Equal(t, []string{"tokens", "status"}, device.Trace())

	for _, data := range []string{
		`{}`, `[]`, `{"SyncTokens":{"DeclarationsToken":"x","Timestamp":"2026-11-21T10:00:00.5Z"}}`,
		`{"SyncTokens":{"DeclarationsToken":"x","Timestamp":"2026-11-21T10:00:00+00:00"}}`,
	} {
		require.ErrorIs(t, device.Sync(ctx, []byte(data)), errMalformed, data)
	}

	for _, manifest := range []string{
		`{}`, `{"DeclarationsToken":"x"}`,
		`{"DeclarationsToken":"x","Declarations":{"Activations":[],"Assets":[],"Configurations":[]}}`,
		`{"DeclarationsToken":"x","Declarations":{"Activations":[],"Assets":[],"Configurations":null,"Management":[]}}`,
	} {
		_, _, err := parseManifest([]byte(manifest))
		require.ErrorIs(t, err, errMalformed, manifest)
	}
}

func TestHMAC(t *testing.T) {
	t.Parallel()

	ctx, stub := testContext(t), startStub(t)
	server := Start(t, WithDM(stub.dmURL()), WithDMSendHMACKey("there"), WithDMRecvHMACKey("back"),
		WithWebhook(stub.webhookURL()), WithWebhookHMACKey("event"))
	device := enrolled(ctx, t, server)

	require.Error(t, device.Sync(ctx, nil), "an answer that is not signed")
	stub.sign("back")
	require.NoError(t, device.Sync(ctx, nil))

	for _, request := range stub.received(device.ID()) {
		require.Equal(t, signature("there", request.body), request.header.Get("X-Hmac-Signature"))
	}

	stub.mutex.Lock()
	defer stub.mutex.Unlock()

	for _, request := range stub.requests {
		if request.path == "/webhook" {
			require.Equal(t, signature("event", request.body), request.header.Get("X-Hmac-Signature"))
		}
	}
}
