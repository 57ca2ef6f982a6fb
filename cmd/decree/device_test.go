package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// deviceStory is a device behind NanoMDM that is in sync with the set "base", which holds test.a, test.b and test.c.
type deviceStory struct {
	*server
	t      *testing.T
	ctx    context.Context
	nano   *nanomdmtest.Server
	device *nanomdmtest.Device
	sent   int // commands so far
}

func eachDeviceStory(t *testing.T, story func(t *testing.T, s *deviceStory)) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
		s := &deviceStory{server: beside(t, nano, flags), t: t, ctx: ctx, nano: nano, device: nano.NewDevice(t)}
		require.NoError(t, s.device.Enroll(ctx))
		for _, identifier := range []string{"test.a", "test.b", "test.c"} {
			s.putTest(identifier, "first")
			s.addToSet("base", identifier)
		}
		s.assign(s.device.ID(), "base")
		s.woken()
		require.NoError(t, s.device.Poll(ctx))
		s.settledAfter(1)
		story(t, s)
	})
}

// woken waits until NanoMDM has a command for the device and has pushed.
func (s *deviceStory) woken() {
	s.t.Helper()
	require.NoError(s.t, s.device.WaitPush(s.ctx))
}

// settledAfter waits until the device is in sync, and checks that it took so many commands more.
func (s *deviceStory) settledAfter(commands int) {
	s.t.Helper()
	s.waitIdle(s.device.ID())
	require.Equal(s.t, s.token(s.device.ID()), s.device.DeclarationsToken())
	s.sent += commands
	require.Len(s.t, s.nano.Enqueued(), s.sent)
}

// held returns the content of the declarations that the device holds.
func (s *deviceStory) held() map[string]string {
	held := map[string]string{}
	for identifier, declaration := range s.device.Declarations() {
		_, echo, _ := strings.Cut(string(declaration.JSON), `"Echo":"`)
		held[identifier], _, _ = strings.Cut(echo, `"`)
	}
	return held
}

// TestRemoval checks that what leaves the manifest leaves the device, and that nothing in use can be deleted.
func TestRemoval(t *testing.T) {
	eachDeviceStory(t, func(t *testing.T, s *deviceStory) {
		code, text := s.do(http.MethodDelete, "/v1/declarations/test.b", "")
		require.Equal(t, http.StatusConflict, code)
		require.Contains(t, string(text), "base")
		s.change(http.MethodDelete, "/v1/set-declarations/base?declaration=test.b", "")
		s.change(http.MethodDelete, "/v1/declarations/test.b", "")
		s.woken()
		s.device.ClearTrace()
		require.NoError(t, s.device.Poll(s.ctx))
		require.Equal(t, []string{"declaration-items", "tokens", "status"}, s.device.Trace(), "nothing is fetched again")
		s.settledAfter(1)
		require.Equal(t, map[string]string{"test.a": "first", "test.c": "first"}, s.held())
		require.NotContains(t, s.declarationStatus(s.device.ID()), "test.b")

		s.change(http.MethodDelete, "/v1/enrollment-sets-all/"+s.device.ID(), "")
		s.woken()
		require.NoError(t, s.device.Poll(s.ctx))
		s.settledAfter(1)
		require.Empty(t, s.held())
		require.Empty(t, s.declarationStatus(s.device.ID()))
	})
}

// TestNotNow checks that a device that has no time is waited for, and not told again.
func TestNotNow(t *testing.T) {
	eachDeviceStory(t, func(t *testing.T, s *deviceStory) {
		s.device.SetNotNow(true)
		s.device.Run(s.ctx)
		s.putTest("test.a", "second")
		s.eventually(func() bool {
			commands := s.device.Commands()
			return commands[len(commands)-1].Status == "NotNow"
		}, "NotNow")
		require.False(t, s.enrollment(s.device.ID()).InSync)
		s.waitQuiet()
		s.device.SetNotNow(false)
		s.settledAfter(1)
		require.Equal(t, "second", s.held()["test.a"])
	})
}

