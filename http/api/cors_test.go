package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCORSOnEveryAnswer(t *testing.T) {
	t.Parallel()
	const origin = "https://admin.example.com"
	s := newServer(t, func(c *Config) { c.CORSOrigin = origin })
	for _, test := range []struct {
		method, target string
		option         requestOption
		code           int
	}{
		{"GET", "/version", anonymous, 200},
		{"GET", "/v1/sets", body(""), 200},
		{"GET", "/v1/sets?limit=0", body(""), 400},
		{"GET", "/v1/sets", anonymous, 401},
		{"GET", "/v1/declarations/unknown", body(""), 404},
		{"GET", "/v1/unknown", body(""), 404},
		{"GET", "/v1/declarations/a//b", body(""), 400},
		{"PATCH", "/v1/sets", body(""), 405},
		{"PUT", "/v1/declarations", body(declaration("D")), 204},
		{"PUT", "/v1/declarations", body(declaration("D")), 304},
	} {
		got := s.do(test.method, test.target, header("Origin", origin), test.option).is(test.code)
		require.Equal(t, origin, got.header.Get("Access-Control-Allow-Origin"), test)
		require.Equal(t, "Origin", got.header.Get("Vary"), test)
		require.Contains(t, got.header.Get("Access-Control-Expose-Headers"), "Link", test)
	}
	require.Empty(t, s.do("GET", "/elsewhere").is(404).header.Get("Access-Control-Allow-Origin"))
}

func TestCORSPreflight(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(c *Config) { c.CORSOrigin = "*" })
	for _, target := range []string{"/version", "/v1/declarations", "/v1/declarations/a/b", "/v1/notify"} {
		got := s.do("OPTIONS", target, anonymous, header("Origin", "https://a.example.com"),
			header("Access-Control-Request-Method", "PUT")).is(204).empty()
		require.Equal(t, "*", got.header.Get("Access-Control-Allow-Origin"))
		require.Empty(t, got.header.Get("Vary"))
		require.Equal(t, "GET, HEAD, PUT, POST, DELETE", got.header.Get("Access-Control-Allow-Methods"))
		require.Equal(t, "Authorization, Content-Type, Accept", got.header.Get("Access-Control-Allow-Headers"))
		require.Equal(t, "7200", got.header.Get("Access-Control-Max-Age"))
	}
	s.do("OPTIONS", "/elsewhere", anonymous).fails(404)
}

func TestWithoutCORSThereIsNone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("OPTIONS", "/v1/declarations", anonymous).fails(405, "OPTIONS")
	got := s.do("GET", "/v1/sets", header("Origin", "https://a.example.com")).is(200)
	require.Empty(t, got.header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, got.header.Get("Vary"))
}

// TestPagesOfOtherOrigins checks that no page can have a browser, which knows the key, change anything, unless it may.
func TestPagesOfOtherOrigins(t *testing.T) {
	t.Parallel()
	const page = "https://page.example.com"
	for allowed, code := range map[string]int{"": 403, "https://admin.example.com": 403, page: 204, "*": 204, "no origin": 403} {
		s := newServer(t, func(c *Config) { c.CORSOrigin = allowed })
		s.given("D")
		for _, site := range []requestOption{header("Sec-Fetch-Site", "cross-site"), header("Accept-Language", "de")} {
			got := s.do("POST", "/v1/declarations/D/touch", header("Origin", page), site).is(code)
			if code == 403 {
				got.fails(403, "origin")
			}
			s.do("GET", "/v1/declarations", header("Origin", page), site).is(200)
		}
		s.do("POST", "/v1/declarations/D/touch", header("Origin", s.url), header("Sec-Fetch-Site", "same-origin")).is(204)
	}
}
