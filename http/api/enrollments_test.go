package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

func TestEnrollmentSets(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/v1/enrollment-sets/E").is(200).json(`[]`)
	s.do("DELETE", "/v1/enrollment-sets/E?set=S").is(304).empty()
	s.do("DELETE", "/v1/enrollment-sets-all/E").is(304).empty()
	require.False(t, s.enrollment("E").Known)

	s.do("PUT", "/v1/enrollment-sets/E?set=S").is(204).empty()
	s.do("PUT", "/v1/enrollment-sets/E?set=S").is(304).empty()
	s.do("PUT", "/v1/enrollment-sets/E?set=B&nonotify=1").is(204).empty()
	s.do("PUT", "/v1/enrollment-sets/F?set=S").is(204).empty()
	s.do("GET", "/v1/enrollment-sets/E").is(200).json(`["B","S"]`)
	s.do("HEAD", "/v1/enrollment-sets/E").is(200).empty()
	s.do("GET", "/v1/sets").is(200).json(`[]`)

	s.do("DELETE", "/v1/enrollment-sets/E?set=S").is(204).empty()
	s.do("DELETE", "/v1/enrollment-sets/E?set=S").is(304).empty()
	require.Contains(t, s.do("DELETE", "/v1/enrollment-sets/E?set=B&verbose=1").is(200).body, `"changed":true`)
	s.do("GET", "/v1/enrollment-sets/E").is(200).json(`[]`)
	s.do("GET", "/v1/enrollment-sets/F").is(200).json(`["S"]`)

	for _, path := range []string{"/v1/enrollment-sets-all/", "/v1/enrollment-sets-all/sets/"} {
		s.do("PUT", "/v1/enrollment-sets/E?set=S").is(204)
		s.do("PUT", "/v1/enrollment-sets/E?set=B").is(204)
		s.do("DELETE", path+"E").is(204).empty()
		s.do("DELETE", path+"E").is(304).empty()
		require.Contains(t, s.do("DELETE", path+"E?verbose=1").is(200).body, `"changed":false`)
		s.do("GET", "/v1/enrollment-sets/E").is(200).json(`[]`)
	}
}

func TestEnrollmentIDsWithSlashesAndMore(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, id := range []string{"DEVICE:USER", "a/b", "a//b", "sets/X", "ä b?#%", "a/../b"} {
		escaped := url.PathEscape(id)
		for _, all := range []string{"/v1/enrollment-sets-all/", "/v1/enrollment-sets-all/sets/"} {
			s.do("PUT", "/v1/enrollment-sets/"+escaped+"?set="+url.QueryEscape(id)).is(204)
			list, err := json.Marshal([]string{id})
			require.NoError(t, err)
			s.do("GET", "/v1/enrollment-sets/"+escaped).is(200).json(string(list))
			require.Contains(t, s.do("GET", "/v1/enrollments/"+escaped).is(200).body, `"id":"`+id+`"`)
			s.do("DELETE", all+escaped).is(204)
		}
	}
	s.do("PUT", "/v1/enrollment-sets/a/b?set=S").is(204)
	s.do("GET", "/v1/enrollment-sets/a%2Fb").is(200).json(`["S"]`)
}

func TestEnrollmentChangesThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, method := range []string{"PUT", "DELETE"} {
		s.do(method, "/v1/enrollment-sets/E").fails(400, "set: is missing")
		s.do(method, "/v1/enrollment-sets/E?set=").fails(400, "set: must not be empty")
		s.do(method, "/v1/enrollment-sets/E?set=S&set=T").fails(400, "set: must be given once")
		s.do(method, "/v1/enrollment-sets/E?set=S&nonotify=1&nonotify=1").fails(400, "nonotify: must be given once")
		s.do(method, "/v1/enrollment-sets/E?set=%C3%28").fails(400, "set: must be valid UTF-8")
		s.do(method, "/v1/enrollment-sets/%C3%28?set=S").fails(400, "id: must be valid UTF-8")
	}
	for name, text := range badNames {
		s.do("PUT", "/v1/enrollment-sets/"+url.PathEscape(name)+"?set=S").fails(400, "id: ", text)
		s.do("PUT", "/v1/enrollment-sets/E?set="+url.QueryEscape(name)).fails(400, "set: ", text)
		s.do("GET", "/v1/enrollment-sets/"+url.PathEscape(name)).is(200).json(`[]`)
		s.do("GET", "/v1/enrollments/"+url.PathEscape(name)).fails(404, "no enrollment")
		s.do("DELETE", "/v1/enrollment-sets/"+url.PathEscape(name)+"?set=S").is(304)
		s.do("DELETE", "/v1/enrollment-sets-all/"+url.PathEscape(name)).is(304)
	}
	s.do("PUT", "/v1/enrollment-sets/A,B?set=S").fails(400, "id: ", "comma")
	s.do("PUT", "/v1/enrollment-sets/A%2CB?set=S").fails(400, "id: ", "comma")
	s.do("PUT", "/v1/enrollment-sets/%2E%2E?set=S").fails(400, "id: ", "segment")
	s.do("PUT", "/v1/enrollment-sets/..?set=S").fails(400, "%2F")
	s.do("DELETE", "/v1/enrollment-sets-all/E?nonotify=%").fails(400, "query string")
	require.False(t, s.enrollment("E").Known)
}

func TestNonotifyHoldsAnEnrollment(t *testing.T) {
	t.Parallel()
	for value, held := range map[string]bool{
		"nonotify=1": true, "nonotify=true": true, "nonotify=x": true, "nonotify=-1": true,
		"": false, "nonotify": false, "nonotify=": false, "nonotify=0": false, "nonotify=false": false,
		"nonotify=NO": false, "nonotify=Off": false,
	} {
		s := newServer(t)
		s.do("PUT", "/v1/enrollment-sets/E?set=S&"+value).is(204)
		require.Equal(t, held, s.enrollment("E").Held, value)
		s.do("POST", "/v1/notify?id=E&nonotify=1").is(204)
		require.False(t, s.enrollment("E").Held)
	}
}

type enrollmentAnswer struct {
	ID           string
	Type         string
	ParentID     string `json:"parent_id"`
	Known        bool
	Sets         []string
	InSync       bool   `json:"in_sync"`
	DesiredToken string `json:"desired_token"`
	SyncedToken  string `json:"synced_token"`
	FetchedToken string `json:"fetched_token"`
	Held         bool
	NotifyAt     *time.Time `json:"notify_at"`
	Attempts     int
	LastError    string     `json:"last_error"`
	LastSeen     *time.Time `json:"last_seen"`
	State        string
	Since        *time.Time
	WaitsFor     step `json:"waits_for"`
	Leased       bool
	Steps        struct {
		Told *struct {
			At          time.Time
			CommandUUID string `json:"command_uuid"`
			Token       string
			Sends       int
		}
		Pushed *struct {
			At       time.Time
			Failures int `json:"push_failures"`
		}
		Acknowledged *struct {
			At             *time.Time
			Outcome, Error string
		}
		Asked, Fetched, Synced *struct {
			At    time.Time
			Token string
		}
	}
}

func (s *server) readEnrollment(id string) (e enrollmentAnswer) {
	s.t.Helper()
	got := s.do("GET", "/v1/enrollments/"+id).is(200)
	require.NoError(s.t, json.Unmarshal([]byte(got.body), &e))
	return e
}

