package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// happening is an event as it is told to the outside.
type happening struct {
	ID           int64          `json:"id"`
	At           string         `json:"at"`
	Kind         string         `json:"kind"`
	EnrollmentID string         `json:"enrollment_id"`
	Detail       map[string]any `json:"detail"`
}

// mailbox is what events are posted to. It refuses every third request.
type mailbox struct {
	*httptest.Server
	key string

	mu       sync.Mutex
	requests int
	taken    []happening
	unsigned int
}

func newMailbox(t *testing.T, key string) *mailbox {
	m := &mailbox{key: key}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		var posted struct{ Events []happening }
		if edge.VerifySignature(r, m.key, body) != nil || json.Unmarshal(body, &posted) != nil {
			m.unsigned++
		}
		if m.requests++; m.requests%3 == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		m.taken = append(m.taken, posted.Events...)
	}))
	t.Cleanup(m.Close)
	return m
}

// find returns the first event behind an id that is of a kind and has these details, if it was taken.
func (m *mailbox) find(after int64, kind string, detail map[string]any) *happening {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.taken {
		event := &m.taken[i]
		fits := event.ID > after && event.Kind == kind
		for name, value := range detail {
			fits = fits && event.Detail[name] == value
		}
		if fits {
			return event
		}
	}
	return nil
}

// TestEvents tells of a device's life as a receiver of events sees it, and as a reader does.
func TestEvents(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		defer cancel()
		inbox := newMailbox(t, "key of events")
		nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
		s := withEvents(t, nano, append(flags, "-event-url", inbox.URL, "-event-hmac-key", "key of events"))
		after := int64(0)
		told := func(kind string, detail map[string]any) {
			t.Helper()
			var event *happening
			s.eventually(func() bool {
				event = inbox.find(after, kind, detail)
				return event != nil
			}, "%s %v", kind, detail)
			after = event.ID
		}
		device := nano.NewDevice(t)
		require.NoError(t, device.Enroll(ctx))
		told("enrollment.enrolled", map[string]any{"type": "Device"})

		s.putTest("test.a", "first")
		s.addToSet("base", "test.a")
		s.assign(device.ID(), "base")
		token := s.token(device.ID())
		told("enrollment.out-of-sync", map[string]any{"desired_token": token})
		require.NoError(t, device.WaitPush(ctx))
		require.NoError(t, device.Poll(ctx))
		told("enrollment.in-sync", map[string]any{"token": token})

		serverToken := device.Declarations()["test.a"].ServerToken
		report := func(valid, reasons, version string) {
			t.Helper()
			code, text := s.device(device.ID(), http.MethodPut, "/status", fmt.Sprintf(`{"StatusItems":{
				"device":{"operating-system":{"family":"macOS","version":%q}},
				"management":{"declarations":{"configurations":[{"identifier":"test.a","server-token":%q,"active":true,
					"valid":%q,"reasons":%s}]}}}}`, version, serverToken, valid, reasons))
			require.Equal(t, http.StatusOK, code, string(text))
		}
		report("invalid", `[{"code":"Error.Test"}]`, "98.0")
		told("declaration.invalid", map[string]any{"identifier": "test.a", "server_token": serverToken, "code": "Error.Test"})
		s.restart()
		report("valid", `[]`, "99.1")
		told("declaration.valid", map[string]any{"identifier": "test.a", "server_token": serverToken})
		after = 0 // they come with the same report
		told("os-version.changed", map[string]any{"from": "98.0", "to": "99.1"})

		nano.SetWebhook(s.url + "/webhook")
		require.NoError(t, device.CheckOut(ctx))
		told("enrollment.left", nil)

		// A reader sees the same, from any place on.
		var log struct {
			Events []happening `json:"events"`
			LastID int64       `json:"last_id"`
		}
		s.get("/v1/events?after=0", &log)
		inbox.mu.Lock()
		require.Zero(t, inbox.unsigned)
		taken := inbox.taken
		inbox.mu.Unlock()
		require.Equal(t, log.Events[:len(taken)], taken)
		for i, event := range log.Events {
			require.Equal(t, int64(i+1), event.ID)
			require.Equal(t, device.ID(), event.EnrollmentID)
			require.NotEmpty(t, event.At)
		}
		last := log.LastID
		s.get("/v1/events?kind=enrollment.left&limit=1", &log)
		require.Len(t, log.Events, 1)
		code, _ := s.do(http.MethodGet, fmt.Sprint("/v1/events?after=", last+100), "")
		require.Equal(t, http.StatusGone, code)
	})
}
