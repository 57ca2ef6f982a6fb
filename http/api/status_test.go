package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// perID decodes an answer that has a list for each enrollment.
func perID(t *testing.T, got *answer) map[string][]map[string]any {
	t.Helper()
	var lists map[string][]map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.is(200).body), &lists), got.body)
	for id, list := range lists {
		require.NotNil(t, list, id)
	}
	return lists
}

func TestDeclarationStatus(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("C1", "C2")
	s.do("PUT", "/v1/set-declarations/S?declaration=C1").is(204)
	s.do("PUT", "/v1/enrollment-sets/E?set=S").is(204)
	var declared struct{ ServerToken string }
	require.NoError(t, json.Unmarshal([]byte(s.do("GET", "/v1/declarations/C1").body), &declared))
	s.reported("E", `{"StatusItems":{"management":{"declarations":{"configurations":[
		{"identifier":"C1","server-token":"`+declared.ServerToken+`","active":true,"valid":"valid"},
		{"identifier":"C1","server-token":"older","active":false,"valid":"invalid",
			"reasons":[{"code":"Error.X","details":{"n":1.50}}]}
	],"activations":[],"assets":[],"management":[]}}}}`)

	got := s.do("GET", "/v1/declaration-status/E,unknown,E")
	lists := perID(t, got)
	require.Len(t, lists, 2)
	require.Empty(t, lists["unknown"])
	require.Contains(t, got.body, `"unknown":[]`)
	require.Len(t, lists["E"], 2)
	byToken := map[string]map[string]any{}
	for _, status := range lists["E"] {
		received, err := time.Parse("2006-01-02T15:04:05Z", status["status_received"].(string))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), received, time.Minute)
		require.Equal(t, "1", status["status_id"])
		byToken[status["server-token"].(string)] = status
	}
	current, older := byToken[declared.ServerToken], byToken["older"]
	require.Equal(t, "C1", current["identifier"])
	require.Equal(t, true, current["active"])
	require.Equal(t, "valid", current["valid"])
	require.Equal(t, true, current["current"])
	require.NotContains(t, current, "reasons")
	require.Equal(t, false, older["active"])
	require.Equal(t, "invalid", older["valid"])
	require.Equal(t, false, older["current"])
	require.Contains(t, got.body, `"reasons":[{"code":"Error.X","details":{"n":1.50}}]`)
	s.do("HEAD", "/v1/declaration-status/E").is(200).empty()
}

func TestStatusErrors(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for i := range 12 {
		s.reported("E", fmt.Sprintf(`{"Errors":[{"StatusItem":"item %d","Reasons":[{"Code":"X"}]}]}`, i))
	}
	s.reported("F", `{"Errors":[{"StatusItem":"<other>"}]}`)
	items := func(query string) (items []string) {
		got := s.do("GET", "/v1/status-errors/E,F,unknown"+query)
		lists := perID(t, got)
		require.Len(t, lists, 3)
		require.Empty(t, lists["unknown"])
		for _, e := range lists["E"] {
			require.Equal(t, ".Errors", e["path"])
			require.Regexp(t, `^\d+$`, e["status_id"])
			require.Regexp(t, `^[-0-9]{10}T[:0-9]{8}Z$`, e["timestamp"])
			items = append(items, e["error"].(map[string]any)["StatusItem"].(string))
		}
		return items
	}
	require.Len(t, items(""), 10)
	require.Equal(t, []string{"item 11", "item 10"}, items("?limit=2"))
	require.Equal(t, []string{"item 9", "item 8"}, items("?offset=2&limit=2"))
	require.Equal(t, []string{"item 0"}, items("?offset=11"))
	require.Empty(t, items("?offset=2147483647"))
	require.Len(t, items("?limit=1000"), 12)
	require.Contains(t, s.do("GET", "/v1/status-errors/F").body, `"error":{"StatusItem":"<other>"}`)
	for _, query := range []string{"offset=-1", "offset=x", "offset=", "offset=1.0", "offset=1&offset=1",
		"offset=99999999999999999999"} {
		s.do("GET", "/v1/status-errors/E?"+query).fails(400, "offset: must be")
	}
	for _, query := range []string{"limit=0", "limit=-1", "limit=1001", "limit=x", "limit=", "limit=1&limit=2"} {
		s.do("GET", "/v1/status-errors/E?"+query).fails(400, "limit: must be")
	}
}