// TestAnEnrollment follows one from its first set to being in sync.
func TestAnEnrollment(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/v1/enrollments/E").fails(404, `no enrollment "E"`)
	s.do("HEAD", "/v1/enrollments/E").is(404).empty()

	s.do("PUT", "/v1/enrollment-sets/E?set=S&nonotify=1").is(204)
	e := s.readEnrollment("E")
	require.Equal(t, []string{"S"}, e.Sets)
	require.True(t, e.InSync, "nothing to have, and never told anything")
	require.True(t, e.Held)
	nothing := e.DesiredToken
	got := s.do("GET", "/v1/enrollments/E").is(200)
	for _, absent := range []string{"type", "parent_id", "synced_token", "fetched_token", "last_error", "last_seen",
		"waits_for", "since", "told", "pushed", "acknowledged", "asked", "fetched", "synced"} {
		require.NotContains(t, got.body, `"`+absent+`"`)
	}

	s.given("D")
	s.do("PUT", "/v1/set-declarations/S?declaration=D").is(204)
	s.do("POST", "/v1/notify?id=E").is(204)
	e = s.readEnrollment("E")
	require.False(t, e.InSync)
	require.False(t, e.Held)
	require.NotEqual(t, nothing, e.DesiredToken)
	require.NotNil(t, e.NotifyAt)
	require.Regexp(t, `"notify_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"`, s.do("GET", "/v1/enrollments/E").body)

	s.outcome(storage.Outcome{Kind: storage.OutcomeFailed, DesiredToken: e.DesiredToken, Error: "the MDM is away"})
	e = s.readEnrollment("E")
	require.Equal(t, 1, e.Attempts)
	require.Equal(t, "the MDM is away", e.LastError)
	require.Nil(t, e.Steps.Told)

	s.outcome(storage.Outcome{Kind: storage.OutcomeSent, DesiredToken: e.DesiredToken, CommandUUID: "UUID",
		After: time.Hour})
	e = s.readEnrollment("E")
	require.Zero(t, e.Attempts)
	require.Equal(t, "UUID", e.Steps.Told.CommandUUID)
	require.Equal(t, e.DesiredToken, e.Steps.Told.Token)
	require.Equal(t, 1, e.Steps.Told.Sends)
	require.WithinDuration(t, time.Now(), e.Steps.Told.At, time.Minute)
	require.Nil(t, e.Steps.Acknowledged)
	require.WithinDuration(t, time.Now().Add(time.Hour), *e.NotifyAt, time.Minute)

	row := s.enrollment("E")
	require.NoError(t, s.store.UpdateDevice(t.Context(), storage.DeviceUpdate{
		ID: "E", Type: "User", ParentID: "P", Epoch: row.Epoch, NotifySeq: row.NotifySeq, FetchedToken: e.DesiredToken,
		SyncedToken: e.DesiredToken, Acknowledged: true, Check: storage.CheckClear,
	}))
	e = s.readEnrollment("E")
	require.True(t, e.InSync)
	require.True(t, e.Known)
	require.Equal(t, "User", e.Type)
	require.Equal(t, "P", e.ParentID)
	require.Equal(t, e.DesiredToken, e.SyncedToken)
	require.Equal(t, e.DesiredToken, e.FetchedToken)
	require.Nil(t, e.NotifyAt)
	require.NotNil(t, e.LastSeen)
	require.NotNil(t, e.Steps.Acknowledged.At)

	s.do("POST", "/v1/declarations/D/touch").is(204)
	e = s.readEnrollment("E")
	require.False(t, e.InSync, "what is desired is composed anew for each answer")
	require.NotEqual(t, e.SyncedToken, e.DesiredToken)
}

// outcome has what is due come out in one way.
func (s *server) outcome(outcome storage.Outcome) {
	s.t.Helper()
	lease := storage.Lease{ID: time.Now().UnixNano(), Duration: time.Minute}
	claimed, err := s.store.Claim(s.t.Context(), lease, 10)
	require.NoError(s.t, err)
	require.Len(s.t, claimed, 1)
	outcome.IDs = []string{claimed[0].Enrollment.ID}
	require.NoError(s.t, s.store.Finalise(s.t.Context(), lease, []storage.Outcome{outcome}))
}

// crowdedStore gives every enrollment very many sets.
type crowdedStore struct {
	Store
	vector storage.Vector
}

func (c crowdedStore) Enrollment(ctx context.Context, id string) (*storage.Enrollment, storage.Vector, error) {
	enrollment, _, err := c.Store.Enrollment(ctx, id)
	return enrollment, c.vector, err
}

func TestAnEnrollmentShowsItsFirstThousandSets(t *testing.T) {
	t.Parallel()
	var vector storage.Vector
	for i := range storage.MaxListedSets + 1 {
		vector = append(vector, storage.SetVersion{Name: fmt.Sprintf("S%04d", i)})
	}
	s := newServer(t, func(c *Config) { c.Store = crowdedStore{c.Store, vector} })
	s.do("PUT", "/v1/enrollment-sets/E?set=S0000").is(204)
	sets := s.readEnrollment("E").Sets
	require.Len(t, sets, storage.MaxListedSets)
	require.Equal(t, "S0000", sets[0])
	require.True(t, strings.HasSuffix(sets[len(sets)-1], "999"))
}
