package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// TestUserChannel checks that a user channel is an enrollment of its own: own sets, own token, own status.
func TestUserChannel(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		nano := nanomdmtest.Start(t, nanomdmtest.WithFileStorage())
		s := beside(t, nano, flags)
		mac, own := nano.NewDevice(t), nano.NewUserEnrollment(t)
		require.NoError(t, mac.Enroll(ctx))
		require.NoError(t, own.Enroll(ctx))
		channels := []struct {
			*nanomdmtest.Device
			enrollmentType string
			set            string
		}{
			{mac, "Device", "devices"},
			{mac.NewUserChannel(), "User", "users"},
			{mac.NewUserChannel(), "User", "users"},
			{mac.NewSharedIPadUser("pupil@example.com"), "Shared iPad", "pupils"},
			{own, "User Enrollment (Device)", "own"},
			{own.NewUserChannel(), "User Enrollment", "own users"},
		}
		for i, channel := range channels {
			if channel.ParentID() != "" {
				require.NoError(t, channel.Enroll(ctx))
			}
			if i != 2 {
				s.putTest("test.of-"+channel.enrollmentType, "first")
				s.addToSet(channel.set, "test.of-"+channel.enrollmentType)
			}
		}
		for _, channel := range channels {
			s.assign(channel.ID(), channel.set)
			channel.Run(ctx)
		}
		tokens := map[string]int{}
		settled := func() {
			t.Helper()
			for _, channel := range channels {
				require.NoError(t, channel.WaitSync(ctx, s.token(channel.ID())))
				s.waitInSync(channel.ID())
			}
		}
		settled()
		for _, channel := range channels {
			e := s.enrollment(channel.ID())
			require.Equal(t, channel.enrollmentType, e.Type)
			require.Equal(t, channel.ParentID(), e.ParentID)
			require.Equal(t, []string{channel.set}, e.Sets)
			require.Len(t, channel.Declarations(), 1)
			require.Contains(t, channel.Declarations(), "test.of-"+channel.enrollmentType)
			require.Contains(t, s.declarationStatus(channel.ID()), "test.of-"+channel.enrollmentType)
			tokens[s.token(channel.ID())]++
		}
		require.Len(t, tokens, 5, "two users have the same set, and everybody else another one")

		// A change for users tells users, and neither their device nor others.
		s.waitIdle()
		before := len(nano.Enqueued())
		s.putTest("test.of-User", "second")
		settled()
		var told []string
		for _, command := range nano.Enqueued()[before:] {
			told = append(told, command.IDs...)
		}
		require.ElementsMatch(t, []string{channels[1].ID(), channels[2].ID()}, told)
	})
}
