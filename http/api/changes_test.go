package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// changeAnswer is a row as clients read it.
type changeAnswer struct {
	ID           int64     `json:"id"`
	ChangeID     string    `json:"change_id"`
	At           time.Time `json:"at"`
	Key          string    `json:"key"`
	Action       string    `json:"action"`
	Declaration  string    `json:"declaration"`
	FromToken    string    `json:"from_token"`
	ToToken      string    `json:"to_token"`
	Set          string    `json:"set"`
	EnrollmentID string    `json:"enrollment_id"`
	Count        int       `json:"count"`
	NoNotify     bool      `json:"nonotify"`
	Reached      *int      `json:"reached"`
	Finished     *bool     `json:"finished"`
}

func (a *answer) changes() (list []changeAnswer) {
	a.t.Helper()
	a.is(http.StatusOK)
	require.NoError(a.t, json.Unmarshal([]byte(a.body), &list))
	return list
}

// told lists changes in words.
func (a *answer) told() []string {
	a.t.Helper()
	told := []string{}
	for _, c := range a.changes() {
		told = append(told, strings.Join(strings.Fields(
			fmt.Sprint(c.Key, " ", c.Action, " ", c.EnrollmentID, " ", c.Set, " ", c.Declaration)), " "))
	}
	return told
}

// pipeline makes a request with another key.
var pipeline requestOption = func(r *http.Request) { r.SetBasicAuth("x", "the-key-of-the-pipeline") }

// serverToken is that of a declaration now.
func (s *server) serverToken(identifier string) string {
	s.t.Helper()
	d, err := s.store.Declaration(s.t.Context(), identifier)
	require.NoError(s.t, err)
	return d.ServerToken
}

func newAuditedServer(t *testing.T) *server {
	t.Helper()
	return newServer(t, func(config *Config) {
		require.NoError(t, config.Keys.Load([]byte("reader read "+readKey+"\npipeline write the-key-of-the-pipeline")))
	})
}

