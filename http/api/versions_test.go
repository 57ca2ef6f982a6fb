package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// put stores a configuration with a text, and returns its ServerToken.
func (s *server) put(identifier, text string, options ...requestOption) string {
	s.t.Helper()
	s.do("PUT", "/v1/declarations", append(options, body(fmt.Sprintf(
		`{"Identifier":%q,"Type":"com.apple.configuration.test","Payload":{"Echo":%q}}`, identifier, text)))...).is(204)
	return s.serverToken(identifier)
}

func TestDeclarationVersions(t *testing.T) {
	t.Parallel()
	s := newAuditedServer(t)
	s.do("GET", "/v1/declaration-versions/a/b").fails(404, `"a/b"`)
	first := s.put("a/b", "first", pipeline)
	whole := s.do("GET", "/v1/declarations/a/b").is(200).body
	second := s.put("a/b", "second")

	var list []version
	got := s.do("GET", "/v1/declaration-versions/a/b", readOnly).is(200)
	require.NoError(t, json.Unmarshal([]byte(got.body), &list))
	require.Len(t, list, 2)
	for _, v := range list {
		at, err := time.Parse(time.RFC3339, v.CreatedAt)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), at, time.Minute)
	}
	got.json(fmt.Sprintf(`[
		{"server_token":%q,"type":"com.apple.configuration.test","current":true,"created_at":%q,"key":"api"},
		{"server_token":%q,"type":"com.apple.configuration.test","current":false,"created_at":%q,"replaced_at":%q,"key":"pipeline"}]`,
		second, list[0].CreatedAt, first, list[1].CreatedAt, list[1].ReplacedAt))

	require.Equal(t, whole, s.do("GET", "/v1/declaration-versions/a/b?token="+first).is(200).body, "as it was then")
	require.Equal(t, s.do("GET", "/v1/declarations/a%2Fb").body, s.do("GET", "/v1/declaration-versions/a%2Fb?token="+second).is(200).body)
	s.do("GET", "/v1/declaration-versions/a/b?token=unknown").fails(404, `"a/b"`, `"unknown"`)
	s.do("GET", "/v1/declaration-versions/other?token="+first).fails(404, `"other"`)
	s.do("GET", "/v1/declaration-versions/a/b?token=").fails(400, "token")
	s.do("GET", "/v1/declaration-versions/a/b?limit=0").fails(400, "limit")
	for _, after := range []string{"x", "1", "1-", "-1-x", "-x"} {
		s.do("GET", "/v1/declaration-versions/a/b?after="+after).fails(400, "after")
	}

	page := s.do("GET", "/v1/declaration-versions/a/b?limit=1").is(200)
	require.Contains(t, page.body, second)
	require.NotContains(t, page.body, first)
	link := page.header.Get("Link")
	require.Regexp(t, `^</v1/declaration-versions/a/b\?after=0-[^>]+&limit=1>; rel="next"$`, link)
	page = s.do("GET", strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)).is(200)
	require.Contains(t, page.body, first)
	require.NotContains(t, page.body, second)
	require.Empty(t, page.header.Get("Link"))

	s.do("DELETE", "/v1/declarations/a/b").is(204)
	require.NotContains(t, s.do("GET", "/v1/declaration-versions/a/b").is(200).body, `"current":true`)
	require.Equal(t, whole, s.do("GET", "/v1/declaration-versions/a/b?token="+first).is(200).body)
}

func TestRollback(t *testing.T) {
	t.Parallel()
	s := newAuditedServer(t)
	first := s.put("a/b", "first")
	whole := s.do("GET", "/v1/declarations/a/b").body
	second := s.put("a/b", "second")
	back := "/v1/declarations/a/b/rollback?to="
	woken := s.woken.Load()
	s.do("POST", back+second).is(304).empty()
	require.Equal(t, woken, s.woken.Load())
	s.do("POST", back+first, pipeline).is(204).empty()
	require.Equal(t, woken+1, s.woken.Load())
	require.Equal(t, whole, s.do("GET", "/v1/declarations/a/b").body)
	require.Eventually(t, func() bool {
		return strings.Contains(s.log.String(), `"route":"POST /v1/declarations/{path...}"`)
	}, eventually, tick)
	require.Contains(t, s.log.String(), `"declaration":"a/b"`)

	row := s.do("GET", "/v1/changes?action=declaration.rollback").changes()[0]
	require.Equal(t, []string{"pipeline", "a/b", second, first}, []string{row.Key, row.Declaration, row.FromToken, row.ToToken})
	verbose := s.do("POST", back+second+"&nonotify=1", header("Accept", "application/json")).is(200)
	row = s.do("GET", "/v1/changes?limit=1").changes()[0]
	require.True(t, row.NoNotify)
	verbose.json(fmt.Sprintf(`{"changed":true,"change_id":%q,"warnings":[]}`, row.ChangeID))

	s.do("POST", "/v1/declarations/a/b/rollback").fails(400, "to", "missing")
	s.do("POST", back).fails(400, "to")
	s.do("POST", back+first+"&to="+second).fails(400, "to")
	s.do("POST", back+"unknown").fails(404, `no version "unknown"`)
	s.do("POST", "/v1/declarations/other/rollback?to="+first).fails(404, `"other"`)
	s.do("POST", "/v1/declarations/%ff/rollback?to="+first).fails(400, "UTF-8")
	s.do("POST", "/v1/declarations/rollback?to="+first).fails(404, "nothing at this path")
	s.do("POST", back+first, readOnly).fails(403, "role write")
	require.Equal(t, second, s.serverToken("a/b"))

	// What is named like an action is a name where another one follows.
	own := s.put("x/touch", "own")
	s.put("x/touch", "other")
	s.do("POST", "/v1/declarations/x/touch/rollback?to="+own).is(204)
	require.Equal(t, own, s.serverToken("x/touch"))
	s.put("x/rollback", "own")
	s.do("POST", "/v1/declarations/x/rollback/touch").is(204)
}

// TestRollbackOfWhatWasDeleted: it comes back as it was, when what it refers to is there.
func TestRollbackOfWhatWasDeleted(t *testing.T) {
	t.Parallel()
	s := newAuditedServer(t)
	s.given("C")
	s.do("PUT", "/v1/declarations", body(`{"Identifier":"A","Type":"com.apple.activation.simple","Payload":{
		"StandardConfigurations":["C"],"Predicate":"@property(ring) == 1"}}`)).is(204)
	whole, token, configuration := s.do("GET", "/v1/declarations/A").body, s.serverToken("A"), s.serverToken("C")
	s.do("DELETE", "/v1/declarations/A").is(204)
	s.do("DELETE", "/v1/declarations/C").is(204)
	refused := s.do("POST", "/v1/declarations/A/rollback?to="+token).fails(422, "do not exist", "C")
	require.Equal(t, []string{"C"}, refused.problem().Details)
	s.do("GET", "/v1/declarations/A").is(404)
	s.do("POST", "/v1/declarations/C/rollback?to="+configuration).is(204)
	s.do("POST", "/v1/declarations/A/rollback?to="+token).is(204)
	require.Equal(t, whole, s.do("GET", "/v1/declarations/A").is(200).body)
	require.Empty(t, s.do("GET", "/v1/changes?limit=1").changes()[0].FromToken)
}
