package api

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/compositor"
)

// device returns what has a device make requests.
func (s *server) device(id string) func(path string) {
	mux := edge.NewMux(slog.New(slog.DiscardHandler))
	ddm.Register(mux, ddm.Config{Store: s.store, Compositor: compositor.New(s.store, compositor.Options{})})
	return func(path string) {
		s.t.Helper()
		r := httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, path, nil)
		r.Header.Set("X-Enrollment-ID", id)
		recorder := httptest.NewRecorder()
		mux.ServeHTTP(recorder, r)
		require.Equal(s.t, http.StatusOK, recorder.Code, recorder.Body)
	}
}

// event applies an event that just happened.
func (s *server) event(event storage.Event) {
	s.t.Helper()
	event.At = time.Now()
	_, err := s.store.ApplyEvent(s.t.Context(), event, storage.EventOptions{})
	require.NoError(s.t, err)
}

// waits checks what an enrollment waits for, and returns all about it.
func (s *server) waits(id string, wanted step) enrollmentAnswer {
	s.t.Helper()
	e := s.readEnrollment(id)
	require.Equal(s.t, wanted, e.WaitsFor)
	require.Equal(s.t, wanted == stepNone, e.InSync)
	return e
}

// waitsInList checks the same, and that the list has it too.
func (s *server) waitsInList(id string, wanted step) enrollmentAnswer {
	s.t.Helper()
	e := s.waits(id, wanted)
	require.NotNil(s.t, e.Since)
	got := s.do("GET", "/v1/enrollments?limit=1000").is(200)
	var list []enrollmentAnswer
	require.NoError(s.t, json.Unmarshal([]byte(got.body), &list))
	for _, listed := range list {
		if listed.ID == id {
			require.Equal(s.t, e, listed)
			return e
		}
	}
	require.Fail(s.t, "not listed")
	return e
}

// TestTheLedger stops a story at each step in turn.
func TestTheLedger(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	get := s.device("E")
	s.given("D")
	s.do("PUT", "/v1/set-declarations/S?declaration=D").is(204)
	s.do("GET", "/v1/enrollments").is(200).json(`[]`)

	s.do("PUT", "/v1/enrollment-sets/E?set=S&nonotify=1").is(204)
	e := s.waits("E", stepHeld)
	require.Nil(t, e.Since, "nobody has looked")
	token := e.DesiredToken
	s.outcome(storage.Outcome{Kind: storage.OutcomeHeld, DesiredToken: token})
	e = s.waitsInList("E", stepHeld)
	require.Nil(t, e.NotifyAt)

	s.do("POST", "/v1/enrollments/E/sync").is(204)
	e = s.waitsInList("E", stepNotTold)
	require.NotNil(t, e.NotifyAt)
	lease := storage.Lease{ID: 7, Duration: time.Minute}
	_, err := s.store.Claim(t.Context(), lease, 10)
	require.NoError(t, err)
	require.True(t, s.waitsInList("E", stepNotTold).Leased)
	require.NoError(t, s.store.Finalise(t.Context(), lease, []storage.Outcome{
		{Kind: storage.OutcomeFailed, IDs: []string{"E"}, DesiredToken: token, Error: "the MDM is away"},
	}))
	e = s.waitsInList("E", stepNotTold)
	require.False(t, e.Leased)
	require.Equal(t, 1, e.Attempts)
	require.Equal(t, "the MDM is away", e.LastError)

	s.outcome(storage.Outcome{Kind: storage.OutcomeSent, DesiredToken: token, CommandUUID: "U1", Error: "no push"})
	e = s.waitsInList("E", stepInQueue)
	require.Equal(t, "U1", e.Steps.Told.CommandUUID)
	require.Equal(t, token, e.Steps.Told.Token)
	require.Equal(t, 1, e.Steps.Pushed.Failures)
	require.Equal(t, "no push", e.LastError)
	require.Nil(t, e.Steps.Acknowledged)
	s.outcome(storage.Outcome{Kind: storage.OutcomePushed, DesiredToken: token})
	e = s.waitsInList("E", stepInQueue)
	require.Zero(t, e.Steps.Pushed.Failures)
	require.Empty(t, e.LastError)

	s.event(storage.Event{Kind: storage.EventCommand, ID: "E", CommandUUID: "another", Status: "Error"})
	s.waitsInList("E", stepInQueue)
	s.event(storage.Event{Kind: storage.EventCommand, ID: "E", CommandUUID: "U1", Status: "NotNow"})
	e = s.waitsInList("E", stepNotAcknowledged)
	require.Equal(t, "NotNow", e.Steps.Acknowledged.Outcome)
	require.Nil(t, e.Steps.Acknowledged.At)
	s.event(storage.Event{Kind: storage.EventCommand, ID: "E", CommandUUID: "U1", Status: "Error", Error: "no DDM here"})
	e = s.waitsInList("E", stepNotAcknowledged)
	require.Equal(t, "Error", e.Steps.Acknowledged.Outcome)
	require.Equal(t, "no DDM here", e.Steps.Acknowledged.Error)

	s.outcome(storage.Outcome{Kind: storage.OutcomeSent, DesiredToken: token, CommandUUID: "U2"})
	e = s.waitsInList("E", stepInQueue)
	require.Equal(t, 2, e.Steps.Told.Sends)
	s.event(storage.Event{Kind: storage.EventCommand, ID: "E", CommandUUID: "U2", Status: "Acknowledged"})
	e = s.waitsInList("E", stepNotFetched)
	require.NotNil(t, e.Steps.Acknowledged.At)
	require.Nil(t, e.Steps.Asked)
	get("/tokens")
	e = s.waitsInList("E", stepNotFetched)
	require.Equal(t, token, e.Steps.Asked.Token)

	get("/declaration-items")
	e = s.waitsInList("E", stepNotConfirmed)
	require.Equal(t, token, e.Steps.Fetched.Token)
	get("/declaration/configuration/D")
	s.waitsInList("E", stepNotConfirmed)

	get("/tokens")
	e = s.waitsInList("E", stepNone)
	require.Equal(t, token, e.Steps.Synced.Token)
	require.Nil(t, e.NotifyAt)

	s.do("POST", "/v1/declarations/D/touch").is(204)
	e = s.waits("E", stepNotTold)
	require.Nil(t, e.Since, "only this answer knows")
	require.Contains(t, s.do("GET", "/v1/enrollments").body, `"in_sync":true`, "the list does not compose")
	s.event(storage.Event{Kind: storage.EventCheckOut, ID: "E"})
	e = s.waits("E", stepLeft)
	require.Equal(t, stateLeft, e.State)
	require.Nil(t, e.Steps.Synced, "what it holds is not known any more")
}

// TestTheLedgerOfADeviceThatComesByItself is for one that asks before it is told, and where the MDM tells of no events.
func TestTheLedgerOfADeviceThatComesByItself(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	get := s.device("E")
	s.given("D")
	s.do("PUT", "/v1/set-declarations/S?declaration=D").is(204)
	s.do("PUT", "/v1/enrollment-sets/E?set=S").is(204)
	s.waits("E", stepNotTold)
	get("/tokens")
	s.waitsInList("E", stepNotFetched)
	get("/declaration-items")
	s.waitsInList("E", stepNotConfirmed)
	get("/tokens")
	s.waitsInList("E", stepNone)
}
