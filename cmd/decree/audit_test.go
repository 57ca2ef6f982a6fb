package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// loggedChange is a row of the log of changes.
type loggedChange struct {
	ID           int64  `json:"id"`
	ChangeID     string `json:"change_id"`
	Key          string `json:"key"`
	Action       string `json:"action"`
	Declaration  string `json:"declaration"`
	FromToken    string `json:"from_token"`
	ToToken      string `json:"to_token"`
	Set          string `json:"set"`
	EnrollmentID string `json:"enrollment_id"`
	Reached      int    `json:"reached"`
	Finished     bool   `json:"finished"`
}

// changes reads the log of changes, with a filter, the oldest first.
func (s *server) changes(filter string) (changes []loggedChange) {
	s.t.Helper()
	for after := ""; ; {
		request, err := http.NewRequest(http.MethodGet, s.url+"/v1/changes?limit=500&"+filter+after, nil)
		require.NoError(s.t, err)
		request.SetBasicAuth("kmfddm", testKey)
		response, err := client.Do(request)
		require.NoError(s.t, err)
		var page []loggedChange
		require.Equal(s.t, http.StatusOK, response.StatusCode)
		require.NoError(s.t, json.NewDecoder(response.Body).Decode(&page))
		require.NoError(s.t, response.Body.Close())
		changes = append(changes, page...)
		link := response.Header.Get("Link")
		if link == "" {
			slices.Reverse(changes)
			return changes
		}
		next, err := url.Parse(strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`))
		require.NoError(s.t, err)
		after = "&after=" + url.QueryEscape(next.Query().Get("after"))
	}
}

// TestAuditStory is a day with two keys: one makes a declaration, the other a mistake in it, and the first goes back. The
// devices have the old content again, and the log tells who did what, and how many it reached.
func TestAuditStory(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		keys := writeFile(t, filepath.Join(t.TempDir(), "keys"),
			"alice write secret-of-alice\nbob write secret-of-bob\nconsole read secret-of-console\n")
		nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
		p := startBinary(t, append(flags, "-enqueue", nano.EnqueueURL(), "-enqueue-key", nano.APIKey(),
			"-api-keys", keys, "-enroll-sets", "base", "-notify-delay", "1ms")...)
		s := p.server()
		nano.SetDM(s.url + "/")
		nano.SetWebhook(s.url + "/webhook")
		do := func(key, method, path, body string, code int) string {
			t.Helper()
			got, text := s.as("secret-of-"+key, method, path, body)
			require.Equal(t, code, got, "%s %s: %s", method, path, text)
			return text
		}
		const identifier, kind = "com.example/a test", "com.apple.configuration.management.test"
		put := func(key, echo string) (token string) {
			t.Helper()
			do(key, http.MethodPut, "/v1/declarations", declarationJSON(identifier, kind, fmt.Sprintf(`{"Echo":%q}`, echo)), 204)
			var stored struct{ ServerToken string }
			s.get("/v1/declarations/"+url.PathEscape(identifier), &stored)
			return stored.ServerToken
		}
		first := put("alice", "right")
		do("alice", http.MethodPut, "/v1/set-declarations/base?declaration="+url.QueryEscape(identifier), "", 204)
		finished := func() bool {
			return !slices.ContainsFunc(s.changes(""), func(c loggedChange) bool { return !c.Finished })
		}
		s.eventually(finished, "the set to be told")
		var devices []*nanomdmtest.Device
		for range 3 {
			device := nano.NewDevice(t)
			require.NoError(t, device.Enroll(ctx))
			device.Run(ctx)
			devices = append(devices, device)
		}
		holds := func(echo, token string) {
			t.Helper()
			for _, device := range devices {
				s.eventually(func() bool {
					held := device.Declarations()[identifier]
					return held.ServerToken == token && strings.Contains(string(held.JSON), fmt.Sprintf("%q", echo))
				}, "%s to hold %q", device.ID(), echo)
				s.waitInSync(device.ID())
			}
		}
		holds("right", first)
		second := put("bob", "wrong")
		require.NotEqual(t, first, second)
		holds("wrong", second)

		versions := do("console", http.MethodGet, "/v1/declaration-versions/"+url.PathEscape(identifier), "", 200)
		require.Regexp(t, second+`.*"current":true.*"key":"bob".*`+first+`.*"current":false.*"key":"alice"`, versions)
		require.Contains(t, do("console", http.MethodGet, "/v1/declaration-versions/"+url.PathEscape(identifier)+"?token="+first, "", 200),
			`{"Echo":"right"}`)
		back := "/v1/declarations/" + url.PathEscape(identifier) + "/rollback?to=" + first
		do("console", http.MethodPost, back, "", 403)
		do("alice", http.MethodPost, back, "", 204)
		do("alice", http.MethodPost, back, "", 304)
		holds("right", first)

		// It outlasts the server.
		p.kill()
		p = startBinary(t, p.cmd.Args[3:]...)
		s = p.server()
		nano.SetDM(s.url + "/")
		s.eventually(finished, "all to be counted")
		var told []string
		for _, c := range s.changes("") {
			name := func(token string) string {
				return map[string]string{"": "-", first: "first", second: "second"}[token]
			}
			require.NotEmpty(t, c.ChangeID)
			told = append(told, fmt.Sprintf("%s %s %s %s %s>%s %d", c.Key, c.Action, c.Set, c.Declaration, name(c.FromToken),
				name(c.ToToken), c.Reached))
		}
		require.Equal(t, []string{
			"alice declaration.put  " + identifier + " ->first 0",
			"alice set-declaration.put base " + identifier + " ->- 0",
			"mdm event enrollment-set.put base  ->- 1",
			"mdm event enrollment-set.put base  ->- 1",
			"mdm event enrollment-set.put base  ->- 1",
			"bob declaration.put  " + identifier + " first>second 3",
			"alice declaration.rollback  " + identifier + " second>first 3",
		}, told)
		require.Len(t, s.changes("enrollment_id="+devices[1].ID()), 1)
		require.Len(t, s.changes("key=bob&declaration="+url.QueryEscape(identifier)), 1)
		s.check()
	})
}
