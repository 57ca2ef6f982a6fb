package main

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
)

// agreedToken is an enrollment's token, once tokens, the manifest and a computation from the manifest agree in it.
func (s *server) agreedToken(enrollmentID string) string {
	s.t.Helper()
	token := s.token(enrollmentID)
	inManifest, items := s.manifest(enrollmentID)
	require.Equal(s.t, token, inManifest)
	require.Equal(s.t, token, ddm.DeclarationsToken(items))
	return token
}

func (s *server) agreedTokens(enrollmentIDs ...string) map[string]string {
	s.t.Helper()
	tokens := map[string]string{}
	for _, id := range enrollmentIDs {
		tokens[id] = s.agreedToken(id)
	}
	return tokens
}

// TestTokensAreOfContentAlone checks that a DeclarationsToken tells what an enrollment gets, and nothing of how, when
// and where that came to be.
func TestTokensAreOfContentAlone(t *testing.T) {
	sets := [][]string{{"a", "d.1", "d.2"}, {"b", "d.3"}, {"c", "d.1", "d.2", "d.3"}}
	assignments := [][]string{
		{"by two sets", "a", "b"}, {"by one set", "c"}, {"by all sets", "a", "b", "c"}, {"less", "a"}, {"nothing", "empty"},
	}
	var ids []string
	for _, assignment := range assignments {
		ids = append(ids, assignment[0])
	}
	steps := func(s *server) (declarations, rest []func()) {
		for _, identifier := range []string{"d.1", "d.2", "d.3"} {
			declarations = append(declarations, func() { s.putTest(identifier, "first") })
		}
		for _, set := range sets {
			for _, identifier := range set[1:] {
				rest = append(rest, func() { s.addToSet(set[0], identifier) })
			}
		}
		for _, assignment := range assignments {
			for _, set := range assignment[1:] {
				rest = append(rest, func() { s.assign(assignment[0], set) })
			}
		}
		return declarations, rest
	}

	sameOnEachDatabase(t, func(t *testing.T, flags []string) map[string]string {
		s := startDecree(t, flags...)
		declarations, rest := steps(s)
		for _, step := range slices.Concat(declarations, rest) {
			step()
		}
		tokens := s.agreedTokens(ids...)
		require.Equal(t, tokens["by two sets"], tokens["by one set"])
		require.Equal(t, tokens["by two sets"], tokens["by all sets"])
		require.NotEqual(t, tokens["by two sets"], tokens["less"])
		require.Equal(t, ddm.DeclarationsToken(nil), tokens["nothing"])
		require.Equal(t, tokens["nothing"], s.agreedToken("an unknown enrollment"))

		backwards := startDecree(t, databaseOfKind(t, flags)...)
		declarations, rest = steps(backwards)
		slices.Reverse(declarations)
		slices.Reverse(rest)
		for _, step := range slices.Concat(declarations, rest) {
			step()
		}
		require.Equal(t, tokens, backwards.agreedTokens(ids...), "made in another order")

		s.restart()
		require.Equal(t, tokens, s.agreedTokens(ids...), "after a restart")

		if onMySQL(flags) {
			other := startDecree(t, flags...)
			require.Equal(t, tokens, other.agreedTokens(ids...), "on another server")
			s.putTest("d.1", "second")
			require.NotEqual(t, tokens["less"], other.agreedToken("less"), "another server's change, at once")
			require.Equal(t, s.agreedTokens(ids...), other.agreedTokens(ids...))
			other.putTest("d.1", "first")
			require.Equal(t, tokens, s.agreedTokens(ids...))
		}
		return tokens
	})
}

// databaseOfKind returns the flags for a new database of the kind that other flags are for.
func databaseOfKind(t *testing.T, flags []string) []string {
	for _, db := range databases() {
		if (db.name == "MySQL") == onMySQL(flags) {
			return db.flags(t)
		}
	}
	panic("no such database")
}

// TestTokenOfUndoneChange checks that what is undone leaves no trace in the token, and that a touch does.
func TestTokenOfUndoneChange(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, flags...)
		s.putTest("d.1", "first")
		s.putTest("d.2", "first")
		s.addToSet("a", "d.1")
		s.addToSet("b", "d.2")
		s.assign("one", "a")
		token := s.agreedToken("one")
		for _, undone := range []struct {
			name         string
			change, undo func()
		}{
			{"another payload", func() { s.putTest("d.1", "second") }, func() { s.putTest("d.1", "first") }},
			{
				"another type",
				func() { s.putDeclaration("d.1", "com.apple.management.properties", `{"Echo":"first"}`) },
				func() { s.putTest("d.1", "first") },
			},
			{
				"a declaration more", func() { s.addToSet("a", "d.2") },
				func() { s.change(http.MethodDelete, "/v1/set-declarations/a?declaration=d.2", "") },
			},
			{
				"a set more", func() { s.assign("one", "b") },
				func() { s.change(http.MethodDelete, "/v1/enrollment-sets/one?set=b", "") },
			},
			{
				"no sets", func() { s.change(http.MethodDelete, "/v1/enrollment-sets-all/one", "") },
				func() { s.assign("one", "a") },
			},
			{
				"a declaration deleted and made anew",
				func() {
					s.change(http.MethodDelete, "/v1/set-declarations/a?declaration=d.1", "")
					s.change(http.MethodDelete, "/v1/declarations/d.1", "")
				},
				func() {
					s.putTest("d.1", "first")
					s.addToSet("a", "d.1")
				},
			},
		} {
			undone.change()
			require.NotEqual(t, token, s.agreedToken("one"), undone.name)
			undone.undo()
			require.Equal(t, token, s.agreedToken("one"), undone.name)
		}

		code, text := s.do(http.MethodPut, "/v1/declarations",
			`{ "Payload": {"Echo" : "first"}, "Type": "com.apple.configuration.management.test", "Identifier": "d.1" }`)
		require.Equal(t, http.StatusNotModified, code, "%s", text)
		require.Equal(t, token, s.agreedToken("one"), "another order of keys")

		seen := []string{token}
		for range 3 {
			s.change(http.MethodPost, "/v1/declarations/d.1/touch", "")
			touched := s.agreedToken("one")
			require.NotContains(t, seen, touched, "touched")
			seen = append(seen, touched)
		}
	})
}

// TestTimestampOfTokens checks that the Timestamp says when the newest part of what an enrollment gets changed.
func TestTimestampOfTokens(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, flags...)
		timestamp := func() time.Time {
			var tokens struct {
				SyncTokens struct{ Timestamp string }
			}
			s.observe("one", "/tokens", &tokens)
			require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, tokens.SyncTokens.Timestamp)
			timestamp, err := time.Parse(time.RFC3339, tokens.SyncTokens.Timestamp)
			require.NoError(t, err)
			return timestamp
		}
		s.putTest("d.1", "first")
		s.putTest("d.2", "first")
		s.addToSet("b", "d.2")
		s.assign("one", "a")
		before := time.Now().Truncate(time.Second)
		s.addToSet("a", "d.1")
		changed := timestamp()
		require.False(t, changed.Before(before), "%v is before %v", changed, before)
		require.False(t, changed.After(time.Now()))

		s.eventually(func() bool { return time.Now().After(changed.Add(time.Second)) }, "the next second")
		require.Equal(t, changed, timestamp(), "it is not the time of the request")
		s.putTest("d.2", "second")
		require.Equal(t, changed, timestamp(), "it is not the time of another change")
		s.restart()
		require.Equal(t, changed, timestamp(), "it is not the time of the start")
		s.putTest("d.1", "second")
		require.True(t, timestamp().After(changed))
	})
}
