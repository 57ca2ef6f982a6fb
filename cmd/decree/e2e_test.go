package main

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// nanoMDMs are the backends of the real NanoMDM that a device is behind.
var nanoMDMs = map[string]nanomdmtest.Option{
	"file":       nanomdmtest.WithFileStorage(),
	"PostgreSQL": nanomdmtest.WithPostgres(),
}

// beside starts Decree beside a NanoMDM: each is told where the other is.
func beside(t *testing.T, nano *nanomdmtest.Server, flags []string) *server {
	s := startDecree(t, append(flags, "-enqueue", nano.EnqueueURL(), "-enqueue-key", nano.APIKey())...)
	nano.SetDM(s.url + "/")
	return s
}

// withEvents is beside, and Decree gets NanoMDM's events.
func withEvents(t *testing.T, nano *nanomdmtest.Server, flags []string) *server {
	s := beside(t, nano, flags)
	nano.SetWebhook(s.url + "/webhook")
	return s
}

type declarationStatus struct {
	Identifier  string `json:"identifier"`
	Active      bool   `json:"active"`
	Valid       string `json:"valid"`
	Current     bool   `json:"current"`
	ServerToken string `json:"server-token"`
}

func (s *server) declarationStatus(id string) map[string]declarationStatus {
	s.t.Helper()
	var answer map[string][]declarationStatus
	s.get("/v1/declaration-status/"+id, &answer)
	statuses := map[string]declarationStatus{}
	for _, status := range answer[id] {
		statuses[status.Identifier] = status
	}
	return statuses
}

// TestEndToEnd is the main job, from a REST call to a device behind a real NanoMDM and back.
func TestEndToEnd(t *testing.T) {
	for name, backend := range nanoMDMs {
		t.Run(name, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, flags []string) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				nano := nanomdmtest.Start(t, backend)
				s := beside(t, nano, flags)
				device := nano.NewDevice(t)
				require.NoError(t, device.Enroll(ctx))

				s.putTest("test.echo", "first")
				s.putDeclaration("test.activation", "com.apple.activation.simple", `{"StandardConfigurations":["test.echo"]}`)
				s.addToSet("base", "test.echo")
				s.addToSet("base", "test.activation")
				s.assign(device.ID(), "base")

				// The command waits in NanoMDM's queue, with the tokens of this enrollment.
				require.NoError(t, device.WaitPush(ctx))
				enqueued := nano.Enqueued()
				require.Len(t, enqueued, 1)
				require.Equal(t, []string{device.ID()}, enqueued[0].IDs)
				require.Equal(t, "DeclarativeManagement", enqueued[0].RequestType)
				first := s.token(device.ID())
				requireTokens(t, first, enqueued[0].Data)
				require.False(t, s.enrollment(device.ID()).InSync)

				// The device syncs through NanoMDM.
				require.NoError(t, device.Poll(ctx))
				require.Equal(t, []string{
					"declaration-items",
					"declaration/activation/test.activation", "declaration/configuration/test.echo",
					"tokens", "status",
				}, device.Trace())
				require.Equal(t, first, device.DeclarationsToken())
				s.waitInSync(device.ID())
				status := s.declarationStatus(device.ID())
				require.Len(t, status, 2)
				for identifier, d := range status {
					require.True(t, d.Active && d.Current && d.Valid == "valid", "%s: %+v", identifier, d)
				}

				// A change happens in the same way.
				device.Run(ctx)
				s.putTest("test.echo", "second")
				second := s.token(device.ID())
				require.NotEqual(t, first, second)
				require.NoError(t, device.WaitSync(ctx, second))
				s.waitInSync(device.ID())
				require.Contains(t, string(device.Declarations()["test.echo"].JSON), `{"Echo":"second"}`)
				require.True(t, s.declarationStatus(device.ID())["test.echo"].Current)

				// Without its set the device ends with nothing.
				s.change(http.MethodDelete, "/v1/enrollment-sets/"+device.ID()+"?set=base", "")
				require.NoError(t, device.WaitSync(ctx, s.token(device.ID())))
				s.waitInSync(device.ID())
				require.Empty(t, device.Declarations())
				require.Empty(t, s.declarationStatus(device.ID()))
				require.NoError(t, device.LastError())
				require.Len(t, nano.Enqueued(), 3, "each change took one command")
			})
		})
	}
}

