package ddm

import (
	"time"

	protocol "github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// What a device's requests tell of its progress. A device keeps the DeclarationsToken that it last processed, and
// asks in a known order: [tokens], declaration items, changed declarations, tokens, status.
const (
	// seenInterval is how often it is written that a device was seen.
	seenInterval = time.Hour
	// backInterval is for how long after an enrollment left its requests may still be on their way.
	backInterval = time.Minute
	// fetchedInterval is how often it is written that a device fetched the manifest that it had fetched before.
	fetchedInterval = time.Hour
)

// seen returns the update that any request of a device gives.
func seen(e *storage.Enrollment, enrollmentType, parentID string) storage.DeviceUpdate {
	update := storage.DeviceUpdate{
		ID: e.ID, Epoch: e.Epoch, NotifySeq: e.NotifySeq, SeenFetched: e.FetchedToken,
		Acknowledged: !e.CommandSentAt.IsZero() && e.CommandAcknowledgedAt.IsZero(),
	}
	// What was under way when it left does not bring it back.
	update.Back = !e.LeftAt.IsZero() && e.Now.Sub(e.LeftAt) > backInterval
	if enrollmentType != e.Type {
		update.Type = enrollmentType
	}
	if parentID != e.ParentID {
		update.ParentID = parentID
	}
	return update
}

// worthRecording reports whether an update says anything that is not known.
func worthRecording(e *storage.Enrollment, u *storage.DeviceUpdate) bool {
	return !e.Known || u.Acknowledged || u.Back || u.Type != "" || u.ParentID != "" || e.Now.Sub(e.LastSeen) >= seenInterval ||
		u.Check != storage.CheckKeep || u.AskedToken != "" || u.FetchedToken != "" || u.SyncedToken != "" || u.LostSync
}

// askedTokens follows a request for the tokens: of a device that has finished with the manifest that it fetched, or
// of one that is about to fetch it, or of one that will see that it has it.
func askedTokens(e *storage.Enrollment, c *storage.Composition, u *storage.DeviceUpdate) bool {
	known := e.AskedToken == c.Token && e.AskedAt.After(e.CommandSentAt)
	if !e.InSync(c.Token, c.Empty()) && !finished(e, c, u) && !known {
		u.DesiredToken, u.AskedToken = c.Token, c.Token
		u.Check, u.CheckAfter = storage.CheckPostpone, storage.AskGrace
	}
	return worthRecording(e, u)
}

// finished notes that the device is in sync, if what it fetched last is still what it should have.
func finished(e *storage.Enrollment, c *storage.Composition, u *storage.DeviceUpdate) bool {
	if e.FetchedToken != c.Token {
		return false
	}
	synced(c, u)
	return true
}

func synced(c *storage.Composition, u *storage.DeviceUpdate) {
	u.DesiredToken, u.SyncedToken = c.Token, c.Token
	u.Check = storage.CheckClear
}

// fetchedManifest follows a request for the declaration items. Until it says more, the device is neither known to
// hold what it held nor to have finished with this.
func fetchedManifest(e *storage.Enrollment, c *storage.Composition, u *storage.DeviceUpdate) bool {
	// A device that failed half way asks for the tokens when it comes back, which looks as if it had finished, until it
	// asks for the manifest again.
	failed := e.SyncedToken == c.Token && e.Now.Sub(e.SyncedAt) < storage.AskGrace
	if e.FetchedToken != c.Token || failed || e.Now.Sub(e.FetchedAt) >= fetchedInterval {
		u.DesiredToken, u.FetchedToken = c.Token, c.Token
		if e.SyncedToken != c.Token || failed {
			u.LostSync = e.SyncedToken != ""
			u.Check, u.CheckAfter = storage.CheckPostpone, storage.FetchGrace
		}
	}
	return worthRecording(e, u)
}

// reported follows a status report: a device sends one when it has finished, and it may list what it has.
func reported(e *storage.Enrollment, c *storage.Composition, report *protocol.StatusReport, u *storage.DeviceUpdate) {
	if e.SyncedToken == c.Token {
		return
	}
	if report.MatchesComposition(c.Items) {
		synced(c, u)
		return
	}
	finished(e, c, u)
}
