package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// TestEnrollSets checks that a device that enrolls is managed without a call of the API, and its user as well.
func TestEnrollSets(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		nano := nanomdmtest.Start(t, nanomdmtest.WithFileStorage())
		s := withEvents(t, nano, append(flags, "-enroll-sets", "all,Device=base,User=base-user"))
		for _, name := range []string{"all", "base", "base-user", "special"} {
			s.putTest("test."+name, "first")
			s.addToSet(name, "test."+name)
		}
		device, special := nano.NewDevice(t), nano.NewDevice(t)
		s.assign(special.ID(), "special")
		user := device.NewUserChannel()
		for _, d := range []*nanomdmtest.Device{device, special, user} {
			require.NoError(t, d.Enroll(ctx))
			d.Run(ctx)
		}
		for d, sets := range map[*nanomdmtest.Device][]string{
			device: {"all", "base"}, user: {"all", "base-user"}, special: {"special"},
		} {
			s.eventually(func() bool {
				_, items := s.manifest(d.ID())
				return len(items) == len(sets)
			}, "sets of %s", d.ID())
			require.Equal(t, sets, s.enrollment(d.ID()).Sets)
			require.NoError(t, d.WaitSync(ctx, s.token(d.ID())))
			s.waitInSync(d.ID())
			require.Len(t, d.Declarations(), len(sets))
		}
		require.Equal(t, device.ID(), s.enrollment(user.ID()).ParentID)
	})
}

// startRelay forwards events to Decree, but for those that it loses, and returns its URL.
func startRelay(t *testing.T, decree string, lose func(body string) bool) string {
	target, err := url.Parse(decree)
	require.NoError(t, err)
	forward := httputil.NewSingleHostReverseProxy(target)
	relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || lose(string(body)) {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(relay.Close)
	return relay.URL + "/webhook"
}

// waitFirstToken waits until a TokenUpdate has come that is counted as the first.
func waitFirstToken(ctx context.Context, s *server) {
	for n := 0; n == 0 && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		_ = s.database.QueryRowContext(ctx, `SELECT COUNT(*) FROM enrollments WHERE token_tally = 1`).Scan(&n)
	}
}

// TestEnrollAgain checks that a device that was in sync is told when it enrolls again, although nothing has changed, and
// is not told when it only has a new push token.
func TestEnrollAgain(t *testing.T) {
	for name, topics := range map[string]string{
		"all events": "", "reordered": "", "no Authenticate": "mdm.Authenticate", "no TokenUpdate": "mdm.TokenUpdate",
	} {
		t.Run(name, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, flags []string) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
				defer cancel()
				nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
				s := withEvents(t, nano, flags)
				var lost atomic.Int64
				mailbox := startRelay(t, s.url, func(body string) bool {
					if name == "reordered" && strings.Contains(body, `"mdm.Authenticate"`) {
						waitFirstToken(ctx, s)
					}
					lose := topics != "" && strings.Contains(body, `"`+topics+`"`)
					if lose {
						lost.Add(1)
					}
					return lose
				})
				s.putTest("test.a", "first")
				s.addToSet("base", "test.a")
				device := nano.NewDevice(t)
				s.assign(device.ID(), "base")
				require.NoError(t, device.Enroll(ctx))
				device.Run(ctx)
				require.NoError(t, device.WaitSync(ctx, s.token(device.ID())))
				s.waitIdle(device.ID())

				before := len(nano.Enqueued())
				require.NoError(t, device.TokenUpdate(ctx))
				s.waitIdle(device.ID())
				require.Len(t, nano.Enqueued(), before, "a new push token is no enrollment")

				nano.SetWebhook(mailbox)
				require.NoError(t, device.Enroll(ctx))
				require.Empty(t, device.Declarations())
				if topics != "" {
					s.eventually(func() bool { return lost.Load() == 1 }, "the event to be lost")
				}
				if topics == "mdm.TokenUpdate" {
					// It is told all the same, when its TokenUpdate has been waited for.
					s.eventually(func() bool { return s.enrollment(device.ID()).NotifyAt != "" }, "the mark")
					_, err := s.database.Exec(`UPDATE enrollments SET notify_at = 0`)
					require.NoError(t, err)
				}
				require.NoError(t, device.WaitSync(ctx, s.token(device.ID())))
				s.waitIdle(device.ID())
				require.Contains(t, device.Declarations(), "test.a")
				require.Len(t, nano.Enqueued(), before+1, "with one command")

				require.NoError(t, device.TokenUpdate(ctx))
				s.waitIdle(device.ID())
				require.Len(t, nano.Enqueued(), before+1)
			})
		})
	}
}

// TestCheckOut checks that nobody tells a device that has left, and that its sets are still there when it comes back, or
// gone if that is wanted.
func TestCheckOut(t *testing.T) {
	for _, sets := range []string{"keep", "remove"} {
		t.Run(sets, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, flags []string) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
				defer cancel()
				nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
				s := withEvents(t, nano, append(flags, "-checkout-sets", sets))
				s.putTest("test.a", "first")
				s.addToSet("base", "test.a")
				device, user := nano.NewDevice(t), (*nanomdmtest.Device)(nil)
				require.NoError(t, device.Enroll(ctx))
				user = device.NewUserChannel()
				require.NoError(t, user.Enroll(ctx))
				for _, d := range []*nanomdmtest.Device{device, user} {
					s.assign(d.ID(), "base")
					d.Run(ctx)
					require.NoError(t, d.WaitSync(ctx, s.token(d.ID())))
				}
				s.waitIdle(device.ID(), user.ID())
				require.NoError(t, device.CheckOut(ctx))
				s.eventually(func() bool {
					return s.count(`SELECT COUNT(*) FROM enrollments WHERE left_at IS NOT NULL`) == 2
				}, "the device and its user to leave")
				before := len(nano.Enqueued())
				s.putTest("test.a", "second")
				s.waitQuiet()
				require.Len(t, nano.Enqueued(), before)

				require.NoError(t, device.Enroll(ctx))
				if sets == "remove" {
					s.eventually(func() bool {
						return s.count(`SELECT COUNT(*) FROM enrollments WHERE left_at IS NOT NULL`) == 1
					}, "the device to come back")
					require.Empty(t, s.enrollment(device.ID()).Sets)
					s.assign(device.ID(), "base")
				}
				require.NoError(t, device.WaitSync(ctx, s.token(device.ID())))
				s.waitInSync(device.ID())
				require.Contains(t, string(device.Declarations()["test.a"].JSON), "second")
				require.Equal(t, 1, s.count(`SELECT COUNT(*) FROM enrollments WHERE left_at IS NOT NULL`), "its user is not back")
			})
		})
	}
}
