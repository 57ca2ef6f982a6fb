package api

import (
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNotify(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.given("D")
	s.do("PUT", "/v1/set-declarations/S?declaration=D").is(204)
	for _, id := range []string{"E1", "E2", "E3", "E4"} {
		s.do("PUT", "/v1/enrollment-sets/"+id+"?set=none").is(204)
	}
	s.do("PUT", "/v1/enrollment-sets/E2?set=S").is(204)
	s.do("PUT", "/v1/enrollment-sets/E3?set=T").is(204)
	forced := func() (ids []string) {
		for {
			page, err := s.store.AdvanceFanout(t.Context(), 100)
			require.NoError(t, err)
			if page == nil {
				break
			}
		}
		for _, id := range []string{"E1", "E2", "E3", "E4", "new"} {
			if s.enrollment(id).Forced {
				ids = append(ids, id)
			}
		}
		return ids
	}
	require.Empty(t, forced())
	s.do("POST", "/v1/notify?declaration=D&set=unknown&declaration=unknown").is(204).empty()
	require.Equal(t, []string{"E2"}, forced())
	s.do("POST", "/v1/notify?id=E1&id=new&set=T").is(204).empty()
	require.Equal(t, []string{"E1", "E2", "E3", "new"}, forced())
	s.do("POST", "/v1/notify", form("id=E4&id=E4")).is(204).empty()
	require.Equal(t, []string{"E1", "E2", "E3", "E4", "new"}, forced())

	require.Contains(t, s.do("POST", "/v1/notify?id=E1&verbose=1").is(200).body, `"changed":true`)
	require.Contains(t, s.do("POST", "/v1/notify?id=E1", header("Accept", "application/json"),
		form("set=S")).is(200).body, `"warnings":[]`)
	warnings := s.do("POST", "/v1/notify?verbose=1&id=E1&id=typo&set=S&set=nosuch&declaration=D&declaration=nothing",
		form("set=a&set=b&set=c&set=d&set=e&set=f")).is(200)
	require.Contains(t, warnings.body, `"changed":true`)
	require.Contains(t, warnings.body, `"warnings":["declaration: does not exist: nothing",`+
		`"set: no enrollment has it: a, b, c, d, e and 2 more","id: was not known: typo"]`)
	require.Contains(t, s.do("POST", "/v1/notify?verbose=1&id=typo").is(200).body, `"warnings":[]`)
	require.Eventually(t, func() bool {
		return strings.Contains(s.log.String(), `"declaration":"D, unknown","set":"unknown"`)
	}, eventually, tick)
}

func TestNotificationsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("POST", "/v1/notify").fails(400, "declaration, set, id: ")
	s.do("POST", "/v1/notify?ids=E").fails(400, "declaration, set, id: ")
	s.do("POST", "/v1/notify", form("")).fails(400, "declaration, set, id: ")
	s.do("POST", "/v1/notify", body("id=E")).fails(400, "declaration, set, id: ")
	s.do("POST", "/v1/notify?id=E", form("id=%zz")).fails(400, "body: ")
	s.do("POST", "/v1/notify?id=%zz").fails(400, "query string")
	s.do("POST", "/v1/notify?id=A,B").fails(400, "id: ", "comma")
	s.do("POST", "/v1/notify?id=E&id=").fails(400, "id: must not be empty")
	s.do("POST", "/v1/notify?id=E&set=").fails(400, "set: must not be empty")
	s.do("POST", "/v1/notify?id=E&declaration=").fails(400, "declaration: must not be empty")
	s.do("POST", "/v1/notify?id=E&declaration=a%3Fb").fails(400, "declaration: ", "?")
	s.do("POST", "/v1/notify?id=%ff").fails(400, "id: must be valid UTF-8")
	for name, text := range badNames {
		s.do("POST", "/v1/notify?id=E&id="+url.QueryEscape(name)).fails(400, "id: ", text)
		s.do("POST", "/v1/notify?id=E", form("set="+url.QueryEscape(name))).fails(400, "set: ", text)
		s.do("POST", "/v1/notify?id=E&declaration="+url.QueryEscape(name)).fails(400, "declaration: ", text)
	}
	require.False(t, s.enrollment("E").Known)
	require.Zero(t, s.woken.Load())
}

func TestHowManyANotificationNames(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	names := make([]string, maxTargets-1)
	for i := range names {
		names[i] = "set=S" + strconv.Itoa(i)
	}
	s.do("POST", "/v1/notify?id=E", form(strings.Join(names, "&"))).is(204)
	s.do("POST", "/v1/notify?id=E&id=F", form(strings.Join(names, "&"))).fails(400, "declaration, set, id: ", "10000")
	fits := "id=E&x=" + strings.Repeat("x", maxTargetBytes-len("id=E&x="))
	s.do("POST", "/v1/notify", form(fits)).is(204)
	s.do("POST", "/v1/notify", form(fits+"x")).fails(413, "4194304")
	s.do("POST", "/v1/notify", form(""), chunked(fits+"x")).fails(413, "4194304")
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "and 9994 more") }, eventually, tick)
}