// TestFailureHalfWay checks that a device which could fetch only a part of its declarations is not taken to be in
// sync, and gets the rest when it comes back.
func TestFailureHalfWay(t *testing.T) {
	eachDeviceStory(t, func(t *testing.T, s *deviceStory) {
		outage := errors.New("no network")
		s.device.SetFaults(nanomdmtest.Faults{FailFetch: func(endpoint string) error {
			if strings.HasSuffix(endpoint, "/test.b") {
				return outage
			}
			return nil
		}})
		s.program.notifier.Stop()
		for identifier := range s.device.Declarations() {
			s.putTest(identifier, "second")
		}
		s.program.notifier.Start()
		s.woken()
		require.ErrorIs(t, s.device.Poll(s.ctx), outage)
		require.Equal(t, map[string]string{"test.a": "second", "test.b": "first", "test.c": "first"}, s.held())
		require.False(t, s.enrollment(s.device.ID()).InSync)
		// It tries again by itself, and fails again: that it asks for the tokens first does not mean that it has finished.
		require.ErrorIs(t, s.device.Sync(s.ctx, nil), outage)
		require.False(t, s.enrollment(s.device.ID()).InSync)
		s.waitQuiet()

		s.device.SetFaults(nanomdmtest.Faults{})
		s.device.ClearTrace()
		require.NoError(t, s.device.Sync(s.ctx, nil))
		require.Equal(t, []string{
			"tokens", "declaration-items", "declaration/configuration/test.b", "declaration/configuration/test.c",
			"tokens", "status",
		}, s.device.Trace())
		s.settledAfter(1)
		require.Equal(t, map[string]string{"test.a": "second", "test.b": "second", "test.c": "second"}, s.held())
	})
}

// TestChangeDuringSync checks that a change between a manifest and the fetches behind it stops nobody's sync.
func TestChangeDuringSync(t *testing.T) {
	eachDeviceStory(t, func(t *testing.T, s *deviceStory) {
		changes := 0
		s.device.SetFaults(nanomdmtest.Faults{FailFetch: func(endpoint string) error {
			if strings.HasSuffix(endpoint, "/test.a") && changes == 0 {
				changes++
				s.change(http.MethodDelete, "/v1/set-declarations/base?declaration=test.b", "")
				s.change(http.MethodDelete, "/v1/declarations/test.b", "")
				s.putTest("test.c", "third")
			}
			return nil
		}})
		s.program.notifier.Stop()
		for identifier := range s.device.Declarations() {
			s.putTest(identifier, "second")
		}
		s.program.notifier.Start()
		s.woken()
		require.NoError(t, s.device.Poll(s.ctx))
		require.Equal(t, 1, changes)
		require.Equal(t, map[string]string{"test.a": "second", "test.c": "third"}, s.held())
		// Whether it had synchronized before it could be told of the second change is a matter of time.
		s.waitQuiet()
		require.NoError(t, s.device.Poll(s.ctx))
		s.waitInSync(s.device.ID())
	})
}

// TestFetchAfterNotFound checks that a declaration that was not there is found as soon as it is.
func TestFetchAfterNotFound(t *testing.T) {
	eachDeviceStory(t, func(t *testing.T, s *deviceStory) {
		const endpoint = "declaration/configuration/test.new"
		fetch := func() error {
			_, err := s.device.DeclarativeManagement(s.ctx, endpoint, nil)
			return err
		}
		require.ErrorContains(t, fetch(), "not found")
		s.putTest("test.new", "first")
		require.ErrorContains(t, fetch(), "not found")
		s.addToSet("base", "test.new")
		require.NoError(t, fetch())
		s.change(http.MethodDelete, "/v1/set-declarations/base?declaration=test.new", "")
		require.ErrorContains(t, fetch(), "not found")
		s.addToSet("base", "test.new")
		require.NoError(t, fetch())
	})
}

