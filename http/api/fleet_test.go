package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
)

// all reads a list by its links, and returns its elements.
func (s *server) all(target string) (elements []map[string]any) {
	s.t.Helper()
	for range 100 {
		got := s.do("GET", target).is(200)
		var page []map[string]any
		require.NoError(s.t, json.Unmarshal([]byte(got.body), &page))
		elements = append(elements, page...)
		link := got.header.Get("Link")
		if link == "" {
			return elements
		}
		before, rest, _ := strings.Cut(link, ">; ")
		require.Equal(s.t, `rel="next"`, rest)
		target = strings.TrimPrefix(before, "<")
	}
	require.Fail(s.t, "the list does not end")
	return nil
}

// column returns one member of each element.
func column(elements []map[string]any, name string) (values []any) {
	for _, e := range elements {
		values = append(values, e[name])
	}
	return values
}

func (s *server) tokenOf(identifier string) string {
	s.t.Helper()
	declaration, err := s.store.Declaration(s.t.Context(), identifier)
	require.NoError(s.t, err)
	return declaration.ServerToken
}

// says has a device report configurations, as pairs of identifier and the rest of the object.
func (s *server) says(id string, pairs ...string) {
	s.t.Helper()
	var list []string
	for pair := range slices.Chunk(pairs, 2) {
		list = append(list, fmt.Sprintf(`{"identifier":%q,%s}`, pair[0], pair[1]))
	}
	s.reported(id, `{"StatusItems":{"management":{"declarations":{"configurations":[`+strings.Join(list, ",")+`]}}}}`)
}

func (s *server) count(identifiers ...string) {
	s.t.Helper()
	for _, identifier := range identifiers {
		_, _, err := s.store.CountDeclaration(s.t.Context(), identifier, nil, 0, func(context.Context) error { return nil })
		require.NoError(s.t, err)
	}
}

func TestDeclarationSummaries(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/v1/declaration-summary").is(200).json(`[]`)
	s.given("D", "a/b c", "z")
	s.do("PUT", "/v1/set-declarations/S?declaration=D").is(204)
	s.do("PUT", "/v1/set-declarations/S?declaration=a%2Fb%20c").is(204)
	for _, id := range []string{"1", "2", "3"} {
		s.do("PUT", "/v1/enrollment-sets/"+id+"?set=S").is(204)
	}
	token := s.tokenOf("D")
	s.do("GET", "/v1/declaration-summary/D").is(200).json(
		`{"identifier":"D","type":"com.apple.configuration.test","server_token":"` + token + `"}`)
	s.says("1", "D", `"server-token":"`+token+`","active":true,"valid":"valid","reasons":[]`)
	s.says("2", "D", `"server-token":"`+token+`","active":false,"valid":"invalid","reasons":[{"code":"Error.X"}]`)
	s.count("D", "a/b c")
	summary, err := s.store.DeclarationSummary(t.Context(), "D")
	require.NoError(t, err)
	wanted := fmt.Sprintf(`{"identifier":"D","type":"com.apple.configuration.test","server_token":%q,"assigned":3,"current":2,
		"active":1,"valid":1,"invalid":1,"pending":1,"as_of":%q}`, token, timestamp(summary.CountedAt))
	s.do("GET", "/v1/declaration-summary/D").is(200).json(wanted)
	require.Contains(t, s.do("GET", "/v1/declaration-summary/a%2Fb%20c").is(200).body, `"pending":3`)
	require.Contains(t, s.do("GET", "/v1/declaration-summary/a/b%20c").is(200).body, `"pending":3`)
	for _, limit := range []int{1, 2, 3, 1000} {
		list := s.all(fmt.Sprintf("/v1/declaration-summary?limit=%d", limit))
		require.Equal(t, []any{"D", "a/b c", "z"}, column(list, "identifier"))
		require.Equal(t, []any{3.0, 3.0, nil}, column(list, "assigned"))
	}
	require.Equal(t, []any{"z"}, column(s.all("/v1/declaration-summary?after=a%2Fb%20c"), "identifier"))
	s.do("GET", "/v1/declaration-summary/unknown").fails(404, `no declaration "unknown"`)
	s.do("GET", "/v1/declaration-summary/").fails(400, "id: must not be empty")
	s.do("GET", "/v1/declaration-summary?limit=0").fails(400, "limit: must be a whole number from 1 to 1000")
	s.do("GET", "/v1/declaration-summary?after=%ff").fails(400, "after: must be valid UTF-8")
	s.do("POST", "/v1/declaration-summary").is(405)
}

