package nanomdm

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// eachBackend runs a test on NanoMDM with each of its backends.
func eachBackend(t *testing.T, test func(t *testing.T, backend nanomdmtest.Option)) {
	t.Parallel()
	for name, backend := range map[string]nanomdmtest.Option{
		"file": nanomdmtest.WithFileStorage(), "memory": nanomdmtest.WithMemoryStorage(), "postgres": nanomdmtest.WithPostgres(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, backend)
		})
	}
}

func TestPush(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend nanomdmtest.Option) {
		ctx := testContext(t)
		server := nanomdmtest.Start(t, backend)
		c := newClient(t, server.EnqueueURL(), server.APIKey())
		device, other := server.NewDevice(t), server.NewDevice(t)
		require.NoError(t, device.Enroll(ctx))
		require.NoError(t, other.Enroll(ctx))

		results, err := c.Push(ctx, []string{device.ID(), other.ID()})
		require.NoError(t, err)
		require.Equal(t, map[string]notifier.Result{device.ID(): {}, other.ID(): {}}, results)
		require.Equal(t, 1, device.Pushes())
		require.Equal(t, 1, other.Pushes())

		// Who is unknown keeps nobody asleep.
		results, err = c.Push(ctx, []string{device.ID(), "DEVICE-NOBODY"})
		require.NoError(t, err)
		require.Empty(t, results[device.ID()].PushError)
		require.NotEmpty(t, results["DEVICE-NOBODY"].PushError)
		require.Equal(t, 2, device.Pushes())
		results, err = c.Push(ctx, []string{"DEVICE-NOBODY", "a/b"})
		require.NoError(t, err)
		require.NotEmpty(t, results["DEVICE-NOBODY"].PushError)
		require.NotEmpty(t, results["a/b"].PushError)

		server.FailPushes(func(token string) error {
			if token == device.PushToken() {
				return errors.New("BadDeviceToken")
			}
			return nil
		})
		results, err = c.Push(ctx, []string{device.ID(), other.ID()})
		require.NoError(t, err)
		require.Contains(t, results[device.ID()].PushError, "BadDeviceToken")
		require.Empty(t, results[other.ID()].PushError)
		require.Empty(t, server.Enqueued(), "pushing queues nothing")
	})
}

func TestProbe(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend nanomdmtest.Option) {
		ctx := testContext(t)
		server := nanomdmtest.Start(t, backend, nanomdmtest.WithoutPushCertificate())
		c := newClient(t, server.EnqueueURL(), server.APIKey())
		require.NoError(t, c.Probe(ctx), "it works, without a push certificate too")
		server.StorePushCertificate()
		require.NoError(t, c.Probe(ctx))
		require.Empty(t, server.Enqueued())
		require.Empty(t, server.Refused())
		require.Zero(t, server.Pushes())

		require.ErrorContains(t, newClient(t, server.EnqueueURL(), key).Probe(ctx), "key is wrong")
		require.ErrorContains(t, newClient(t, server.URL()+"/v2/enqueue/", server.APIKey()).Probe(ctx), "404")
		server.Stop()
		require.Error(t, c.Probe(ctx))
		server.Restart()
		require.NoError(t, c.Probe(ctx))
	})
}

// TestProbeWithoutItsDatabase: NanoMDM answers, and does not work.
func TestProbeWithoutItsDatabase(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := nanomdmtest.Start(t, nanomdmtest.WithPostgres())
	c := newClient(t, server.EnqueueURL(), server.APIKey())
	device := server.NewDevice(t)
	require.NoError(t, device.Enroll(ctx))
	server.StopStorage()
	err := c.Probe(ctx)
	requireDiscreet(t, err)
	require.ErrorContains(t, err, "NanoMDM does not work")
	_, err = c.Enqueue(ctx, []string{device.ID()}, newCommand())
	var refused *notifier.RefusedError
	require.ErrorAs(t, err, &refused)
	results, err := c.Push(ctx, []string{device.ID()})
	require.NoError(t, err)
	require.NotEmpty(t, results[device.ID()].PushError)
	server.Restart()
	require.NoError(t, c.Probe(ctx))
}

// TestProbeAnswers are answers of a NanoMDM that has a trouble of its own, and of others.
func TestProbeAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code int
		text string
		err  string // empty: it works
	}{
		{500, `{"status":{"decree-probe":{"push_error":"push data missing for id"}}}`, ""},
		{207, `{"status":{"decree-probe":{"push_error":"push data missing for id"}}}`, ""},
		{200, `{"status":{"decree-probe":{"push_result":"1"}}}`, ""},
		{500, `{"push_error":"push storage: dial tcp: connection refused"}`, "connection refused"},
		{500, `{"command_error":"nil API result","push_error":"nil API result"}`, "nil API result"},
		{500, ``, "other than its JSON"},
		{200, `<html>`, "other than its JSON"},
		{404, `404 page not found`, "404"},
		{502, ``, "502"},
	} {
		seen := make(chan string, 1)
		url := answering(t, func(w http.ResponseWriter, r *http.Request) {
			seen <- r.Method + " " + r.RequestURI
			w.WriteHeader(test.code)
			_, _ = io.WriteString(w, test.text)
		})
		err := newClient(t, url, key).Probe(testContext(t))
		require.Equal(t, "GET /v1/push/decree-probe", <-seen)
		if test.err == "" {
			require.NoError(t, err, test.text)
			continue
		}
		requireDiscreet(t, err)
		require.ErrorContains(t, err, test.err)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	for _, code := range []int{429, 503} {
		url := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "42")
			w.WriteHeader(code)
		})
		c := newClient(t, url, key)
		_, enqueue := c.Enqueue(testContext(t), devices, newCommand())
		_, push := c.Push(testContext(t), devices)
		for _, err := range []error{enqueue, push, c.Probe(testContext(t))} {
			requireDiscreet(t, err)
			var busy *notifier.BusyError
			require.ErrorAs(t, err, &busy)
			require.Equal(t, 42*time.Second, busy.After)
		}
	}
}

// TestRefusals: an answer that queued nothing for anybody is told from an MDM that does not work.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`{"command_error":"violates foreign key constraint","command_uuid":"u"}`: true,
		`Internal Server Error`: false,
	} {
		url := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, text)
		})
		_, err := newClient(t, url, key).Enqueue(testContext(t), devices, newCommand())
		requireDiscreet(t, err)
		var refused *notifier.RefusedError
		require.Equal(t, want, errors.As(err, &refused), text)
	}
}
