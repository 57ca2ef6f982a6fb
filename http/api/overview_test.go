package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// pages reads a list by its links.
func (s *server) pages(target string) (ids []string) {
	s.t.Helper()
	for range 100 {
		got := s.do("GET", target).is(200)
		var page []enrollmentAnswer
		require.NoError(s.t, json.Unmarshal([]byte(got.body), &page))
		for _, e := range page {
			ids = append(ids, e.ID)
		}
		link := got.header.Get("Link")
		if link == "" {
			return ids
		}
		before, rest, _ := strings.Cut(link, ">; ")
		require.Equal(s.t, `rel="next"`, rest)
		target = strings.TrimPrefix(before, "<")
	}
	require.Fail(s.t, "the list does not end")
	return nil
}

func TestListingEnrollments(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, id := range []string{"a", "b/c", "d e", "é"} {
		s.do("PUT", "/v1/enrollment-sets/"+url.PathEscape(id)+"?set=S").is(204)
	}
	s.do("PUT", "/v1/enrollment-sets/a?set=T%26").is(204)
	row := s.enrollment("a")
	require.NoError(t, s.store.UpdateDevice(t.Context(), storage.DeviceUpdate{
		ID: "a", Type: "User", ParentID: "p", Epoch: row.Epoch, Check: storage.CheckPostpone,
	}))
	lease := storage.Lease{ID: 1, Duration: time.Minute}
	_, err := s.store.Claim(t.Context(), lease, 10)
	require.NoError(t, err)
	require.NoError(t, s.store.Finalise(t.Context(), lease, []storage.Outcome{
		{Kind: storage.OutcomeFailed, IDs: []string{"b/c"}, Error: "down"},
	}))
	s.event(storage.Event{Kind: storage.EventCheckOut, ID: "é"})

	tomorrow := url.QueryEscape(time.Now().Add(24 * time.Hour).Format(time.RFC3339))
	yesterday := url.QueryEscape(time.Now().Add(-24 * time.Hour).Format(time.RFC3339))
	for query, wanted := range map[string][]string{
		"":                                     {"a", "b/c", "d e", "é"},
		"in_sync=0":                            {"a"},
		"in_sync=1":                            {"b/c", "d e", "é"},
		"state=enrolled":                       {"a", "b/c", "d e"},
		"state=left":                           {"é"},
		"set=S":                                {"a", "b/c", "d e", "é"},
		"set=T%26":                             {"a"},
		"set=none":                             nil,
		"type=User":                            {"a"},
		"failing=1":                            {"b/c"},
		"failing=no":                           {"a", "d e", "é"},
		"seen_before=" + tomorrow:              {"a", "b/c", "d e", "é"},
		"seen_before=" + yesterday:             {"b/c", "d e", "é"},
		"seen_after=" + yesterday:              {"a"},
		"seen_after=" + tomorrow:               nil,
		"set=S&failing=0&in_sync=1&state=left": {"é"},
		"after=b/c":                            {"d e", "é"},
		"after=b":                              {"b/c", "d e", "é"},
	} {
		require.Equal(t, wanted, s.pages("/v1/enrollments?"+query), query)
		require.Equal(t, wanted, s.pages("/v1/enrollments?limit=1&"+query), query)
		require.Equal(t, wanted, s.pages("/v1/enrollments?limit=2&"+query), query)
	}
	s.do("GET", "/v1/enrollments?set=none").is(200).json(`[]`)
	s.do("HEAD", "/v1/enrollments").is(200).empty()
	link := s.do("GET", "/v1/enrollments?limit=1&set=S&failing=0").header.Get("Link")
	require.Equal(t, `</v1/enrollments?after=a&failing=0&limit=1&set=S>; rel="next"`, link)
}

func TestListingEnrollmentsByTheHundred(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var wanted []string
	names := url.Values{}
	for i := range usualPage + 1 {
		wanted = append(wanted, fmt.Sprintf("e%03d", i))
		names.Add("id", wanted[i])
	}
	s.do("POST", "/v1/notify", form(names.Encode())).is(204)
	got := s.do("GET", "/v1/enrollments").is(200)
	require.Equal(t, usualPage, strings.Count(got.body, `"id"`))
	require.Equal(t, `</v1/enrollments?after=e099&limit=100>; rel="next"`, got.header.Get("Link"))
	require.Equal(t, wanted, s.pages("/v1/enrollments"))
	require.Empty(t, s.do("GET", "/v1/enrollments?limit=1000").header.Get("Link"))
}

func TestListsOfEnrollmentsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for query, text := range map[string]string{
		"in_sync=1&in_sync=0":              "in_sync: must be given once",
		"failing=%ff":                      "failing: must be valid UTF-8",
		"state=":                           "state: must be enrolled or left",
		"state=Left":                       "state: must be enrolled or left",
		"state=left&state=left":            "state: must be given once",
		"set=":                             "set: must not be empty",
		"set=A&set=B":                      "set: must be given once",
		"type=":                            "type: must not be empty",
		"type=%ff":                         "type: must be valid UTF-8",
		"seen_before=":                     "seen_before: must be a time",
		"seen_before=yesterday":            "seen_before: must be a time",
		"seen_before=2026-11-21":           "seen_before: must be a time",
		"seen_before=0001-01-01T00:00:00Z": "seen_before: must be a time of 1970 or later",
		"seen_after=2026-11-21T10:00:00":   "seen_after: must be a time",
		"seen_after=2026-13-21T10:00:00Z":  "seen_after: must be a time",
		"seen_after=1969-12-31T23:59:59Z":  "seen_after: must be a time of 1970 or later",
		"limit=0":                          "limit: must be a whole number from 1 to 1000",
		"limit=1001":                       "limit: must be a whole number from 1 to 1000",
		"limit=":                           "limit: must be a whole number",
		"after=a&after=b":                  "after: must be given once",
		"after=%ff":                        "after: must be valid UTF-8",
		"in_sync=%zz":                      "query string",
	} {
		s.do("GET", "/v1/enrollments?"+query).fails(400, text)
	}
}