func TestDeclarationEnrollments(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("a/b")
	s.do("PUT", "/v1/set-declarations/S?declaration=a%2Fb").is(204)
	for _, id := range []string{"1", "2", "3"} {
		s.do("PUT", "/v1/enrollment-sets/"+id+"?set=S").is(204)
	}
	token := s.tokenOf("a/b")
	s.says("1", "a/b", `"server-token":"`+token+`","active":true,"valid":"valid","reasons":[]`)
	s.says("2", "a/b", `"server-token":"`+token+`","active":false,"valid":"invalid","reasons":[{"code":"Error.X"}]`)
	for state, wanted := range map[string][]any{
		"": {"1", "2", "3"}, "state=assigned": {"1", "2", "3"}, "state=current": {"1", "2"}, "state=active": {"1"},
		"state=valid": {"1"}, "state=invalid": {"2"}, "state=pending": {"3"}, "after=2": {"3"}, "state=valid&after=1": nil,
	} {
		for _, limit := range []string{"", "&limit=1", "&limit=2"} {
			require.Equal(t, wanted, column(s.all("/v1/declaration-enrollments/a%2Fb?"+state+limit), "enrollment_id"), state)
		}
	}
	report, err := s.store.StatusReportByIndex(t.Context(), "2", 0)
	require.NoError(t, err)
	s.do("GET", "/v1/declaration-enrollments/a/b?state=invalid").is(200).json(fmt.Sprintf(`[{"enrollment_id":"2",
		"server-token":%q,"current":true,"active":false,"valid":"invalid","reasons":[{"code":"Error.X"}],
		"status_received":%q,"status_id":"%d"}]`, token, timestamp(report.ReceivedAt), report.StatusID))
	s.do("GET", "/v1/declaration-enrollments/a/b?state=pending").is(200).json(`[{"enrollment_id":"3"}]`)
	s.do("GET", "/v1/declaration-enrollments/unknown?state=valid").fails(404, `no declaration "unknown"`)
	for query, text := range map[string]string{
		"state=":               "state: must be one of assigned, current, active, valid, invalid, pending",
		"state=Valid":          "state: must be one of",
		"state=valid&state=no": "state: must be given once",
		"limit=x":              "limit: must be a whole number",
		"after=1&after=2":      "after: must be given once",
	} {
		s.do("GET", "/v1/declaration-enrollments/a/b?"+query).fails(400, text)
	}
}