func TestChangesTellWhoDidWhat(t *testing.T) {
	t.Parallel()
	s := newAuditedServer(t)
	s.do("GET", "/v1/changes").is(200).json(`[]`)
	var answered struct {
		ChangeID string `json:"change_id"`
	}
	created := s.do("PUT", "/v1/declarations?verbose=1", pipeline, body(declaration("D"))).is(200)
	require.NoError(t, json.Unmarshal([]byte(created.body), &answered))
	token := s.serverToken("D")
	row := s.do("GET", "/v1/changes").changes()[0]
	require.WithinDuration(t, time.Now(), row.At, time.Minute)
	at, err := row.At.MarshalJSON()
	require.NoError(t, err)
	s.do("GET", "/v1/changes").is(200).json(fmt.Sprintf(`[{"id":%d,"change_id":%q,"at":%s,"key":"pipeline",
		"action":"declaration.put","declaration":"D","to_token":%q,"nonotify":false,"reached":0,"finished":true}]`,
		row.ID, answered.ChangeID, at, token))

	for _, step := range []struct {
		method, target string
		options        []requestOption
		code           int
		told           string // nothing: it is not in the log; several rows have commas between them
	}{
		{"PUT", "/v1/declarations", []requestOption{body(declaration("D"))}, 304, ""},
		{"PUT", "/v1/declarations", []requestOption{body(`{}`)}, 400, ""},
		{"PUT", "/v1/declarations", []requestOption{body(declaration("E")), readOnly}, 403, ""},
		{"PUT", "/v1/declarations", []requestOption{body(declaration("E")), anonymous}, 401, ""},
		{"PUT", "/v1/set-declarations/S?declaration=missing", nil, 404, ""},
		{"PUT", "/v1/set-declarations/S?declaration=D&nonotify=1", nil, 204, "api set-declaration.put S D"},
		{"PUT", "/v1/set-declarations/S?declaration=D", nil, 304, ""},
		{"PUT", "/v1/enrollment-sets/E1?set=S", nil, 204, "api enrollment-set.put E1 S"},
		{"PUT", "/v1/enrollment-sets/E2?set=S", []requestOption{pipeline}, 204, "pipeline enrollment-set.put E2 S"},
		{"DELETE", "/v1/declarations/D", nil, 409, ""},
		{"POST", "/v1/declarations/D/touch", []requestOption{pipeline}, 204, "pipeline declaration.touch D"},
		{"POST", "/v1/declarations/missing/touch", nil, 404, ""},
		{"POST", "/v1/enrollments/E1/sync", nil, 204, "api notify E1"},
		{"POST", "/v1/enrollments/missing/sync", nil, 404, ""},
		{"POST", "/v1/notify?set=S&id=E1&id=E2", nil, 204, "api notify S"},
		{"DELETE", "/v1/enrollment-sets/E1?set=S", nil, 204, "api enrollment-set.delete E1 S"},
		{"DELETE", "/v1/enrollment-sets/E1?set=S", nil, 304, ""},
		{"DELETE", "/v1/enrollment-sets-all/E2", nil, 204, "api enrollment-sets.delete E2, api enrollment-set.delete E2 S"},
		{"DELETE", "/v1/enrollments/E2", []requestOption{pipeline}, 204, "pipeline enrollment.delete E2"},
		{"DELETE", "/v1/enrollments/E2", nil, 304, ""},
		{"PUT", "/v1/enrollment-sets/E3?set=S", nil, 204, "api enrollment-set.put E3 S"},
		{"DELETE", "/v1/enrollments/E3", nil, 204, "api enrollment.delete E3, api enrollment-set.delete E3 S"},
		{"DELETE", "/v1/set-declarations/S?declaration=D", nil, 204, "api set-declaration.delete S D"},
		{"DELETE", "/v1/declarations/D?nonotify=1", nil, 204, "api declaration.delete D"},
		{"DELETE", "/v1/declarations/D", nil, 304, ""},
	} {
		before := s.do("GET", "/v1/changes").told()
		s.do(step.method, step.target, step.options...).is(step.code)
		wanted := before
		if step.told != "" {
			wanted = append(strings.Split(step.told, ", "), before...)
		}
		require.Equal(t, wanted, s.do("GET", "/v1/changes").told(), "%s %s", step.method, step.target)
	}
	deleted := s.do("GET", "/v1/changes?action=declaration.delete").changes()[0]
	require.Empty(t, deleted.ToToken)
	require.False(t, deleted.NoNotify, "there was nobody to be told")
	touched := s.do("GET", "/v1/changes?action=declaration.touch", readOnly).changes()[0]
	require.Equal(t, []string{token, deleted.FromToken}, []string{touched.FromToken, touched.ToToken})
	held := s.do("GET", "/v1/changes?action=set-declaration.put").changes()[0]
	require.True(t, held.NoNotify)
	require.False(t, *held.Finished, "its fan-out has not begun")
	require.Equal(t, 3, s.do("GET", "/v1/changes?action=notify&set=S").changes()[0].Count)
	forgotten := s.do("GET", "/v1/changes?enrollment_id=E3&limit=2").changes()
	require.Equal(t, 1, forgotten[0].Count)
	require.Equal(t, forgotten[0].ChangeID, forgotten[1].ChangeID)
	require.Nil(t, forgotten[1].Reached)
	s.do("GET", "/v1/changes", anonymous).fails(401, "API key")
}

// TestTheReachOfAChange: it can be asked for by the id with which the change was answered.
func TestTheReachOfAChange(t *testing.T) {
	t.Parallel()
	s := newAuditedServer(t)
	s.given("D")
	for _, id := range []string{"E1", "E2", "E3"} {
		s.do("PUT", "/v1/enrollment-sets/"+id+"?set=S").is(204)
	}
	changed := s.do("PUT", "/v1/set-declarations/S?declaration=D&verbose=1").is(200)
	id := regexp.MustCompile(`"change_id":"([^"]+)"`).FindStringSubmatch(changed.body)[1]
	reach := func() string {
		rows := s.do("GET", "/v1/changes?change_id="+id).changes()
		require.Len(t, rows, 1)
		return fmt.Sprint(*rows[0].Reached, *rows[0].Finished)
	}
	require.Equal(t, "0 false", reach())
	for page := (&storage.FanoutPage{}); page != nil; {
		var err error
		page, err = s.store.AdvanceFanout(t.Context(), 2)
		require.NoError(t, err)
	}
	require.Equal(t, "3 true", reach())
	require.Contains(t, s.do("GET", "/v1/changes?enrollment_id=E1").body, `"reached":1,"finished":true`)

	// The single things of an import have none.
	_, err := s.store.ImportSetDeclarations(t.Context(), []storage.SetDeclaration{{Set: "T", Identifier: "D"}},
		storage.ImportOptions{ChangeOptions: storage.ChangeOptions{ChangeID: "import", By: storage.ByImport}})
	require.NoError(t, err)
	rows := s.do("GET", "/v1/changes?change_id=import&key=decree%20import").changes()
	require.Len(t, rows, 2)
	require.Equal(t, []string{"import", "set-declaration.put"}, []string{rows[0].Action, rows[1].Action})
	require.False(t, *rows[0].Finished)
	require.Nil(t, rows[1].Reached)
	require.Nil(t, rows[1].Finished)
}