// TestNoNotify checks that a change with nonotify waits for something else to tell of it.
func TestNoNotify(t *testing.T) {
	eachDeviceStory(t, func(t *testing.T, s *deviceStory) {
		id := s.device.ID()
		s.device.Run(s.ctx)
		for _, release := range []struct {
			name string
			call func()
		}{
			{"by id", func() { s.change(http.MethodPost, "/v1/notify?id="+id, "") }},
			{"by set", func() { s.change(http.MethodPost, "/v1/notify?set=base", "") }},
			{"by declaration", func() { s.change(http.MethodPost, "/v1/notify?declaration=test.b", "") }},
			{"another change", func() { s.putTest("test.b", "notified "+id) }},
		} {
			s.change(http.MethodPut, "/v1/declarations?nonotify=1",
				declarationJSON("test.a", "com.apple.configuration.management.test", `{"Echo":"`+release.name+`"}`))
			s.waitQuiet()
			s.eventually(func() bool { return s.enrollment(id).Held }, "the enrollment held")
			e := s.enrollment(id)
			require.False(t, e.InSync)
			require.Empty(t, e.NotifyAt)
			require.Equal(t, s.token(id), e.DesiredToken)
			require.Len(t, s.nano.Enqueued(), s.sent, "nobody is told")
			release.call()
			require.NoError(t, s.device.WaitSync(s.ctx, s.token(id)))
			s.settledAfter(1)
			require.Equal(t, release.name, s.held()["test.a"])
			require.False(t, s.enrollment(id).Held)
		}
		// Who is in sync is told all the same when an admin asks for it.
		s.change(http.MethodPost, "/v1/notify?id="+id+"&set=base&declaration=test.a", "")
		s.eventually(func() bool { return len(s.nano.Enqueued()) > s.sent }, "a command")
		s.settledAfter(1)
	})
}

// TestTwoSetsAtOnce checks that changes of two sets make one command for who has both.
func TestTwoSetsAtOnce(t *testing.T) {
	eachDeviceStory(t, func(t *testing.T, s *deviceStory) {
		s.putTest("test.d", "first")
		s.addToSet("more", "test.d")
		s.assign(s.device.ID(), "more")
		s.woken()
		require.NoError(t, s.device.Poll(s.ctx))
		s.settledAfter(1)
		s.device.Run(s.ctx)
		s.program.notifier.Stop() // a busy machine may take longer for two requests than a mark waits
		s.putTest("test.a", "second")
		s.putTest("test.d", "second")
		s.program.notifier.Start()
		require.NoError(t, s.device.WaitSync(s.ctx, s.token(s.device.ID())))
		s.settledAfter(1)
	})
}

// TestSyncByItself checks that a device which finds out by itself is not told of what it has.
func TestSyncByItself(t *testing.T) {
	eachDeviceStory(t, func(t *testing.T, s *deviceStory) {
		// Its command is queued while it cannot be reached, and it asks before it gets that.
		s.nano.FailPushes(func(string) error { return errors.New("offline") })
		s.putTest("test.a", "second")
		s.eventually(func() bool { return len(s.nano.Enqueued()) > s.sent }, "a command")
		require.NoError(t, s.device.Sync(s.ctx, nil))
		s.settledAfter(1)
		s.nano.FailPushes(nil)
		s.device.ClearTrace()
		require.NoError(t, s.device.Poll(s.ctx))
		require.Empty(t, s.device.Trace(), "the command that waited tells it nothing new")
		s.settledAfter(0)

		// It asks before the notifier comes to it.
		s.program.notifier.Stop()
		s.putTest("test.a", "third")
		require.NoError(t, s.device.Sync(s.ctx, nil))
		s.program.notifier.Start()
		s.settledAfter(0)

		// NanoMDM is away for the change, and the device asks as soon as it is back.
		s.nano.Stop()
		s.putTest("test.a", "fourth")
		s.eventually(func() bool { return s.count(`SELECT MAX(attempts) FROM enrollments`) > 0 }, "a failure")
		s.nano.Restart()
		require.NoError(t, s.device.Sync(s.ctx, nil))
		s.waitIdle(s.device.ID())
		require.Equal(t, "fourth", s.held()["test.a"])
	})
}