func TestSyncingAnEnrollment(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("POST", "/v1/enrollments/E/sync").fails(404, `no enrollment "E"`)
	require.False(t, s.enrollment("E").Known, "to be told does not make it known")
	for _, id := range []string{"E", "a/b", "a/sync", "sync", "ä b?"} {
		escaped := url.PathEscape(id)
		s.do("PUT", "/v1/enrollment-sets/"+escaped+"?set=S&nonotify=1").is(204)
		woken := s.woken.Load()
		s.do("POST", "/v1/enrollments/"+escaped+"/sync?nonotify=1").is(204).empty()
		require.Greater(t, s.woken.Load(), woken)
		e := s.enrollment(id)
		require.True(t, e.Forced, "also if it is in sync")
		require.False(t, e.Held)
		require.Contains(t, s.do("POST", "/v1/enrollments/"+escaped+"/sync?verbose=1").is(200).body, `"changed":true`)
	}
	s.do("POST", "/v1/enrollments/a/b/sync").is(204)
	s.do("POST", "/v1/enrollments/E").fails(404, "/v1/enrollments/ID/sync")
	s.do("POST", "/v1/enrollments/sync").fails(404, "/v1/enrollments/ID/sync")
	s.do("POST", "/v1/enrollments/E/sink").fails(404, "/v1/enrollments/ID/sync")
	s.do("POST", "/v1/enrollments/E/sync?verbose=%zz").fails(400, "query string")
	s.do("POST", "/v1/enrollments/%ff/sync").fails(400, "id: must be valid UTF-8")
	s.do("POST", "/v1/enrollments").is(405)
}

func TestDeletingAnEnrollment(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("DELETE", "/v1/enrollments/E").is(304).empty()
	for _, id := range []string{"E", "a/b", "ä b?"} {
		escaped := url.PathEscape(id)
		s.do("PUT", "/v1/enrollment-sets/"+escaped+"?set=S").is(204)
		s.reported(id, `{"StatusItems":{"device":{"model":{"family":"Mac"}}},"Errors":[{"StatusItem":"x"}]}`)
		s.do("DELETE", "/v1/enrollments/"+escaped).is(204).empty()
		s.do("DELETE", "/v1/enrollments/"+escaped).is(304).empty()
		s.do("GET", "/v1/enrollments/"+escaped).is(404)
		s.do("GET", "/v1/enrollment-sets/"+escaped).is(200).json(`[]`)
		s.do("GET", "/v1/status-report/"+escaped).is(404)
		s.do("GET", "/v1/status-values/"+escaped).is(200).json(fmt.Sprintf(`{%q:[]}`, id))
	}
	s.do("PUT", "/v1/enrollment-sets/E?set=S").is(204)
	require.Contains(t, s.do("DELETE", "/v1/enrollments/E?verbose=1").is(200).body, `"changed":true`)
	require.Contains(t, s.do("DELETE", "/v1/enrollments/E?verbose=1").is(200).body, `"changed":false`)
	s.do("DELETE", "/v1/enrollments/%ff").fails(400, "id: must be valid UTF-8")
	s.do("DELETE", "/v1/enrollments/").fails(400)
	s.do("DELETE", "/v1/enrollments").is(405)
}

func TestNotificationsInNumbers(t *testing.T) {
	t.Parallel()
	probe := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	open := false
	s := newServer(t, func(c *Config) {
		c.Rate = func() float64 { return 12.5 }
		c.Breaker = func() (bool, int, time.Time) {
			if open {
				return true, 3, probe
			}
			return false, 0, time.Time{}
		}
	})
	const nothing = `"due":0,"leased":0,"waiting":0,"failing":{"total":0,"by_error":[]},"fanouts":0,"bound":10000`
	s.do("GET", "/v1/notifications").is(200).json(`{` + nothing + `,"rate":12.5,"breaker":{"open":false,"failures":0}}`)
	open = true
	s.do("GET", "/v1/notifications").is(200).json(
		`{` + nothing + `,"rate":12.5,"breaker":{"open":true,"failures":3,"next_probe":"2026-11-21T10:00:00Z"}}`)

	s = newServer(t)
	s.do("GET", "/v1/notifications").is(200).json(`{` + nothing + `}`)
	s.given("D")
	for _, id := range []string{"a", "b", "c", "d"} {
		s.do("PUT", "/v1/enrollment-sets/"+id+"?set=S").is(204)
	}
	lease := storage.Lease{ID: 1, Duration: time.Minute}
	_, err := s.store.Claim(t.Context(), lease, 10)
	require.NoError(t, err)
	require.NoError(t, s.store.Finalise(t.Context(), lease, []storage.Outcome{
		{Kind: storage.OutcomeFailed, IDs: []string{"a", "b"}, Error: "<down>", After: time.Hour},
		{Kind: storage.OutcomeFailed, IDs: []string{"c"}, Error: "unknown id", After: time.Hour},
	}))
	s.do("PUT", "/v1/set-declarations/T?declaration=D").is(204)
	got := s.do("GET", "/v1/notifications").is(200)
	due := timestamp(s.enrollment("d").NotifyAt)
	got.json(`{"due":1,"leased":1,"waiting":3,"failing":{"total":3,"by_error":[
		{"error":"<down>","count":2},{"error":"unknown id","count":1}]},"oldest_due":"` + due + `","fanouts":1,"bound":10000}`)
	s.do("POST", "/v1/notifications").is(405)
}
