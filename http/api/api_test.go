package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

func TestVersionNeedsNoKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/version", anonymous).is(200).json(`{"version":"v0.0.0-test"}`)
	s.do("HEAD", "/version", anonymous).is(200).empty()
	require.Equal(t, "GET, HEAD", s.do("PUT", "/version").fails(405, "PUT").header.Get("Allow"))
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	basic := func(user, password string) requestOption {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	for name, option := range map[string]requestOption{
		"basic":            basic("kmfddm", testKey),
		"any user":         basic("somebody else", testKey),
		"no user":          basic("", testKey),
		"bearer":           header("Authorization", "Bearer "+testKey),
		"bearer, any case": header("Authorization", "bearer "+testKey),
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.do("GET", "/v1/sets", option).is(200)
		})
	}
	for name, option := range map[string]requestOption{
		"none":             anonymous,
		"wrong":            basic("kmfddm", "the ke"),
		"longer":           basic("kmfddm", testKey+"y"),
		"no password":      basic(testKey, ""),
		"bearer, wrong":    header("Authorization", "Bearer x"),
		"bearer, nothing":  header("Authorization", "Bearer"),
		"another scheme":   header("Authorization", "Digest "+testKey),
		"key as it is":     header("Authorization", testKey),
		"basic, no base64": header("Authorization", "Basic "+testKey),
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			got := s.do("GET", "/v1/sets", option).fails(401, "API key")
			require.Equal(t, `Basic realm="decree"`, got.header.Get("WWW-Authenticate"))
			s.do("PUT", "/v1/declarations", option, body(declaration("D"))).fails(401, "API key")
		})
	}
	s.do("GET", "/v1/declarations").is(200).json(`[]`)
}

func TestWithoutAConfiguredKeyNobodyGetsIn(t *testing.T) {
	t.Parallel()
	keys, err := NewKeyring("")
	require.NoError(t, err)
	s := newServer(t, func(c *Config) { c.Keys = keys })
	s.do("GET", "/v1/sets", func(r *http.Request) { r.SetBasicAuth("kmfddm", "") }).fails(401)
	s.do("GET", "/v1/sets", header("Authorization", "Bearer ")).fails(401)
	s.do("GET", "/v1/sets", anonymous).fails(401)
}

func TestAChangeAnswersAsItIsAsked(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	put := func(options ...requestOption) *answer {
		return s.do("PUT", "/v1/declarations", append(options, body(declaration("D")))...)
	}
	put().is(204).empty()
	put().is(304).empty()
	for accept, verbose := range map[string]bool{
		"application/json":                       true,
		"Application/JSON; charset=utf-8":        true,
		"text/html, application/json;q=0.9, */*": true,
		"*/*":                                    false,
		"application/*":                          false,
		"application/jsonl, text/json":           false,
		"":                                       false,
		"application/json-patch+json;q=application/json": false,
	} {
		got := put(header("Accept", accept))
		if !verbose {
			got.is(304).empty()
			continue
		}
		var change struct {
			Changed  *bool
			ChangeID string `json:"change_id"`
			Warnings []string
		}
		require.NoError(t, json.Unmarshal([]byte(got.is(200).body), &change))
		require.False(t, *change.Changed)
		require.Equal(t, uuid.Version(7), uuid.MustParse(change.ChangeID).Version())
		require.Contains(t, got.body, `"warnings":[]`)
	}
	for value, verbose := range map[string]bool{
		"?verbose=1": true, "?verbose=true": true, "?verbose=YES": true, "?verbose=anything": true,
		"": false, "?verbose": false, "?verbose=": false, "?verbose=0": false, "?verbose=False": false,
		"?verbose=no": false, "?verbose=OFF": false,
	} {
		want := 304
		if verbose {
			want = 200
		}
		s.do("PUT", "/v1/declarations"+value, body(declaration("D"))).is(want)
	}
}

