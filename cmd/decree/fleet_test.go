package main

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// summary is what the API says of how far a declaration is.
type summary struct {
	ServerToken                                        string `json:"server_token"`
	Assigned, Current, Active, Valid, Invalid, Pending int
	AsOf                                               string `json:"as_of"`
}

func (s *server) summary(identifier string) (found summary) {
	s.t.Helper()
	s.get("/v1/declaration-summary/"+identifier, &found)
	return found
}

// waitSummary waits until the numbers of a declaration are as they should be.
func (s *server) waitSummary(identifier, wanted string) {
	s.t.Helper()
	s.eventually(func() bool {
		found := s.summary(identifier)
		return wanted == fmt.Sprint(found.Assigned, found.Current, found.Active, found.Valid, found.Invalid, found.Pending)
	}, "the summary %s of %s", wanted, identifier)
}

func (s *server) declarationToken(identifier string) string {
	s.t.Helper()
	var declaration struct{ ServerToken string }
	s.get("/v1/declarations/"+identifier, &declaration)
	return declaration.ServerToken
}

// saying has a device report what it says of a declaration, and its OS version.
func (s *server) saying(id, identifier, token, valid, reasons, version string) {
	s.t.Helper()
	code, text := s.device(id, http.MethodPut, "/status", fmt.Sprintf(`{"StatusItems":{
		"device":{"operating-system":{"version":%q}},"management":{"declarations":{"configurations":[
		{"identifier":%q,"server-token":%q,"active":%t,"valid":%q,"reasons":%s}]}}}}`,
		version, identifier, token, valid == "valid", valid, reasons))
	require.Equal(s.t, http.StatusOK, code, string(text))
}

// TestQuestionsAboutTheFleet is the story of a declaration on its way to a fleet, as an admin sees it.
func TestQuestionsAboutTheFleet(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, flags...)
		s.putTest("passcode", "first")
		s.addToSet("base", "passcode")
		s.waitSummary("passcode", "0 0 0 0 0 0")
		for i := range 4 {
			s.assign(fmt.Sprint("MAC-", i), "base")
		}
		s.waitSummary("passcode", "4 0 0 0 0 4")

		token := s.declarationToken("passcode")
		s.saying("MAC-0", "passcode", token, "valid", `[]`, "15.9")
		s.saying("MAC-1", "passcode", token, "valid", `[]`, "15.10")
		s.saying("MAC-2", "passcode", token, "invalid", `[{"code":"Error.Bad"}]`, "15.9")
		s.waitSummary("passcode", "4 3 2 2 1 1")
		require.Equal(t, token, s.summary("passcode").ServerToken)
		require.NotEmpty(t, s.summary("passcode").AsOf)

		var listed []struct {
			ID           string `json:"id"`
			EnrollmentID string `json:"enrollment_id"`
			Value        string
			Code         string
			Count        int
		}
		s.get("/v1/declaration-enrollments/passcode?state=invalid", &listed)
		require.Len(t, listed, 1)
		require.Equal(t, "MAC-2", listed[0].EnrollmentID)
		s.get("/v1/problems", &listed)
		require.Len(t, listed, 1)
		require.Equal(t, "Error.Bad", listed[0].Code)
		s.get("/v1/status-summary?path=.StatusItems.device.operating-system.version", &listed)
		require.Len(t, listed, 2)
		require.Equal(t, "15.9", listed[0].Value)
		require.Equal(t, 2, listed[0].Count)
		s.get("/v1/enrollments?os_version_lt=15.10", &listed)
		require.Len(t, listed, 2)

		// A new version is on no device, until they report it. A restart forgets what was to be counted, and counts all.
		s.putTest("passcode", "second")
		s.restart()
		s.waitSummary("passcode", "4 0 0 0 0 4")
		s.saying("MAC-2", "passcode", s.declarationToken("passcode"), "valid", `[]`, "15.9")
		s.waitSummary("passcode", "4 1 1 1 0 3")
		s.get("/v1/problems", &listed)
		require.Empty(t, listed)
		s.change(http.MethodDelete, "/v1/enrollments/MAC-3", "")
		s.waitSummary("passcode", "3 1 1 1 0 2")

		var declarations []struct {
			Identifier string
			Sets       []string
			Wanted     bool
			Status     []struct{ Current bool }
		}
		s.change(http.MethodDelete, "/v1/enrollment-sets/MAC-0?set=base", "")
		s.get("/v1/enrollment-declarations/MAC-0", &declarations)
		require.Len(t, declarations, 1)
		require.False(t, declarations[0].Wanted, "it is left over")
		s.get("/v1/enrollment-declarations/MAC-1", &declarations)
		require.Equal(t, []string{"base"}, declarations[0].Sets)
		require.False(t, declarations[0].Status[0].Current)
	})
}