func TestChangePages(t *testing.T) {
	t.Parallel()
	s := newAuditedServer(t)
	const changes = 7
	for i := range changes {
		s.do("PUT", fmt.Sprintf("/v1/enrollment-sets/E%d?set=S", i)).is(204)
		s.do("PUT", fmt.Sprintf("/v1/enrollment-sets/E%d?set=T", i), pipeline).is(204)
	}
	next := regexp.MustCompile(`^<([^>]+)>; rel="next"$`)
	walk := func(target string) (told []string, pages int) {
		for pages = 1; ; pages++ {
			got := s.do("GET", target)
			told = append(told, got.told()...)
			link := got.header.Get("Link")
			if link == "" {
				return told, pages
			}
			match := next.FindStringSubmatch(link)
			require.NotNil(t, match, link)
			target = match[1]
		}
	}
	all, pages := walk("/v1/changes")
	require.Len(t, all, 2*changes)
	require.Equal(t, 1, pages)
	for _, limit := range []int{1, 3, 13, 14} {
		told, pages := walk(fmt.Sprintf("/v1/changes?limit=%d", limit))
		require.Equal(t, all, told)
		require.Equal(t, (2*changes+limit-1)/limit, pages, "of %d", limit)
	}
	told, _ := walk("/v1/changes?key=pipeline&action=enrollment-set.put&set=T&limit=2")
	require.Len(t, told, changes)
	require.Equal(t, "pipeline enrollment-set.put E6 T", told[0])
	told, _ = walk("/v1/changes?key=pipeline&set=S")
	require.Empty(t, told)

	rows := s.do("GET", "/v1/changes").changes()
	since := "since=" + rows[3].At.Format(time.RFC3339Nano)
	until := "until=" + rows[3].At.Add(time.Microsecond).Format(time.RFC3339Nano)
	require.GreaterOrEqual(t, len(s.do("GET", "/v1/changes?"+since).changes()), 4)
	newest := slices.IndexFunc(rows, func(row changeAnswer) bool { return row.At.Equal(rows[3].At) }) // times can be the same
	require.Equal(t, rows[newest], s.do("GET", "/v1/changes?"+until+"&limit=1").changes()[0])
	require.NotEmpty(t, s.do("GET", "/v1/changes?"+since+"&"+until).changes())
	require.Empty(t, s.do("GET", "/v1/changes?since=2100-01-01T00:00:00%2B01:00").changes())
	require.Empty(t, s.do("GET", "/v1/changes?until=1971-01-01T00:00:00Z").changes())
}

func TestChangesRefuseWhatTheyDoNotKnow(t *testing.T) {
	t.Parallel()
	s := newAuditedServer(t)
	for query, field := range map[string]string{
		"declaratoin=D":           "declaratoin",
		"enrollment=E":            "enrollment",
		"Key=api":                 "Key",
		"=x":                      "parameter",
		"declaration=":            "declaration",
		"set=%ff":                 "set",
		"key=a&key=b":             "key",
		"action=declaration":      "action",
		"action=DECLARATION.PUT":  "action",
		"since=yesterday":         "since",
		"since=2026-01-31":        "since",
		"until=":                  "until",
		"until=1969-12-31T00:00Z": "until",
		"limit=0":                 "limit",
		"limit=1001":              "limit",
		"after=x":                 "after",
		"after=1-":                "after",
		"after=-1-1":              "after",
		"after=1-0":               "after",
		"after=1-1-1":             "after",
		"%zz=1":                   "query string",
	} {
		s.do("GET", "/v1/changes?"+query).fails(400, field)
	}
	s.do("GET", "/v1/changes?action=odd").fails(400, "declaration.rollback")
	s.do("POST", "/v1/changes").is(405)
}