func TestAChangeIsLogged(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("D")
	got := s.do("PUT", "/v1/set-declarations/S?declaration=D&verbose=1").is(200)
	var change struct {
		ChangeID string `json:"change_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(got.body), &change))
	s.do("PUT", "/v1/enrollment-sets/E?set=S2").is(204)
	require.Eventually(t, func() bool {
		log := s.log.String()
		return strings.Contains(log, `"change_id":"`+change.ChangeID+`","set":"S","declaration":"D"`) &&
			strings.Contains(log, `"enrollment_id":"E","set":"S2"`)
	}, eventually, tick)
	require.NotContains(t, s.log.String(), testKey)
	require.NotContains(t, s.log.String(), "Echo")
}

func TestTheNotifierIsWokenByChangesOnly(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	woken := int32(0)
	for _, step := range []struct {
		method, target, body string
		code                 int
		wakes                bool
	}{
		{"PUT", "/v1/declarations", declaration("D"), 204, true},
		{"PUT", "/v1/declarations", declaration("D"), 304, false},
		{"PUT", "/v1/declarations?nonotify=1", declaration("D2"), 204, true},
		{"PUT", "/v1/declarations", `{}`, 400, false},
		{"GET", "/v1/declarations/D", "", 200, false},
		{"PUT", "/v1/set-declarations/S?declaration=D", "", 204, true},
		{"PUT", "/v1/set-declarations/S?declaration=D&verbose=1", "", 200, false},
		{"PUT", "/v1/enrollment-sets/E?set=S", "", 204, true},
		{"POST", "/v1/declarations/D/touch", "", 204, true},
		{"POST", "/v1/notify?id=E", "", 204, true},
		{"POST", "/v1/notify", "", 400, false},
		{"DELETE", "/v1/declarations/D", "", 409, false},
		{"DELETE", "/v1/enrollment-sets-all/E", "", 204, true},
		{"DELETE", "/v1/enrollment-sets-all/E", "", 304, false},
	} {
		s.do(step.method, step.target, body(step.body)).is(step.code)
		if step.wakes {
			woken++
		}
		require.Equal(t, woken, s.woken.Load(), step)
	}
}

func TestNothingWakesNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(c *Config) { c.Wake = nil })
	s.given("D")
}

// TestAFailingDatabaseIsAnOpaque500 has every operation meet a database that is gone.
func TestAFailingDatabaseIsAnOpaque500(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	require.NoError(t, s.store.Close())
	for _, request := range []string{
		"GET /v1/declarations", "GET /v1/declarations?limit=5", "PUT /v1/declarations", "GET /v1/declarations/D",
		"DELETE /v1/declarations/D", "POST /v1/declarations/D/touch", "GET /v1/declaration-sets/D", "GET /v1/sets",
		"GET /v1/set-declarations/S", "PUT /v1/set-declarations/S?declaration=D",
		"DELETE /v1/set-declarations/S?declaration=D", "GET /v1/enrollments/E", "GET /v1/enrollment-sets/E",
		"PUT /v1/enrollment-sets/E?set=S", "DELETE /v1/enrollment-sets/E?set=S", "DELETE /v1/enrollment-sets-all/E",
		"DELETE /v1/enrollment-sets-all/sets/E", "GET /v1/declaration-status/E", "GET /v1/status-errors/E",
		"GET /v1/status-values/E", "GET /v1/status-report/E", "GET /v1/status-report/E?status_id=1",
		"POST /v1/notify?id=E",
	} {
		method, target, _ := strings.Cut(request, " ")
		got := s.do(method, target, body(declaration("D"))).fails(500, "trace id")
		require.NotContains(t, got.body, "sql", request)
		require.NotContains(t, got.body, "closed", request)
	}
	require.Zero(t, s.woken.Load())
	s.do("GET", "/version").is(200)
}

// brokenStore fails in one way, and the compositor too.
type brokenStore struct {
	Store
	err error
}

func (b brokenStore) SetNames(context.Context, storage.Page) ([]string, error) { return nil, b.err }

func (b brokenStore) Desired(context.Context, *storage.Enrollment, storage.Vector) (string, bool, error) {
	return "", false, b.err
}

func TestATimeoutIsA503(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(c *Config) {
		broken := brokenStore{c.Store, context.DeadlineExceeded}
		c.Store, c.Compositor = broken, broken
	})
	require.NotEmpty(t, s.do("GET", "/v1/sets").fails(503, "too long").header.Get("Retry-After"))
	s.do("PUT", "/v1/enrollment-sets/E?set=S").is(204)
	s.do("GET", "/v1/enrollments/E").fails(503, "too long")
}

func TestPathsThatAreNone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, test := range []struct {
		method, target string
		code           int
		text           string
	}{
		{"GET", "/", 404, "nothing at this path"},
		{"GET", "/v1", 404, "nothing at this path"},
		{"GET", "/v1/", 404, "nothing at this path"},
		{"GET", "/v1/unknown", 404, "nothing at this path"},
		{"GET", "/v1/set-declarations", 404, "nothing at this path"},
		{"GET", "/v1/sets/", 404, "nothing at this path"},
		{"DELETE", "/v1/declarations", 405, "DELETE"},
		{"POST", "/v1/sets", 405, "POST"},
		{"PATCH", "/v1/declarations/D", 405, "PATCH"},
		{"GET", "/v1/notify", 405, "GET"},
		{"GET", "/v1/enrollment-sets-all/E", 405, "GET"},
		{"GET", "/v1/declarations/", 400, "id: must not be empty"},
		{"DELETE", "/v1/declarations/", 400, "id: must not be empty"},
		{"GET", "/v1/declaration-sets/", 400, "id: must not be empty"},
		{"GET", "/v1/set-declarations/", 400, "set: must not be empty"},
		{"PUT", "/v1/set-declarations/?declaration=D", 400, "set: must not be empty"},
		{"DELETE", "/v1/set-declarations/?declaration=D", 400, "set: must not be empty"},
		{"GET", "/v1/enrollments/", 400, "id: must not be empty"},
		{"GET", "/v1/enrollment-sets/", 400, "id: must not be empty"},
		{"PUT", "/v1/enrollment-sets/?set=S", 400, "id: must not be empty"},
		{"DELETE", "/v1/enrollment-sets/?set=S", 400, "id: must not be empty"},
		{"DELETE", "/v1/enrollment-sets-all/", 400, "id: must not be empty"},
		{"DELETE", "/v1/enrollment-sets-all/sets/", 400, "id: must not be empty"},
		{"GET", "/v1/declaration-status/", 400, "ids: must not be empty"},
		{"GET", "/v1/status-report/", 400, "id: must not be empty"},
		{"POST", "/v1/declarations/", 404, "/touch"},
		{"POST", "/v1/declarations/D", 404, "/touch"},
		{"POST", "/v1/declarations/touch", 404, "/touch"},
		{"POST", "/v1/declarations/%2Ftouch", 404, `no declaration ""`},
		// What ServeMux would redirect.
		{"GET", "//v1/sets", 400, "%2F"},
		{"GET", "/v1//sets", 400, "%2F"},
		{"GET", "/v1/./sets", 400, "%2F"},
		{"GET", "/v1/declarations/a//b", 400, "%2F"},
		{"PUT", "/v1/set-declarations/a//b?declaration=D", 400, "%2F"},
		{"DELETE", "/v1/declarations/../sets", 400, "%2F"},
		{"POST", "/v1/declarations//touch", 400, "%2F"},
		{"DELETE", "/v1/enrollment-sets-all/a/./b", 400, "%2F"},
		// The same escaped: names that nothing can have.
		{"GET", "/v1/declarations/a%2F%2Fb", 404, `no declaration "a//b"`},
		{"GET", "/v1/declarations/%2F..%2Fsets", 404, `no declaration "/../sets"`},
		{"GET", "/v1/declarations/..%2Fsets", 404, `no declaration "../sets"`},
		{"POST", "/v1/declarations/..%2Ftouch", 404, `no declaration ".."`},
	} {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			s := s.in(t)
			s.do(test.method, test.target).fails(test.code, test.text)
		})
	}
	s.do("DELETE", "/v1/declarations/..%2F..%2Fversion").is(304)
	require.Equal(t, "GET, HEAD, PUT", s.do("DELETE", "/v1/declarations").header.Get("Allow"))
}
