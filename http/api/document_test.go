package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// apiDocument is docs/openapi.yaml.
type apiDocument struct{ *openapi3.T }

var loadDocument = sync.OnceValues(func() (*openapi3.T, error) {
	return openapi3.NewLoader().LoadFromFile("../../docs/openapi.yaml")
})

func document(t *testing.T) apiDocument {
	t.Helper()
	d, err := loadDocument()
	require.NoError(t, err)
	return apiDocument{d}
}

// otherOperations are those that are not served here: of the device side, and for those who watch servers.
var otherOperations = []string{
	"GET /declaration-items",
	"GET /declaration/{class}/{identifier}",
	"GET /metrics",
	"GET /tokens",
	"PUT /status",
}

func TestTheDocumentIsValid(t *testing.T) {
	t.Parallel()
	require.NoError(t, document(t).Validate(t.Context()))
}

func TestTheDocumentHasEveryRouteAndNoOther(t *testing.T) {
	t.Parallel()
	served := slices.Clone(otherOperations)
	for _, route := range slices.Concat((&api{}).routes(), health{}.routes()) {
		pattern := strings.ReplaceAll(route.pattern, "...}", "}")
		if pattern == "POST /v1/declarations/{path}" {
			served = append(served, "POST /v1/declarations/{id}/rollback")
			pattern = "POST /v1/declarations/{id}/touch"
		}
		if pattern == "POST /v1/enrollments/{path}" {
			pattern = "POST /v1/enrollments/{id}/sync"
		}
		served = append(served, pattern)
	}
	var documented []string
	for path, item := range document(t).Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	require.ElementsMatch(t, served, documented)
}

// operation finds what the document says of a request, or nil.
func (d apiDocument) operation(method, target string) (string, *openapi3.Operation) {
	u, err := url.Parse(target)
	if err != nil {
		return "", nil
	}
	if method == http.MethodHead {
		method = http.MethodGet
	}
	best, literal := "", -1
	for path, item := range d.Paths.Map() {
		// A name in a path may hold slashes, so what is fixed at both ends decides.
		before, rest, named := strings.Cut(path, "{")
		_, after, _ := strings.Cut(rest, "}")
		fits := u.Path == path
		if named {
			fits = len(u.Path) > len(before)+len(after) &&
				strings.HasPrefix(u.Path, before) && strings.HasSuffix(u.Path, after)
		}
		if fits && item.GetOperation(method) != nil && len(before)+len(after) > literal {
			best, literal = path, len(before)+len(after)
		}
	}
	if best == "" {
		return "", nil
	}
	return method + " " + best, d.Paths.Value(best).GetOperation(method)
}

// standardHeaders need no mention in the document.
var standardHeaders = []string{
	"Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Connection", "Content-Length", "Content-Type",
	"Date", "Transfer-Encoding", "Vary",
}

// check holds an answer against the document: its code, its headers, and its body.
func (d apiDocument) check(t *testing.T, method, target string, got *answer) {
	t.Helper()
	name, operation := d.operation(method, target)
	if operation == nil {
		if got.code >= 400 && method != http.MethodHead {
			d.checkBody(t, target, d.Components.Schemas["Error"].Value, got)
		}
		return
	}
	response := operation.Responses.Value(strconv.Itoa(got.code))
	require.NotNil(t, response, "%s answers %d, which is not in the document: %s", name, got.code, got.body)
	for header, documented := range response.Value.Headers {
		if documented.Value.Required {
			require.NotEmpty(t, got.header.Get(header), "%s answers %d without %s", name, got.code, header)
		}
		if value := got.header.Get(header); value != "" {
			require.NoError(t, d.ValidateSchemaJSON(documented.Value.Schema.Value, value))
		}
	}
	for header := range got.header {
		documented := slices.Contains(standardHeaders, header)
		for name := range response.Value.Headers {
			documented = documented || http.CanonicalHeaderKey(name) == header
		}
		require.True(t, documented, "%s answers %d with %s, which is not in the document", name, got.code, header)
	}
	content := response.Value.Content
	if len(content) == 0 {
		require.Empty(t, got.body, "%s answers %d with a body", name, got.code)
		return
	}
	if method != http.MethodHead {
		d.checkBody(t, name, content["application/json"].Schema.Value, got)
	}
}

func (d apiDocument) checkBody(t *testing.T, what string, schema *openapi3.Schema, got *answer) {
	t.Helper()
	require.Equal(t, "application/json", got.header.Get("Content-Type"), what)
	var value any
	require.NoError(t, json.Unmarshal([]byte(got.body), &value), "%s: %s", what, got.body)
	require.NoError(t, d.ValidateSchemaJSON(schema, value), "%s answers %d: %s", what, got.code, got.body)
}

