package main

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/micromdm/plist"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// waitQuiet waits until nothing is on its way that could tell anybody in the next minutes. Devices that do not exist are
// woken in vain again and again; they have been told.
func (s *server) waitQuiet() {
	s.t.Helper()
	for deadline := time.Now().Add(4 * patience); ; {
		soon := strconv.FormatInt(time.Now().Add(time.Minute).UnixMicro(), 10)
		if s.count(`SELECT COUNT(*) FROM fanouts`) == 0 && s.count(`SELECT COUNT(*) FROM (
			SELECT 1 FROM enrollments WHERE (lease_id IS NOT NULL OR notify_at <= `+soon+`) AND (push_failures = 0 OR notify_seq > sent_seq) LIMIT 1) due`) == 0 {
			return
		}
		require.True(s.t, time.Now().Before(deadline), "waited too long for a quiet queue")
		time.Sleep(50 * time.Millisecond)
	}
}

// commandLog reads what a NanoMDM was asked to queue, a change at a time.
type commandLog struct {
	nano *nanomdmtest.Server
	read int
	used map[string]bool // CommandUUIDs
}

// told returns how many commands each enrollment got since the last call, after a look at each command: it must be
// well formed, of a fresh CommandUUID, and carry tokens with this DeclarationsToken.
func (l *commandLog) told(t *testing.T, token string) map[string]int {
	t.Helper()
	told := map[string]int{}
	commands := l.nano.Enqueued()[l.read:]
	l.read += len(commands)
	for _, command := range commands {
		var body struct {
			CommandUUID string
			Command     struct {
				RequestType string
				Data        []byte
			}
		}
		require.NoError(t, plist.Unmarshal(command.Raw, &body))
		require.Equal(t, "DeclarativeManagement", body.Command.RequestType)
		requireTokens(t, token, body.Command.Data)
		require.NoError(t, uuid.Validate(body.CommandUUID))
		require.False(t, l.used[body.CommandUUID], "CommandUUID %s is used twice", body.CommandUUID)
		l.used[body.CommandUUID] = true
		for _, id := range command.IDs {
			told[id]++
		}
	}
	return told
}

// TestChangeOfLargeFleet checks that a change tells everybody whose token it alters, once, and nobody else.
func TestChangeOfLargeFleet(t *testing.T) {
	const enrollments = fleetSize
	eachDatabase(t, func(t *testing.T, flags []string) {
		nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
		s := beside(t, nano, flags)
		s.putTest("d.1", "first")
		s.putTest("d.2", "first")
		s.addToSet("fleet", "d.1")
		s.addToSet("fleet", "d.2")
		s.addToSet("twin", "d.1")
		s.waitQuiet()
		s.seed(enrollments)
		_, err := s.database.Exec(`INSERT INTO enrollment_sets (enrollment_id, set_name)
			SELECT enrollment_id, 'twin' FROM enrollment_sets WHERE set_name = 'fleet'`)
		require.NoError(t, err)
		s.settle()
		log := &commandLog{nano: nano, used: map[string]bool{}}

		everybodyOnce := func(story string) {
			t.Helper()
			s.waitQuiet()
			requests := log.read
			told := log.told(t, s.token(fleetID(0)))
			require.Len(t, told, enrollments, story)
			for i := range enrollments {
				require.Equal(t, 1, told[fleetID(i)], story)
			}
			require.LessOrEqual(t, log.read-requests, enrollments/50, "%s: commands are sent in batches", story)
		}
		nobody := func(story string) {
			t.Helper()
			s.waitQuiet()
			require.Empty(t, log.told(t, ""), story)
		}

		s.putTest("d.1", "second")
		everybodyOnce("a change")
		// The fleet is told and not in sync yet.
		s.addToSet("twin", "d.2")
		nobody("a change that alters no token, while devices are expected to synchronize")
		s.settle()
		s.change(http.MethodDelete, "/v1/set-declarations/twin?declaration=d.2", "")
		nobody("a change that alters no token")

		// Edits wait for each other for half a second, which a busy machine may not keep up with.
		s.program.notifier.Stop()
		s.putTest("d.1", "third")
		s.putTest("d.1", "second")
		s.program.notifier.Start()
		nobody("an edit that was undone before it was sent")

		s.program.notifier.Stop()
		for i := range 10 {
			s.putTest("d.1", fmt.Sprint("edit ", i))
		}
		s.program.notifier.Start()
		everybodyOnce("ten edits in a row")
	})
}
