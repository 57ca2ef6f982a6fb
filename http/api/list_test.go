package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

func TestPages(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("a", "b/c d", "é&=", "z")
	for _, identifier := range []string{"a", "b/c d", "é&=", "z"} {
		s.do("PUT", "/v1/set-declarations/"+url.PathEscape("S/S %&")+"?declaration="+url.QueryEscape(identifier)).is(204)
		s.do("PUT", "/v1/set-declarations/"+url.PathEscape("set "+identifier)+"?declaration=a").is(204)
		s.do("PUT", "/v1/enrollment-sets/E?set="+url.QueryEscape("set "+identifier)).is(204)
	}
	for _, target := range []string{
		"/v1/declarations", "/v1/sets", "/v1/set-declarations/S%2FS%20%25&", "/v1/set-declarations/S/S%20%25&",
		"/v1/declaration-sets/a", "/v1/enrollment-sets/E",
	} {
		t.Run(target, func(t *testing.T) {
			s := s.in(t)
			var all []string
			require.NoError(t, json.Unmarshal([]byte(s.do("GET", target).is(200).body), &all))
			require.GreaterOrEqual(t, len(all), 4)
			require.True(t, slices.IsSorted(all))
			for limit := 1; limit <= len(all)+1; limit++ {
				require.Equal(t, all, s.follow(t, fmt.Sprintf("%s?limit=%d&extra=1", target, limit), limit))
			}
			got := s.do("GET", target+"?after="+url.QueryEscape(all[0])).is(200)
			want, err := json.Marshal(all[1:])
			require.NoError(t, err)
			got.json(string(want))
			require.Empty(t, got.header.Get("Link"))
			s.do("GET", target+"?limit=2&after=%F0%9F%98%80").is(200).json(`[]`)
			require.Empty(t, s.do("GET", target).header.Get("Link"))
		})
	}
}

// follow reads a list page by page, as the Link headers say.
func (s *server) follow(t *testing.T, target string, limit int) (all []string) {
	t.Helper()
	for target != "" {
		got := s.do("GET", target).is(200)
		var page []string
		require.NoError(t, json.Unmarshal([]byte(got.body), &page))
		require.LessOrEqual(t, len(page), limit)
		all = append(all, page...)
		link := got.header.Get("Link")
		if link == "" {
			break
		}
		require.Len(t, page, limit)
		before, rest, _ := strings.Cut(link, ">; ")
		require.Equal(t, `rel="next"`, rest)
		target = strings.TrimPrefix(before, "<")
		require.Contains(t, target, "extra=1")
	}
	return all
}

func TestPagesThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, target := range []string{
		"/v1/declarations", "/v1/sets", "/v1/set-declarations/S", "/v1/declaration-sets/D", "/v1/enrollment-sets/E",
	} {
		for _, limit := range []string{"0", "-1", "10001", "x", "1.5", "", "99999999999999999999", "1&limit=1"} {
			s.do("GET", target+"?limit="+limit).fails(400, "limit: must be")
		}
		s.do("GET", target+"?after=a&after=b").fails(400, "after: must be given once")
		s.do("GET", target+"?after=%ff").fails(400, "after: must be valid UTF-8")
		s.do("GET", target+"?after=%f").fails(400, "query string")
		s.do("GET", target+"?limit=10000&after=").is(200).json(`[]`)
	}
}

// manySets has more sets than a page holds, and can fail behind the first.
type manySets struct {
	Store
	names []string
	fails bool
}

func (m manySets) SetNames(_ context.Context, page storage.Page) ([]string, error) {
	start, found := slices.BinarySearch(m.names, page.After)
	if found {
		start++
	}
	if m.fails && start > 0 {
		return nil, errors.New("the database went away")
	}
	return m.names[start:min(len(m.names), start+page.Limit)], nil
}

func TestALongListIsComplete(t *testing.T) {
	t.Parallel()
	for _, length := range []int{pageSize - 1, pageSize, pageSize + 1, 2 * pageSize, 3*pageSize + 7} {
		names := make([]string, length)
		for i := range names {
			names[i] = fmt.Sprintf("set <%06d>", i)
		}
		s := newServer(t, func(c *Config) { c.Store = manySets{Store: c.Store, names: names} })
		got := s.do("GET", "/v1/sets").is(200)
		var all []string
		require.NoError(t, json.Unmarshal([]byte(got.body), &all))
		require.Equal(t, names, all)
		require.Contains(t, got.body, `"set <000000>",`)
		s.do("HEAD", "/v1/sets").is(200).empty()
	}
}

// TestAListThatFailsHalfway must not end like a whole one.
func TestAListThatFailsHalfway(t *testing.T) {
	t.Parallel()
	names := make([]string, 3*pageSize)
	for i := range names {
		names[i] = fmt.Sprintf("set %06d", i)
	}
	s := newServer(t, func(c *Config) { c.Store = manySets{c.Store, names, true} })
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/v1/sets", nil)
	require.NoError(t, err)
	r.SetBasicAuth("", testKey)
	response, err := http.DefaultClient.Do(r)
	if err == nil {
		defer func() { _ = response.Body.Close() }()
		var all []string
		err = json.NewDecoder(response.Body).Decode(&all)
	}
	require.Error(t, err)
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "the database went away") },
		eventually, tick)
}