// TestTheDocumentsCodesAreReal has every operation give every code that the document has for it, so that none is there
// which cannot happen.
func TestTheDocumentsCodesAreReal(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("D", "used", "touched", "gone", "gone2")
	for _, target := range []string{
		"/v1/set-declarations/S?declaration=used", "/v1/set-declarations/S2?declaration=used",
		"/v1/set-declarations/S3?declaration=used", "/v1/enrollment-sets/E?set=S", "/v1/enrollment-sets/E?set=S2",
		"/v1/enrollment-sets/E2?set=S", "/v1/enrollment-sets/E3?set=S", "/v1/enrollment-sets/E4?set=S",
		"/v1/enrollment-sets/E5?set=S", "/v1/enrollment-sets/E6?set=S", "/v1/enrollment-sets/E7?set=S",
	} {
		s.do("PUT", target).is(204)
	}
	s.reported("E", `{"StatusItems":{"device":{"model":{"family":"Mac"}}},"Errors":[{"StatusItem":"x"}]}`)
	seen := map[string][]string{}
	do := func(method, target string, options ...requestOption) {
		if method != http.MethodGet {
			refused := s.do(method, target, append(options, readOnly)...).fails(403, "role write", "role read")
			name, _ := document(t).operation(method, target)
			seen[name] = append(seen[name], strconv.Itoa(refused.code))
		}
		got := s.do(method, target, options...)
		name, _ := document(t).operation(method, target)
		seen[name] = append(seen[name], strconv.Itoa(got.code))
		if got.code == 200 && strings.HasPrefix(target, prefix) {
			refused := s.do(method, target, append(options, anonymous)...).fails(401, "API key")
			seen[name] = append(seen[name], strconv.Itoa(refused.code))
		}
	}
	large := strings.Repeat(" ", maxDeclarationBytes+1)

	do("GET", "/version")
	do("GET", "/livez")
	do("GET", "/readyz")
	do("GET", "/v1/declarations")
	do("GET", "/v1/declarations?limit=0")
	do("PUT", "/v1/declarations", body(declaration("new")))
	do("PUT", "/v1/declarations", body(declaration("new")))
	do("PUT", "/v1/declarations?verbose=1", body(declaration("new")))
	do("PUT", "/v1/declarations", body(`{}`))
	do("PUT", "/v1/declarations", body(large))
	do("PUT", "/v1/declarations", body(`{"Identifier":"A","Type":"com.apple.activation.simple","Payload":{
		"StandardConfigurations":["missing"]}}`))
	do("GET", "/v1/declarations/D")
	do("GET", "/v1/declarations/unknown")
	do("GET", "/v1/declarations/%ff")
	do("DELETE", "/v1/declarations/gone")
	do("DELETE", "/v1/declarations/gone")
	do("DELETE", "/v1/declarations/gone2?verbose=1")
	do("DELETE", "/v1/declarations/used")
	do("DELETE", "/v1/declarations/used?verbose=1&verbose=0")
	do("POST", "/v1/declarations/touched/touch")
	do("POST", "/v1/declarations/touched/touch?verbose=1")
	do("POST", "/v1/declarations/unknown/touch")
	do("POST", "/v1/declarations/touched/touch?nonotify=%zz")
	do("GET", "/v1/declaration-versions/touched?limit=1")
	do("GET", "/v1/declaration-versions/touched?token="+s.serverToken("touched"))
	do("GET", "/v1/declaration-versions/unknown")
	do("GET", "/v1/declaration-versions/touched?after=x")
	first := s.serverToken("new")
	s.do("PUT", "/v1/declarations", body(`{"Identifier":"new","Type":"com.apple.activation.simple","Payload":{
		"StandardConfigurations":["D"]}}`)).is(204)
	second := s.serverToken("new")
	do("POST", "/v1/declarations/new/rollback?to="+first)
	do("POST", "/v1/declarations/new/rollback?to="+first)
	do("POST", "/v1/declarations/new/rollback?verbose=1&to="+second)
	do("POST", "/v1/declarations/new/rollback?to=unknown")
	do("POST", "/v1/declarations/new/rollback")
	s.do("POST", "/v1/declarations/new/rollback?to="+first).is(204)
	s.do("DELETE", "/v1/declarations/D").is(204)
	do("POST", "/v1/declarations/new/rollback?to="+second)
	s.given("D")
	do("GET", "/v1/declaration-sets/used")
	do("GET", "/v1/declaration-sets/used?limit=x")
	do("GET", "/v1/declaration-summary")
	do("GET", "/v1/declaration-summary?limit=1001")
	do("GET", "/v1/declaration-summary/used")
	do("GET", "/v1/declaration-summary/unknown")
	do("GET", "/v1/declaration-summary/%ff")
	do("GET", "/v1/declaration-enrollments/used?state=pending")
	do("GET", "/v1/declaration-enrollments/unknown")
	do("GET", "/v1/declaration-enrollments/used?state=odd")
	do("GET", "/v1/sets")
	do("GET", "/v1/sets?limit=-1")
	do("GET", "/v1/set-declarations/S")
	do("GET", "/v1/set-declarations/S?limit=10001")
	do("PUT", "/v1/set-declarations/S?declaration=D")
	do("PUT", "/v1/set-declarations/S?declaration=D")
	do("PUT", "/v1/set-declarations/S?declaration=D&verbose=1")
	do("PUT", "/v1/set-declarations/S?declaration=unknown")
	do("PUT", "/v1/set-declarations/S")
	do("DELETE", "/v1/set-declarations/S?declaration=D")
	do("DELETE", "/v1/set-declarations/S?declaration=D")
	do("DELETE", "/v1/set-declarations/S?declaration=D&verbose=1")
	do("DELETE", "/v1/set-declarations/S")
	do("GET", "/v1/enrollments?limit=1")
	do("GET", "/v1/enrollments?limit=0")
	do("POST", "/v1/enrollments/E/sync")
	do("POST", "/v1/enrollments/E/sync?verbose=1")
	do("POST", "/v1/enrollments/unknown/sync")
	do("POST", "/v1/enrollments/%ff/sync")
	do("DELETE", "/v1/enrollments/E6")
	do("DELETE", "/v1/enrollments/E6")
	do("DELETE", "/v1/enrollments/E7?verbose=1")
	do("DELETE", "/v1/enrollments/%ff")
	do("GET", "/v1/enrollments/E")
	do("GET", "/v1/enrollments/unknown")
	do("GET", "/v1/enrollments/%ff")
	do("GET", "/v1/enrollment-declarations/E")
	do("GET", "/v1/enrollment-declarations/unknown")
	do("GET", "/v1/enrollment-declarations/%ff")
	do("GET", "/v1/enrollment-sets/E")
	do("GET", "/v1/enrollment-sets/E?limit=1e3")
	do("PUT", "/v1/enrollment-sets/E?set=S3")
	do("PUT", "/v1/enrollment-sets/E?set=S3")
	do("PUT", "/v1/enrollment-sets/E?set=S3&verbose=1")
	do("PUT", "/v1/enrollment-sets/E")
	do("DELETE", "/v1/enrollment-sets/E?set=S3")
	do("DELETE", "/v1/enrollment-sets/E?set=S3")
	do("DELETE", "/v1/enrollment-sets/E?set=S3&verbose=1")
	do("DELETE", "/v1/enrollment-sets/E")
	do("DELETE", "/v1/enrollment-sets-all/E2")
	do("DELETE", "/v1/enrollment-sets-all/E2")
	do("DELETE", "/v1/enrollment-sets-all/E3?verbose=1")
	do("DELETE", "/v1/enrollment-sets-all/%ff")
	do("DELETE", "/v1/enrollment-sets-all/sets/E4")
	do("DELETE", "/v1/enrollment-sets-all/sets/E4")
	do("DELETE", "/v1/enrollment-sets-all/sets/E5?verbose=1")
	do("DELETE", "/v1/enrollment-sets-all/sets/%ff")
	do("GET", "/v1/declaration-status/E,E2")
	do("GET", "/v1/declaration-status/E,,E2")
	do("GET", "/v1/status-errors/E,E2")
	do("GET", "/v1/status-errors/E?offset=-1")
	do("GET", "/v1/status-values/E,E2")
	do("GET", "/v1/status-values/E,E2?prefix=%ff")
	do("GET", "/v1/status-report/E")
	do("GET", "/v1/status-report/E?index=1")
	do("GET", "/v1/status-report/E?index=first")
	do("GET", "/v1/changes?limit=1")
	do("GET", "/v1/changes?limit=1001")
	do("GET", "/v1/events?limit=1")
	do("GET", "/v1/events?wait=31")
	do("GET", "/v1/events?after=1000")
	do("GET", "/v1/status-summary?path=.StatusItems.device.model.family")
	do("GET", "/v1/status-summary")
	do("GET", "/v1/problems")
	do("GET", "/v1/problems?after=x")
	do("GET", "/v1/notifications")
	do("GET", "/v1/notifications?limit=1")
	do("POST", "/v1/notify?id=E")
	do("POST", "/v1/notify?id=E&verbose=1")
	do("POST", "/v1/notify")
	do("POST", "/v1/notify", form(large))

	for path, item := range document(t).Paths.Map() {
		for method, operation := range item.Operations() {
			name := method + " " + path
			if slices.Contains(otherOperations, name) {
				continue
			}
			for code := range operation.Responses.Map() {
				// Of the server's own failures, and of bodies that do not come, there are tests elsewhere.
				if code < "500" && code != "408" {
					require.Contains(t, seen[name], code, name)
				}
			}
		}
	}
}
