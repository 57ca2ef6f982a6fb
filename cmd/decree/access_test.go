package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDeviceGetsItsOwn checks what a device can fetch: the declarations of its own sets, and for a day those of the
// manifest that it fetched.
func TestDeviceGetsItsOwn(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, flags...)
		for _, name := range []string{"mine", "theirs"} {
			s.putTest("test."+name, "secret of "+name)
			s.addToSet(name, "test."+name)
			s.assign("device of "+name, name)
		}
		const mine = "/declaration/configuration/test.mine"
		requireStatus := func(status int, device, path, why string) {
			t.Helper()
			code, text := s.device(device, http.MethodGet, path, "")
			require.Equal(t, status, code, "%s: %s", why, text)
			if status != http.StatusOK {
				require.NotContains(t, string(text), "test.", "an error tells nothing")
			}
		}
		requireStatus(http.StatusOK, "device of mine", mine, "its own")
		requireStatus(http.StatusNotFound, "device of theirs", mine, "another's")
		requireStatus(http.StatusNotFound, "device of nobody", mine, "of an enrollment without sets")
		for _, path := range []string{
			"/declaration/activation/test.mine", "/declaration/asset/test.mine", "/declaration/management/test.mine",
			"/declaration/configurations/test.mine", "/declaration/Configuration/test.mine", "/declaration/x/test.mine",
		} {
			requireStatus(http.StatusNotFound, "device of mine", path, "another class")
		}
		for _, path := range []string{
			"/declaration/configuration/test.none", "/declaration/configuration/TEST.MINE", "/declaration/configuration/",
			mine + "/", mine + "%20", mine + "%00", mine + "%ff",
		} {
			code, text := s.device("device of mine", http.MethodGet, path, "")
			require.Contains(t, []int{http.StatusNotFound, http.StatusBadRequest}, code, "%s: %s", path, text)
		}

		// A manifest that was fetched is a promise to this device, for a day.
		code, _ := s.device("device of mine", http.MethodGet, "/declaration-items", "")
		require.Equal(t, http.StatusOK, code)
		s.change(http.MethodDelete, "/v1/set-declarations/mine?declaration=test.mine", "")
		s.change(http.MethodDelete, "/v1/declarations/test.mine", "")
		requireStatus(http.StatusOK, "device of mine", mine, "of the manifest that it fetched")
		requireStatus(http.StatusNotFound, "device of theirs", mine, "of a manifest that another fetched")
		_, err := s.database.Exec(`UPDATE enrollments SET fetched_at = fetched_at - ?`, (26 * time.Hour).Microseconds())
		require.NoError(t, err)
		requireStatus(http.StatusNotFound, "device of mine", mine, "of the manifest that it fetched yesterday")
	})
}

// TestDeviceWithoutName checks that nothing is answered to whoever no MDM names, and nothing written.
func TestDeviceWithoutName(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, flags...)
		s.putTest("test.mine", "mine")
		s.addToSet("mine", "test.mine")
		s.assign("device", "mine")
		s.waitFanouts()
		before := s.content()
		for _, id := range []string{"", "two,ids", strings.Repeat("x", 256), "de\tvice", "..", "\xff"} {
			for _, path := range []string{"/tokens", "/declaration-items", "/declaration/configuration/test.mine", "/status"} {
				method, body := http.MethodGet, ""
				if path == "/status" {
					method, body = http.MethodPut, `{"StatusItems":{}}`
				}
				request, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
				require.NoError(t, err)
				if id != "" {
					request.Header.Set("X-Enrollment-ID", id)
				}
				code, text := s.send(request)
				require.Equal(t, http.StatusBadRequest, code, "%q %s: %s", id, path, text)
			}
		}
		for _, path := range []string{"/tokens", "/declaration-items"} {
			code, text := s.device("never seen", http.MethodGet, path, "")
			require.Equal(t, http.StatusOK, code, "%s", text)
		}
		code, _ := s.do(http.MethodGet, "/v1/enrollments/never%20seen", "")
		require.Equal(t, http.StatusNotFound, code)
		require.Equal(t, before, s.content())
	})
}

// TestObserving checks that looking leaves no trace.
func TestObserving(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, flags...)
		s.putTest("test.mine", "mine")
		s.addToSet("mine", "test.mine")
		s.assign("device", "mine")
		s.waitFanouts()
		before := s.content()
		for _, id := range []string{"device", "never seen"} {
			var answer any
			s.observe(id, "/tokens", &answer)
			s.observe(id, "/declaration-items", &answer)
			s.token(id)
			s.agreedToken(id)
		}
		var declaration struct{ Identifier string }
		s.observe("device", "/declaration/configuration/test.mine", &declaration)
		require.Equal(t, "test.mine", declaration.Identifier)
		require.Equal(t, before, s.content())

		request, err := http.NewRequest(http.MethodPut, s.url+"/status", strings.NewReader(`{"StatusItems":{}}`))
		require.NoError(t, err)
		request.Header.Set("X-Enrollment-ID", "device")
		request.Header.Set("X-Decree-Observe", "1")
		code, text := s.send(request)
		require.Equal(t, http.StatusBadRequest, code, "%s", text)
		require.Equal(t, before, s.content())

		code, _ = s.device("device", http.MethodGet, "/tokens", "")
		require.Equal(t, http.StatusOK, code)
		require.NotEqual(t, before, s.content(), "a device leaves a trace")
	})
}