func TestStatusSummary(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for i, value := range []string{`"15.1"`, `"15.2"`, `"15.2"`, `16`, `"` + strings.Repeat("é", 800) + `"`, `{}`} {
		s.reported(fmt.Sprint(i), `{"StatusItems":{"device":{"operating-system":{"version":`+value+`}}}}`)
	}
	const path = "/v1/status-summary?path=.StatusItems.device.operating-system.version"
	got := s.do("GET", path).is(200)
	got.json(`[{"value":"15.2","count":2},{"value":"15.1","count":1},{"value":"16","count":1},{"value":"{}","count":1},
		{"value":"` + strings.Repeat("é", 500) + `","shortened":true,"count":1}]`)
	for limit := 1; limit < 7; limit++ {
		require.Len(t, s.all(fmt.Sprintf("%s&limit=%d", path, limit)), 5)
	}
	s.do("GET", "/v1/status-summary?path=unknown").is(200).json(`[]`)
	for query, text := range map[string]string{
		"":                  "path: is missing",
		"path=":             "path: must not be empty",
		"path=x&path=y":     "path: must be given once",
		"path=%ff":          "path: must be valid UTF-8",
		"path=x&after=y":    "after: must be from the Link",
		"path=x&after=00":   "after: must be from the Link",
		"path=x&limit=1001": "limit: must be a whole number",
		"path=x&after=" + strings.Repeat("0", 34): "after: must be from the Link",
	} {
		s.do("GET", "/v1/status-summary?"+query).fails(400, text)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/v1/problems").is(200).json(`[]`)
	invalid := `"server-token":"1","active":false,"valid":"invalid","reasons":[{"code":"Error.<X>"}]`
	s.says("1", "D", invalid, "E", `"server-token":"1","active":false,"valid":"invalid","reasons":[]`)
	s.says("2", "D", invalid)
	s.reported("3", `{"Errors":[{"StatusItem":"mdm.app","Reasons":[{"Code":"Error.<X>"}]}]}`)
	at := func(id string) string {
		report, err := s.store.StatusReportByIndex(t.Context(), id, 0)
		require.NoError(t, err)
		return timestamp(report.ReceivedAt)
	}
	s.do("GET", "/v1/problems").is(200).json(`[
		{"code":"Error.<X>","kind":"declaration","subject":"D","count":2,"newest_received":"` + at("2") + `",
			"example":{"enrollment_id":"2","reasons":[{"code":"Error.<X>"}]}},
		{"code":"Error.<X>","kind":"status-item","subject":"mdm.app","count":1,"newest_received":"` + at("3") + `",
			"example":{"enrollment_id":"3","error":{"StatusItem":"mdm.app","Reasons":[{"Code":"Error.<X>"}]}}},
		{"code":"unknown","kind":"declaration","subject":"E","count":1,"newest_received":"` + at("1") + `",
			"example":{"enrollment_id":"1","reasons":[]}}]`)
	for limit := 1; limit < 5; limit++ {
		require.Equal(t, []any{"D", "mdm.app", "E"}, column(s.all(fmt.Sprintf("/v1/problems?limit=%d", limit)), "subject"))
	}
	for query, text := range map[string]string{
		"after=x": "after: must be from the Link", "after=W10": "after: must be from the Link", "limit=": "limit: must be a whole",
		"after=%zz": "query string",
	} {
		s.do("GET", "/v1/problems?"+query).fails(400, text)
	}
}

func TestEnrollmentDeclarations(t *testing.T) {
	t.Parallel()
	for _, shard := range []bool{false, true} {
		s := newServer(t, func(c *Config) { c.Shard = shard })
		s.do("GET", "/v1/enrollment-declarations/a%2Fb").fails(404, `no enrollment "a/b"`)
		s.given("D", "E")
		for _, target := range []string{
			"/v1/set-declarations/S?declaration=D", "/v1/set-declarations/T?declaration=D", "/v1/set-declarations/T?declaration=E",
			"/v1/enrollment-sets/a%2Fb?set=S", "/v1/enrollment-sets/a%2Fb?set=T",
		} {
			s.do("PUT", target).is(204)
		}
		s.says("a/b", "D", `"server-token":"old","active":true,"valid":"valid","reasons":[]`,
			"D", `"server-token":"`+s.tokenOf("D")+`","active":false,"valid":"unknown"`,
			"left over", `"server-token":"1","active":true,"valid":"valid"`)
		report, err := s.store.StatusReportByIndex(t.Context(), "a/b", 0)
		require.NoError(t, err)
		more := fmt.Sprintf(`"status_received":%q,"status_id":"%d"`, timestamp(report.ReceivedAt), report.StatusID)
		tokens := []string{s.tokenOf("D"), "old"}
		said := map[string]string{
			"old":     `{"server-token":"old","current":false,"active":true,"valid":"valid","reasons":[],` + more + `}`,
			tokens[0]: `{"server-token":"` + tokens[0] + `","current":true,"active":false,"valid":"unknown",` + more + `}`,
		}
		slices.Sort(tokens)
		wanted := `[{"identifier":"D","type":"com.apple.configuration.test","class":"configuration","server_token":"` +
			s.tokenOf("D") + `","sets":["S","T"],"wanted":true,"status":[` + said[tokens[0]] + `,` + said[tokens[1]] + `]},
			{"identifier":"E","type":"com.apple.configuration.test","class":"configuration","server_token":"` +
			s.tokenOf("E") + `","sets":["T"],"wanted":true,"status":[]},`
		if shard {
			wanted += `{"identifier":"com.github.decree-ddm.shard","type":"com.apple.management.properties","class":"management",
				"server_token":"` + ddm.ShardDeclaration("a/b").ServerToken + `","sets":[],"wanted":true,"status":[]},`
		}
		wanted += `{"identifier":"left over","sets":[],"wanted":false,"status":[
			{"server-token":"1","current":false,"active":true,"valid":"valid",` + more + `}]}]`
		s.do("GET", "/v1/enrollment-declarations/a%2Fb").is(200).json(wanted)
		s.do("GET", "/v1/enrollment-declarations/a/b").is(200).json(wanted)
	}
}

func TestListingEnrollmentsByFacts(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for id, items := range map[string]string{
		"a": `"device":{"identifier":{"serial-number":"S&1"},"model":{"identifier":"Mac14,2"},
			"operating-system":{"family":"macOS","version":"15.9","build-version":"24G1"}},
			"management":{"client-capabilities":{"supported-versions":["1.0.0"],
			"supported-payloads":{"status-items":["mdm.app"]}}}`,
		"b": `"device":{"operating-system":{"family":"iOS","version":"15.10"}}`,
	} {
		s.do("PUT", "/v1/enrollment-sets/"+id+"?set=S").is(204)
		s.reported(id, `{"StatusItems":{`+items+`}}`)
	}
	s.do("PUT", "/v1/enrollment-sets/silent?set=S").is(204)
	for query, wanted := range map[string][]string{
		"serial=S%261": {"a"}, "serial=s%261": nil, "model=Mac14,2": {"a"}, "os_family=iOS": {"b"}, "supports=mdm.app": {"a"},
		"os_version_lt=15.10": {"a"}, "os_version_ge=15.9": {"a", "b"}, "os_version_ge=15.9.1&os_version_lt=16": {"b"},
		"ddm_on=1": {"a"}, "ddm_on=no": {"b", "silent"}, "os_family=macOS&ddm_on=0": nil,
	} {
		require.Equal(t, wanted, s.pages("/v1/enrollments?"+query), query)
		require.Equal(t, wanted, s.pages("/v1/enrollments?limit=1&"+query), query)
	}
	facts, err := s.store.Facts(t.Context(), []string{"a"})
	require.NoError(t, err)
	require.NotZero(t, facts["a"].ConfirmedAt)
	wanted := map[string]any{
		"serial_number": "S&1", "model": "Mac14,2", "os_family": "macOS", "os_version": "15.9", "os_build": "24G1",
		"ddm_on_since": timestamp(facts["a"].ConfirmedAt),
	}
	require.Equal(t, []any{wanted, map[string]any{"os_family": "iOS", "os_version": "15.10"}, nil},
		column(s.all("/v1/enrollments"), "facts"))
	var one map[string]any
	require.NoError(t, json.Unmarshal([]byte(s.do("GET", "/v1/enrollments/a").is(200).body), &one))
	require.Equal(t, wanted, one["facts"])
	require.NotContains(t, s.do("GET", "/v1/enrollments/silent").is(200).body, "facts")

	for query, text := range map[string]string{
		"serial=": "serial: must not be empty", "model=a&model=b": "model: must be given once", "os_family=%ff": "os_family: must be",
		"supports=": "supports: must not be empty", "os_version_lt=": "os_version_lt: must be a version, such as 15.2",
		"os_version_lt=x": "os_version_lt: must be a version", "os_version_ge=v15": "os_version_ge: must be a version",
		"ddm_on=%ff": "ddm_on: must be valid UTF-8",
	} {
		s.do("GET", "/v1/enrollments?"+query).fails(400, text)
	}
	link := s.do("GET", "/v1/enrollments?limit=1&os_version_ge=15&supports="+url.QueryEscape("mdm.app")).header.Get("Link")
	require.Empty(t, link)
}
