package api

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// badNames are values that neither a set's name nor an enrollment id may have, and what the error says of each.
var badNames = map[string]string{
	strings.Repeat("x", 256): "255",
	"\x00":                   "control",
	"a\nb":                   "control",
	" a":                     "white space",
	"a ":                     "white space",
}

func TestSets(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/v1/sets").is(200).json(`[]`)
	s.do("GET", "/v1/set-declarations/S").is(200).json(`[]`)
	s.do("GET", "/v1/declaration-sets/D").is(200).json(`[]`)
	s.do("PUT", "/v1/set-declarations/S?declaration=D").fails(404, `no declaration "D"`)
	s.do("GET", "/v1/sets").is(200).json(`[]`)

	s.given("D", "D2")
	s.do("PUT", "/v1/set-declarations/S?declaration=D").is(204).empty()
	s.do("PUT", "/v1/set-declarations/S?declaration=D").is(304).empty()
	s.do("PUT", "/v1/set-declarations/S?declaration=D2&nonotify=1").is(204).empty()
	s.do("PUT", "/v1/set-declarations/A?declaration=D").is(204).empty()
	s.do("GET", "/v1/sets").is(200).json(`["A","S"]`)
	s.do("HEAD", "/v1/sets").is(200).empty()
	s.do("GET", "/v1/set-declarations/S").is(200).json(`["D","D2"]`)
	s.do("GET", "/v1/declaration-sets/D").is(200).json(`["A","S"]`)

	s.do("DELETE", "/v1/set-declarations/S?declaration=D").is(204).empty()
	s.do("DELETE", "/v1/set-declarations/S?declaration=D").is(304).empty()
	s.do("DELETE", "/v1/set-declarations/unknown?declaration=D").is(304).empty()
	s.do("DELETE", "/v1/set-declarations/S?declaration=unknown").is(304).empty()
	require.Contains(t, s.do("DELETE", "/v1/set-declarations/S?declaration=D2&verbose=1").is(200).body, `"changed":true`)
	s.do("GET", "/v1/sets").is(200).json(`["A"]`)
}

func TestSetChangesThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("D")
	for _, method := range []string{"PUT", "DELETE"} {
		s.do(method, "/v1/set-declarations/S").fails(400, "declaration: is missing")
		s.do(method, "/v1/set-declarations/S?set=D").fails(400, "declaration: is missing")
		s.do(method, "/v1/set-declarations/S?declaration=").fails(400, "declaration: must not be empty")
		s.do(method, "/v1/set-declarations/S?declaration=D&declaration=D").fails(400, "declaration: must be given once")
		s.do(method, "/v1/set-declarations/S?declaration=D&nonotify=%").fails(400, "query string")
		s.do(method, "/v1/set-declarations/S?declaration=D;nonotify=1").fails(400, "query string")
		s.do(method, "/v1/set-declarations/S?declaration=%ff").fails(400, "declaration: must be valid UTF-8")
		s.do(method, "/v1/set-declarations/%ff?declaration=D").fails(400, "set: must be valid UTF-8")
	}
	for name, text := range badNames {
		s.do("PUT", "/v1/set-declarations/"+url.PathEscape(name)+"?declaration=D").fails(400, "set: ", text)
		s.do("PUT", "/v1/set-declarations/S?declaration="+url.QueryEscape(name)).fails(400, "declaration: ", text)
		s.do("GET", "/v1/set-declarations/"+url.PathEscape(name)).is(200).json(`[]`)
		s.do("GET", "/v1/declaration-sets/"+url.PathEscape(name)).is(200).json(`[]`)
		s.do("GET", "/v1/declarations/"+url.PathEscape(name)).fails(404, "no declaration")
		s.do("DELETE", "/v1/set-declarations/"+url.PathEscape(name)+"?declaration=D").is(304)
		s.do("DELETE", "/v1/declarations/"+url.PathEscape(name)).is(304)
	}
	for _, identifier := range []string{"a?b", "a%b", "a#b", "a//b", "/a", "a/", ".", "a/.."} {
		s.do("PUT", "/v1/set-declarations/S?declaration="+url.QueryEscape(identifier)).fails(400, "declaration: ")
	}
	s.do("GET", "/v1/sets").is(200).json(`[]`)
}
