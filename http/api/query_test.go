package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// lenient are the questions that KMFDDM's clients ask, with whatever parameters they always sent.
var lenient = []string{
	"/v1/declarations", "/v1/declarations/{id}", "/v1/declaration-sets/{id}", "/v1/sets", "/v1/set-declarations/{set}",
	"/v1/enrollment-sets/{id}", "/v1/declaration-status/{ids}", "/v1/status-errors/{ids}", "/v1/status-values/{ids}",
	"/v1/status-report/{id}",
}

// TestParametersThatAreNone checks that a mistyped filter is refused and named, that every parameter which the document has is
// known, and that KMFDDM's clients may send what they like.
func TestParametersThatAreNone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("D")
	s.do("PUT", "/v1/enrollment-sets/E?set=S").is(204)
	s.do("GET", "/v1/enrollments?os_verson_lt=15.2").fails(400, "os_verson_lt: is no parameter")
	s.do("GET", "/v1/enrollments?os_version_lt=15.2&a=1&%ff=2").fails(400, "a: is no parameter", "\ufffd: is no parameter")
	s.do("HEAD", "/v1/enrollments?a=1").is(400)
	asked := map[string]bool{}
	for path, item := range document(t).Paths.Map() {
		if item.Get == nil || !strings.HasPrefix(path, prefix) {
			continue
		}
		asked[path] = true
		target := strings.NewReplacer("{ids}", "E", "{set}", "S", "{id}", "D").Replace(path)
		if strings.Contains(path, "enrollment") && !strings.HasPrefix(path, "/v1/declaration-") {
			target = strings.ReplaceAll(path, "{id}", "E")
		}
		answer := s.do("GET", target+"?no_such_parameter=1")
		if slices.Contains(lenient, path) {
			require.NotEqual(t, http.StatusBadRequest, answer.code, "%s: %s", path, answer.body)
			continue
		}
		answer.fails(400, "no_such_parameter: is no parameter")
		for _, parameter := range item.Get.Parameters {
			if parameter.Value.In == "query" {
				answer := s.do("GET", target+"?"+parameter.Value.Name+"=x")
				require.NotContains(t, string(answer.body), "is no parameter", "%s: %s", path, parameter.Value.Name)
			}
		}
	}
	for _, path := range lenient {
		require.True(t, asked[path], path)
	}
}
