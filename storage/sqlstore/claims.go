package sqlstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// readClaimedWithin bounds the reading of what was claimed.
const readClaimedWithin = 10 * time.Second

// Claim implements storage.Notifications.
func (s *Store) Claim(ctx context.Context, lease storage.Lease, limit int) ([]storage.Claimed, error) {
	if !s.moreDue.Load() {
		due, err := s.due(ctx)
		if err != nil || !due {
			return nil, err
		}
	}
	var ids []string
	err := s.inTx(ctx, background, "claiming", func(t *tx) error {
		ids = nil
		for _, priority := range []int{1, 0} {
			if len(ids) == limit {
				break
			}
			more, err := t.strings(`SELECT id FROM enrollments
				WHERE priority = ? AND notify_at <= `+t.now+` AND (lease_until IS NULL OR lease_until <= `+t.now+`)
				ORDER BY notify_at LIMIT ?`+t.dialect.LockSkip, priority, limit-len(ids))
			if err != nil {
				return err
			}
			ids = append(ids, more...)
		}
		slices.Sort(ids)
		for chunk := range slices.Chunk(ids, chunkSize) {
			if _, err := t.exec(`UPDATE enrollments SET lease_id = ?, lease_seq = notify_seq,
				lease_until = `+t.later(lease.Duration.Microseconds())+` WHERE id IN `+list(len(chunk)),
				args([]any{lease.ID}, chunk)...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.moreDue.Store(len(ids) == limit)
	// Nobody else can have them now, so a caller that goes away meanwhile must be able to give them back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readClaimedWithin)
	defer cancel()
	claimed := make([]storage.Claimed, 0, len(ids))
	for chunk := range slices.Chunk(ids, chunkSize) {
		claimed, err = s.appendClaimed(ctx, claimed, chunk)
		if err != nil {
			return nil, fmt.Errorf("reading what was claimed: %w", err)
		}
	}
	return claimed, nil
}

// due reports whether there is something to claim, which is mostly all there is to know. It asks in the order of the
// index: without one, MariaDB reads through the table, the sooner the more is due.
func (s *Store) due(ctx context.Context) (bool, error) {
	now := s.now()
	for _, priority := range []int{1, 0} {
		ids, err := queryStrings(ctx, s.read, `SELECT id FROM enrollments
			WHERE priority = ? AND notify_at <= `+now+` AND (lease_until IS NULL OR lease_until <= `+now+`)
			ORDER BY notify_at LIMIT 1`, priority)
		if err != nil {
			return false, fmt.Errorf("looking for what is due: %w", err)
		}
		if len(ids) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// Finalise implements storage.Notifications.
func (s *Store) Finalise(ctx context.Context, lease storage.Lease, outcomes []storage.Outcome) error {
	return s.inTx(ctx, background, "finalising", func(t *tx) error {
		for _, outcome := range outcomes {
			ids := slices.Sorted(slices.Values(outcome.IDs))
			for chunk := range slices.Chunk(ids, chunkSize) {
				if err := t.finalise(lease, outcome, chunk); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// finalise writes one outcome. Assignments that read a column stand before those that write it.
func (t *tx) finalise(lease storage.Lease, outcome storage.Outcome, ids []string) error {
	set := `desired_token = COALESCE(?, desired_token)`
	values := []any{nullable(outcome.DesiredToken)}
	add := func(assignments string, arguments ...any) {
		set += `, ` + assignments
		values = append(values, arguments...)
	}
	// Whoever was marked since the claim stays as due and as urgent as that made him.
	unlessMarked := func(column, value string, arguments ...any) {
		add(column+` = CASE WHEN notify_seq = lease_seq THEN `+value+` ELSE `+column+` END`, arguments...)
	}
	// Who is told although in sync stays so.
	outOfSync := func() {
		if outcome.DesiredToken != "" {
			add(t.syncState(`CASE WHEN synced_token = ? THEN 0 ELSE 1 END`),
				outcome.DesiredToken, outcome.DesiredToken, outcome.DesiredToken)
		}
	}
	woken := func(failures string) {
		if outcome.Error == "" {
			add(`pushed_at = ` + t.now + `, push_failures = 0, last_error = NULL`)
		} else {
			add(`pushed_at = `+t.now+`, push_failures = `+failures+`, last_error = ?`, cutError(outcome.Error))
		}
	}
	if outcome.Kind != storage.OutcomePostponed || outcome.After > 0 {
		unlessMarked("priority", "0")
	}
	next := t.later(outcome.After.Microseconds()) + ` + ` + t.dialect.RandomBelow
	spread := outcome.Spread.Microseconds() + 1
	// A device may finish while it is being told: then nothing is due.
	unlessSynced := func(next string) {
		if outcome.Error != "" { // it does not know that it was told
			unlessMarked("notify_at", next, spread)
			return
		}
		unlessMarked("notify_at", `CASE WHEN synced_token = ? THEN NULL ELSE `+next+` END`, outcome.DesiredToken, spread)
	}
	claimedAt := `lease_until - ` + strconv.FormatInt(lease.Duration.Microseconds(), 10)
	switch outcome.Kind {
	case storage.OutcomeInSync:
		// Unless the device was served a manifest since, and may not have what it had.
		still := `(synced_token = ? OR synced_token IS NULL AND fetched_token IS NULL)`
		unlessMarked("held", `CASE WHEN `+still+` THEN 0 ELSE held END`, outcome.DesiredToken)
		unlessMarked("notify_at", `CASE WHEN `+still+` THEN NULL ELSE notify_at END`, outcome.DesiredToken)
		add(`attempts = 0, push_failures = 0, last_error = NULL`)
		add(`command_token = CASE WHEN command_token <> ? AND `+still+` THEN NULL ELSE command_token END`,
			outcome.DesiredToken, outcome.DesiredToken)
		add(t.syncState(`CASE WHEN `+still+` THEN 0 ELSE 1 END`),
			outcome.DesiredToken, outcome.DesiredToken, outcome.DesiredToken)
	case storage.OutcomeSynced:
		// Unless the device was served another manifest since.
		add(`synced_at = CASE WHEN asked_token = ? THEN `+t.now+` ELSE synced_at END,
			synced_token = CASE WHEN asked_token = ? THEN ? ELSE synced_token END`,
			outcome.DesiredToken, outcome.DesiredToken, outcome.DesiredToken)
		add(`command_token = CASE WHEN command_token <> ? AND asked_token = ? THEN NULL ELSE command_token END`,
			outcome.DesiredToken, outcome.DesiredToken)
		unlessMarked("held", "CASE WHEN asked_token = ? THEN 0 ELSE held END", outcome.DesiredToken)
		unlessMarked("notify_at", "CASE WHEN asked_token = ? THEN NULL ELSE notify_at END", outcome.DesiredToken)
		add(`attempts = 0, push_failures = 0, last_error = NULL, `+t.syncState(`CASE WHEN asked_token = ? THEN 0 ELSE out_of_sync END`),
			outcome.DesiredToken, outcome.DesiredToken, outcome.DesiredToken)
	case storage.OutcomeHeld:
		unlessMarked("notify_at", "NULL")
		add(t.syncState("1"))
	case storage.OutcomePostponed:
		if outcome.After > 0 { // else it was not looked at
			outOfSync()
		}
		// Unless it waits to be told, or to be woken, all the same.
		unlessMarked("notify_at", `CASE WHEN synced_token = ? AND force_seq <= sent_seq AND push_failures = 0
			THEN NULL ELSE `+next+` END`, outcome.DesiredToken, spread)
	case storage.OutcomeSent:
		// A device can be at work before the MDM has answered, and before it is known that it was told.
		busy := `CASE WHEN fetched_at > ` + claimedAt + ` OR asked_at > ` + claimedAt + ` THEN ` + t.now + ` ELSE NULL END`
		add(`sends = CASE WHEN command_token = ? THEN sends + 1 ELSE 1 END, command_token = ?, command_uuid = ?,
			command_sent_at = `+t.now+`, command_acknowledged_at = `+busy+`, command_outcome = NULL, command_error = NULL,
			sent_seq = lease_seq, attempts = 0`,
			outcome.DesiredToken, outcome.DesiredToken, outcome.CommandUUID)
		woken("1")
		outOfSync()
		unlessSynced(next)
	case storage.OutcomePushed:
		add(`sent_seq = lease_seq, attempts = 0`)
		woken("push_failures + 1")
		outOfSync()
		unlessSynced(next)
	case storage.OutcomeFailed, storage.OutcomeUndone:
		attempts := `attempts + 1`
		if outcome.Kind == storage.OutcomeUndone {
			attempts = `CASE WHEN attempts = 0 THEN 1 ELSE attempts END`
		}
		add(`attempts = `+attempts+`, last_error = ?`, cutError(outcome.Error))
		outOfSync()
		unlessMarked("notify_at", next, spread)
	default:
		return fmt.Errorf("outcome of kind %d", outcome.Kind)
	}
	add(`lease_id = NULL, lease_seq = NULL, lease_until = NULL`)
	_, err := t.exec(`UPDATE enrollments SET `+set+` WHERE lease_id = ? AND id IN `+list(len(ids)),
		args(append(values, lease.ID), ids)...)
	if err != nil || outcome.Kind != storage.OutcomeSent {
		return err
	}
	return t.takeEarlyResults(outcome.CommandUUID, ids)
}

// maxErrorOctets is how much of an error's text is kept.
const maxErrorOctets = 2000

// cutError makes any text one that can be stored: what an MDM server answers must not keep an outcome from being written.
func cutError(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxErrorOctets)], "\ufffd")
}