// requireTokens checks that Data is the body of a tokens answer with this token.
func requireTokens(t *testing.T, token string, data []byte) {
	t.Helper()
	var tokens struct {
		SyncTokens struct{ DeclarationsToken, Timestamp string }
	}
	require.NoError(t, json.Unmarshal(data, &tokens))
	require.Equal(t, token, tokens.SyncTokens.DeclarationsToken)
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, tokens.SyncTokens.Timestamp)
}

// TestWhoIsTold checks that a change tells the enrollments that it reaches, each once, and nobody else.
func TestWhoIsTold(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		nano := nanomdmtest.Start(t)
		s := beside(t, nano, flags)
		ids := []string{"enroll_1", "enroll_2", "enroll_3"}
		devices := map[string]*nanomdmtest.Device{}
		for _, id := range ids {
			devices[id] = nano.NewDeviceWithID(t, id)
			require.NoError(t, devices[id].Enroll(ctx))
			devices[id].Run(ctx)
		}
		for _, decl := range []string{"decl_1", "decl_2", "decl_3", "decl_4", "decl_5", "decl_6"} {
			s.putTest(decl, "first")
		}
		for set, members := range map[string][]string{
			"set_1": {"decl_1", "decl_2"}, "set_2": {"decl_3"}, "set_3": {"decl_3", "decl_4"}, "set_4": {"decl_5"},
		} {
			for _, decl := range members {
				s.addToSet(set, decl)
			}
		}
		for id, sets := range map[string][]string{
			"enroll_1": {"set_1"}, "enroll_2": {"set_1", "set_2"}, "enroll_3": {"set_3", "set_4"},
		} {
			for _, set := range sets {
				s.assign(id, set)
			}
		}
		settled := func() {
			t.Helper()
			for _, id := range ids {
				require.NoError(t, devices[id].WaitSync(ctx, s.token(id)))
			}
			s.waitIdle(ids...)
		}
		settled()

		changeDeclaration := func(decl string) func() { return func() { s.putTest(decl, "second") } }
		changeSet := func(set string) func() { return func() { s.addToSet(set, "decl_6") } }
		for _, story := range []struct {
			name   string
			change func()
			told   []string
		}{
			{"decl_1", changeDeclaration("decl_1"), []string{"enroll_1", "enroll_2"}},
			{"decl_2", changeDeclaration("decl_2"), []string{"enroll_1", "enroll_2"}},
			{"decl_3", changeDeclaration("decl_3"), []string{"enroll_2", "enroll_3"}},
			{"decl_4", changeDeclaration("decl_4"), []string{"enroll_3"}},
			{"decl_5", changeDeclaration("decl_5"), []string{"enroll_3"}},
			{"decl_6, which is in no set", changeDeclaration("decl_6"), nil},
			{"set_1", changeSet("set_1"), []string{"enroll_1", "enroll_2"}},
			{"set_3", changeSet("set_3"), []string{"enroll_3"}},
			// Both of its sets hold decl_6 from here on, so it stays where it is for enroll_3.
			{"set_4, which alters nobody's token", changeSet("set_4"), nil},
			{"set_2, which alters nobody's token", changeSet("set_2"), nil},
			{"a set that nobody has", changeSet("set_5"), nil},
		} {
			before := len(nano.Enqueued())
			story.change()
			settled()
			var told []string
			for _, command := range nano.Enqueued()[before:] {
				told = append(told, command.IDs...)
			}
			require.ElementsMatch(t, story.told, told, story.name)
		}
	})
}
