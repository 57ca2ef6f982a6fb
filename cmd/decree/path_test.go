package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// TestDeviceChoosesPath checks that a device, which can make NanoMDM ask for any path, gets nowhere by it.
func TestDeviceChoosesPath(t *testing.T) {
	for name, keys := range map[string]*hmacKeys{"without keys": nil, "with keys": {"webhook", "to Decree", "from Decree"}} {
		t.Run(name, func(t *testing.T) { deviceChoosesPath(t, keys) })
	}
}

func deviceChoosesPath(t *testing.T, keys *hmacKeys) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		nano := nanomdmtest.Start(t, append(keys.ofNanoMDM(), nanomdmtest.WithMemoryStorage())...)
		s := beside(t, nano, append(flags, keys.ofDecree()...))
		elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("NanoMDM sent a password elsewhere: %v", r.Header)
			}
			w.WriteHeader(http.StatusTeapot)
		}))
		defer elsewhere.Close()
		device, other := nano.NewDevice(t), nano.NewDevice(t)
		require.NoError(t, device.Enroll(ctx))
		require.NoError(t, other.Enroll(ctx))
		for _, name := range []string{"mine", "theirs"} {
			s.putTest("test."+name, "secret of "+name)
			s.addToSet("set-of-"+name, "test."+name)
		}
		s.assign(device.ID(), "set-of-mine")
		s.assign(other.ID(), "set-of-theirs")
		for _, d := range []*nanomdmtest.Device{device, other} {
			require.NoError(t, d.WaitPush(ctx))
			require.NoError(t, d.Poll(ctx))
		}
		s.waitIdle(device.ID(), other.ID())
		own, err := device.DeclarativeManagement(ctx, "tokens", nil)
		require.NoError(t, err)
		before := s.content()

		for _, endpoint := range []string{"tokens?x=1", "./tokens", "x/../tokens", "/tokens", "tokens#x", "../../tokens"} {
			answer, err := device.DeclarativeManagement(ctx, endpoint, nil)
			require.NoError(t, err, endpoint)
			require.Equal(t, string(own), string(answer), endpoint)
		}
		for _, endpoint := range []string{"../version", "/version"} {
			answer, err := device.DeclarativeManagement(ctx, endpoint, nil)
			if keys != nil {
				require.Error(t, err, "what is not for devices is not signed")
				continue
			}
			require.NoError(t, err, endpoint)
			require.JSONEq(t, `{"version":"unknown"}`, string(answer), endpoint)
		}
		host := strings.TrimPrefix(s.url, "http:")
		for _, endpoint := range []string{
			"../v1/sets", "/v1/sets", "v1/sets", "%2e%2e/v1/sets", "v1%2fsets", "/v1/declarations",
			"/v1/declarations/test.theirs", "/v1/enrollments/" + other.ID(), "/v1/status-values/" + other.ID(),
			"/v1/enrollment-sets/" + device.ID() + "?set=set-of-theirs",
			"/v1/set-declarations/set-of-mine?declaration=test.theirs", "/v1/notify", "/v1/notify?id=" + other.ID(),
			"declaration/configuration/../../v1/sets", "declaration/configuration/..%2f..%2fv1%2fsets",
			"declaration/configuration/test.theirs", "declaration//test.theirs", "declaration/configuration/%2e%2e/x",
			"", ".", "..", "/", "//", "status/", "tokens/", "webhook", "/webhook", "../webhook", "/metrics", "/debug/pprof/", "/healthz",
			host + "/v1/sets", "//decree:guess@" + strings.TrimPrefix(host, "//") + "/v1/sets",
			strings.TrimPrefix(elsewhere.URL, "http:") + "/v1/sets", "http:" + host + "/v1/sets",
		} {
			for _, data := range []string{
				"", declarationJSON("test.evil", "com.apple.configuration.management.test", "{}"),
				`{"topic":"mdm.CheckOut","checkin_event":{"ids":{"id":"` + other.ID() + `"}}}`,
			} {
				answer, err := device.DeclarativeManagement(ctx, endpoint, []byte(data))
				require.Error(t, err, "%q: %s", endpoint, answer)
				var refused *nanomdmtest.AnswerError
				require.True(t, errors.As(err, &refused), "%q: %v", endpoint, err)
				for _, secret := range []string{"set-of-", "secret", "test.theirs", other.ID(), testKey} {
					require.NotContains(t, strings.ReplaceAll(string(refused.Body), endpoint, ""), secret, "%q", endpoint)
				}
			}
		}
		require.Equal(t, before, s.content())
	})
}