func TestStatusValues(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.reported("E", `{"StatusItems":{
		"device":{"identifier":{"serial-number":"ABC \"\u00e9\u2028<"},"model":{"family":"Mac"},"Model":{"family":"x"}},
		"test":{"big":9007199254740993,"float":1.50,"huge":1e400,"yes":true,"null":null,"empty":{},"text":"1",
			"object":{"inner":[{"a" : 1, "b":"<"}]}},
		"list":["one",2,[3]],
		"under_score":"u","underXscore":"x"}}`)
	values := func(query string) map[string][]string {
		values := map[string][]string{}
		for _, v := range perID(t, s.do("GET", "/v1/status-values/E"+query))["E"] {
			require.Equal(t, "1", v["status_id"])
			require.Regexp(t, `^[-0-9]{10}T[:0-9]{8}Z$`, v["timestamp"])
			values[v["path"].(string)] = append(values[v["path"].(string)], v["value"].(string))
		}
		return values
	}
	all := map[string][]string{
		".StatusItems.device.identifier.serial-number": {"ABC \"é\u2028<"},
		".StatusItems.device.model.family":             {"Mac"},
		".StatusItems.device.Model.family":             {"x"},
		".StatusItems.test.big":                        {"9007199254740993"},
		".StatusItems.test.float":                      {"1.50"},
		".StatusItems.test.huge":                       {"1e400"},
		".StatusItems.test.yes":                        {"true"},
		".StatusItems.test.null":                       {"null"},
		".StatusItems.test.empty":                      {"{}"},
		".StatusItems.test.text":                       {"1"},
		".StatusItems.test.object.inner":               {`{"a":1,"b":"<"}`},
		".StatusItems.list":                            {"one", "2", "[3]"},
		".StatusItems.under_score":                     {"u"},
		".StatusItems.underXscore":                     {"x"},
	}
	require.Equal(t, all, values(""))
	require.Equal(t, all, values("?prefix="))
	require.Equal(t, all, values("?prefix=%25"))
	for prefix, paths := range map[string][]string{
		".StatusItems.device.model.family": {"device.model.family"},
		".StatusItems.device.%":            {"device.identifier.serial-number", "device.model.family", "device.Model.family"},
		".StatusItems.device":              nil,
		".StatusItems.device.model.%":      {"device.model.family"},
		"%.family":                         {"device.model.family", "device.Model.family"},
		".StatusItems.under_score":         {"under_score", "underXscore"},
		`.StatusItems.under\_score`:        {"under_score"},
		".statusitems.list":                nil,
		"StatusItems.list":                 nil,
		strings.Repeat("%_", 200) + "x":    nil,
	} {
		want := map[string][]string{}
		for _, path := range paths {
			want[".StatusItems."+path] = all[".StatusItems."+path]
		}
		require.Equal(t, want, values("?prefix="+url.QueryEscape(prefix)), prefix)
	}
	s.do("GET", "/v1/status-values/E,unknown?prefix=x").is(200).json(`{"E":[],"unknown":[]}`)
	s.do("GET", "/v1/status-values/E?prefix=a&prefix=b").fails(400, "prefix: must be given once")
	s.do("GET", "/v1/status-values/E?prefix=%").fails(400, "query string")
	s.do("GET", "/v1/status-values/E?prefix=%ff").fails(400, "prefix: must be valid UTF-8")
}

func TestEnrollmentIDsOfStatusQueries(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ids := make([]string, maxStatusIDs+1)
	for i := range ids {
		ids[i] = "E" + strconv.Itoa(i)
	}
	for _, path := range []string{"/v1/declaration-status/", "/v1/status-errors/", "/v1/status-values/"} {
		require.Len(t, perID(t, s.do("GET", path+strings.Join(ids[:maxStatusIDs], ","))), maxStatusIDs)
		s.do("GET", path+strings.Join(ids, ",")).fails(400, "ids: ", "500", "501")
		for _, empty := range []string{",", "E,", ",E", "E,,F", "%2C"} {
			s.do("GET", path+empty).fails(400, "ids: ", "empty")
		}
		s.do("GET", path+"E,%ff").fails(400, "ids: must be valid UTF-8")
		got := s.do("GET", path+"a%2Fb,c/d,e%20%3C%22").is(200)
		got.json(`{"a/b":[],"c/d":[],"e <\"":[]}`)
		require.Contains(t, got.body, `"e <\""`)
		s.do("GET", path+strings.Repeat("x", 300)).is(200)
		s.do("HEAD", path+"E").is(200).empty()
	}
}

func TestStatusReport(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/v1/status-report/E").fails(404, `"E"`)
	const first, second = "{ \"StatusItems\" : {\"a\":1e400} }\n", `{"Errors":[]}`
	s.reported("E", first)
	s.reported("other", `{}`)
	s.reported("E", second)

	check := func(got *answer, raw, id, index string) {
		t.Helper()
		require.Equal(t, raw, got.is(200).body)
		require.Equal(t, "application/json", got.header.Get("Content-Type"))
		require.Equal(t, id, got.header.Get("X-Status-Report-ID"))
		require.Equal(t, index, got.header.Get("X-Status-Report-Index"))
		received, err := http.ParseTime(got.header.Get("Last-Modified"))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), received, time.Minute)
	}
	check(s.do("GET", "/v1/status-report/E"), second, "3", "0")
	check(s.do("GET", "/v1/status-report/E?index=0"), second, "3", "0")
	check(s.undocumented("GET", "/v1/status-report/E?index=1"), first, "1", "1")
	check(s.undocumented("GET", "/v1/status-report/E?status_id=1"), first, "1", "1")
	check(s.do("GET", "/v1/status-report/E?status_id=3"), second, "3", "0")
	check(s.do("HEAD", "/v1/status-report/E"), "", "3", "0")
	for _, query := range []string{
		"index=2", "index=2147483647", "status_id=2", "status_id=0", "status_id=9223372036854775807",
	} {
		s.do("GET", "/v1/status-report/E?"+query).fails(404, `"E"`)
	}
	for _, value := range []string{"x", "-1", "", "1.0", "9223372036854775808", "deb0cb542b4e1566"} {
		s.do("GET", "/v1/status-report/E?index="+value).fails(400, "index: must be")
		s.do("GET", "/v1/status-report/E?status_id="+value).fails(400, "status_id: must be")
	}
	s.do("GET", "/v1/status-report/E?index=0&index=0").fails(400, "index: must be given once")
	s.do("GET", "/v1/status-report/E?status_id=1&status_id=1").fails(400, "status_id: must be given once")
	s.do("GET", "/v1/status-report/E?index=0&status_id=3").fails(400, "status_id", "index")
}
