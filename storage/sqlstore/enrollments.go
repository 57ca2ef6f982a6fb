package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/decree-ddm/decree/storage"
)

// enrollmentColumns are in the order in which scanEnrollment reads them; the last three are of the vector.
const enrollmentColumns = `e.id, e.type, e.parent_id, e.enroll_epoch, e.created_at, e.last_seen,
	e.enrolled_at, e.left_at, e.webhook_at,
	e.notify_at, e.notify_seq, e.held, e.force_seq > e.sent_seq, e.attempts, e.last_error, e.lease_until,
	e.command_uuid, e.command_token, e.command_sent_at, e.command_acknowledged_at, e.command_outcome, e.command_error,
	e.sends, e.pushed_at, e.push_failures,
	e.desired_token, e.asked_token, e.asked_at, e.fetched_token, e.fetched_at, e.synced_token, e.synced_at,
	e.out_of_sync, e.sync_changed_at,
	es.set_name, s.version, s.changed_at
	FROM enrollments e
	LEFT JOIN enrollment_sets es ON es.enrollment_id = e.id
	LEFT JOIN sets s ON s.name = es.set_name`

// scanEnrollment reads one row of an enrollment's rows, one for each of its sets.
func scanEnrollment(rows *sql.Rows, e *storage.Enrollment, vector *storage.Vector) error {
	var set sql.NullString
	var version sql.NullInt64
	var setVersion storage.SetVersion
	err := rows.Scan(instant{&e.Now}, &e.ID, &e.Type, &e.ParentID, &e.Epoch, instant{&e.CreatedAt}, instant{&e.LastSeen},
		instant{&e.EnrolledAt}, instant{&e.LeftAt}, instant{&e.WebhookAt},
		instant{&e.NotifyAt}, &e.NotifySeq, &e.Held, &e.Forced, &e.Attempts, text{&e.LastError},
		instant{&e.LeaseUntil},
		text{&e.CommandUUID}, text{&e.CommandToken}, instant{&e.CommandSentAt}, instant{&e.CommandAcknowledgedAt}, text{&e.CommandOutcome}, text{&e.CommandError},
		&e.Sends, instant{&e.PushedAt}, &e.PushFailures,
		text{&e.DesiredToken}, text{&e.AskedToken}, instant{&e.AskedAt}, text{&e.FetchedToken}, instant{&e.FetchedAt},
		text{&e.SyncedToken}, instant{&e.SyncedAt}, &e.OutOfSync, instant{&e.SyncChangedAt},
		&set, &version, instant{&setVersion.ChangedAt})
	if err != nil {
		return err
	}
	e.Known = true
	if set.Valid {
		setVersion.Name, setVersion.Version = set.String, version.Int64
		*vector = append(*vector, setVersion)
	}
	return nil
}

// deviceQuery is the statement for the requests of devices, of which there are by far the most: it reads what they need and
// no more.
func (s *Store) deviceQuery() string {
	return `SELECT ` + s.now() + `, e.type, e.parent_id, e.enroll_epoch, e.last_seen, e.left_at, e.notify_seq,
			e.command_sent_at, e.command_acknowledged_at, e.asked_token, e.asked_at, e.fetched_token, e.fetched_at,
			e.synced_token, e.synced_at, es.set_name, s.version, s.changed_at
		FROM enrollments e
		LEFT JOIN enrollment_sets es ON es.enrollment_id = e.id
		LEFT JOIN sets s ON s.name = es.set_name
		WHERE e.id = ? ORDER BY es.set_name`
}

// DeviceEnrollment implements storage.Enrollments.
func (s *Store) DeviceEnrollment(ctx context.Context, id string) (*storage.Enrollment, storage.Vector, error) {
	e := &storage.Enrollment{ID: id}
	var vector storage.Vector
	var q queryer = s.read
	query := ""
	switch {
	case s.device == nil:
		query = s.deviceQuery()
	case s.dialect.OneWriter:
		// A local read of a few pages waits for nobody, and to be able to cancel it costs as much as to read.
		ctx = context.WithoutCancel(ctx)
		q = preparedQuery{s.device}
	default:
		q = guardedQuery{s.guard, preparedQuery{s.device}}
	}
	err := queryRows(ctx, q, func(rows *sql.Rows) error {
		var set sql.NullString
		var version sql.NullInt64
		var setVersion storage.SetVersion
		if err := rows.Scan(instant{&e.Now}, &e.Type, &e.ParentID, &e.Epoch, instant{&e.LastSeen}, instant{&e.LeftAt},
			&e.NotifySeq, instant{&e.CommandSentAt}, instant{&e.CommandAcknowledgedAt},
			text{&e.AskedToken}, instant{&e.AskedAt}, text{&e.FetchedToken}, instant{&e.FetchedAt},
			text{&e.SyncedToken}, instant{&e.SyncedAt}, &set, &version, instant{&setVersion.ChangedAt}); err != nil {
			return err
		}
		e.Known = true
		if set.Valid {
			setVersion.Name, setVersion.Version = set.String, version.Int64
			vector = append(vector, setVersion)
		}
		return nil
	}, query, id)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a device's enrollment: %w", s.guard.explain(ctx, err))
	}
	return e, vector, nil
}

// preparedQuery is a prepared statement with its arguments left to the call.
type preparedQuery struct{ *sql.Stmt }

func (p preparedQuery) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return p.Stmt.QueryContext(ctx, args...)
}

// guardedQuery is a prepared statement that is bounded like other reads.
type guardedQuery struct {
	*guard
	preparedQuery
}

// Enrollment implements storage.Enrollments.
func (s *Store) Enrollment(ctx context.Context, id string) (*storage.Enrollment, storage.Vector, error) {
	enrollment := &storage.Enrollment{ID: id}
	var vector storage.Vector
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		return scanEnrollment(rows, enrollment, &vector)
	}, `SELECT `+s.now()+`, `+enrollmentColumns+` WHERE e.id = ? ORDER BY es.set_name`, id)
	if err != nil {
		return nil, nil, fmt.Errorf("reading an enrollment: %w", err)
	}
	return enrollment, vector, nil
}

func (s *Store) appendClaimed(ctx context.Context, claimed []storage.Claimed, ids []string) ([]storage.Claimed, error) {
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var enrollment storage.Enrollment
		var vector storage.Vector
		if err := scanEnrollment(rows, &enrollment, &vector); err != nil {
			return err
		}
		if last := len(claimed) - 1; last >= 0 && claimed[last].Enrollment.ID == enrollment.ID {
			claimed[last].Vector = append(claimed[last].Vector, vector...)
			return nil
		}
		claimed = append(claimed, storage.Claimed{Enrollment: enrollment, Vector: vector})
		return nil
	}, `SELECT `+s.now()+`, `+enrollmentColumns+` WHERE e.id IN `+list(len(ids))+` ORDER BY e.id, es.set_name`,
		args(nil, ids)...)
	return claimed, err
}

// UpdateDevice implements storage.Enrollments.
func (s *Store) UpdateDevice(ctx context.Context, update storage.DeviceUpdate) error {
	return s.inTx(ctx, foreground, "recording a device's request", func(t *tx) error {
		if update.Create {
			if err := t.createEnrollments([]string{update.ID}); err != nil {
				return err
			}
		}
		return t.updateDevice(update)
	})
}

// syncState returns the assignments for an enrollment that is out of sync where the expression is 1. They have it three times.
func (t *tx) syncState(outOfSync string) string {
	return `sync_changed_at = CASE WHEN out_of_sync = ` + outOfSync + ` AND sync_changed_at IS NOT NULL
			THEN sync_changed_at ELSE ` + t.now + ` END,
		sync_news = CASE WHEN ` + outOfSync + ` <> sync_told THEN 1 END, out_of_sync = ` + outOfSync
}

// awake are the assignments for a device that is heard of: that it could not be woken is over.
const awake = `push_failures = 0, last_error = CASE WHEN attempts = 0 THEN NULL ELSE last_error END`

// updateDevice writes one row. Assignments that read a column stand before those that write it.
func (t *tx) updateDevice(u storage.DeviceUpdate) error {
	set := `last_seen = ` + t.now
	var values []any
	add := func(assignments string, arguments ...any) {
		set += `, ` + assignments
		values = append(values, arguments...)
	}
	if u.Back {
		add(`left_at = NULL`)
	}
	if u.Type != "" {
		add(`type = ?`, u.Type)
	}
	if u.ParentID != "" {
		add(`parent_id = ?`, u.ParentID)
	}
	if u.DesiredToken != "" {
		// What was composed before somebody marked the enrollment may not be what it should have now.
		add(`desired_token = CASE WHEN notify_seq = ? THEN ? ELSE desired_token END`, u.NotifySeq, u.DesiredToken)
	}
	if u.AskedToken != "" {
		add(`asked_token = ?, asked_at = `+t.now, u.AskedToken)
	}
	// A request that took long must not undo what later ones of the same device have told.
	const unserved = `COALESCE(fetched_token, '') = ?`
	if u.SyncedToken != "" {
		const still = `(notify_seq = ? OR desired_token = ?)` // what it should have
		add(`asked_token = CASE WHEN `+unserved+` THEN NULL ELSE asked_token END,
			asked_at = CASE WHEN `+unserved+` THEN NULL ELSE asked_at END,
			sync_changed_at = CASE WHEN `+unserved+` AND `+still+` AND (out_of_sync = 1 OR sync_changed_at IS NULL)
				THEN `+t.now+` ELSE sync_changed_at END,
			sync_news = CASE WHEN `+unserved+` AND `+still+` THEN CASE WHEN sync_told = 1 THEN 1 END ELSE sync_news END,
			out_of_sync = CASE WHEN `+unserved+` AND `+still+` THEN 0 ELSE out_of_sync END,
			synced_at = CASE WHEN `+unserved+` THEN `+t.now+` ELSE synced_at END,
			synced_token = CASE WHEN `+unserved+` THEN ? ELSE synced_token END`,
			u.SeenFetched, u.SeenFetched, u.SeenFetched, u.NotifySeq, u.SyncedToken, u.SeenFetched, u.NotifySeq, u.SyncedToken,
			u.SeenFetched, u.NotifySeq, u.SyncedToken,
			u.SeenFetched, u.SeenFetched, u.SyncedToken)
		// A command for another token is spent: should that be desired again, the device has to be told again.
		add(`command_token = CASE WHEN command_token <> ? AND `+unserved+` THEN NULL ELSE command_token END`,
			u.SyncedToken, u.SeenFetched)
	} else if u.LostSync {
		add(`synced_token = NULL, synced_at = NULL`)
	}
	if u.LostSync || u.Check == storage.CheckPostpone {
		add(t.syncState("1"))
	}
	if u.Acknowledged {
		add(`command_acknowledged_at = CASE WHEN command_acknowledged_at IS NULL AND command_sent_at IS NOT NULL
			THEN ` + t.now + ` ELSE command_acknowledged_at END`)
		if u.Check != storage.CheckClear {
			add(awake)
		}
	}
	undisturbed, guard := `notify_seq = ? AND force_seq <= sent_seq`, []any{u.NotifySeq}
	switch u.Check {
	case storage.CheckClear:
		undisturbed, guard = undisturbed+` AND `+unserved, append(guard, u.SeenFetched)
		add(`held = CASE WHEN `+undisturbed+` THEN 0 ELSE held END`, guard...)
		add(`priority = CASE WHEN `+undisturbed+` THEN 0 ELSE priority END`, guard...)
		add(`notify_at = CASE WHEN `+undisturbed+` THEN NULL ELSE notify_at END`, guard...)
		add(`attempts = 0, push_failures = 0, last_error = NULL`)
	case storage.CheckPostpone:
		later := t.later(u.CheckAfter.Microseconds())
		add(`priority = CASE WHEN `+undisturbed+` THEN 0 ELSE priority END`, guard...)
		// Whoever marked it may have found it in sync with what it held until now.
		add(`notify_at = CASE WHEN `+undisturbed+` THEN `+later+` ELSE COALESCE(notify_at, `+later+`) END`, guard...)
	}
	if u.FetchedToken != "" {
		add(`fetched_token = ?, fetched_at = `+t.now+`, asked_token = NULL, asked_at = NULL`, u.FetchedToken)
	}
	back := false
	if u.Back {
		// Of requests that come together only one brings it back.
		var err error
		if back, err = t.exists(`SELECT 1 FROM enrollments WHERE id = ? AND left_at IS NOT NULL`+t.dialect.Lock, u.ID); err != nil {
			return err
		}
	}
	written, err := t.exec(`UPDATE enrollments SET `+set+` WHERE id = ? AND enroll_epoch = ?`,
		append(values, u.ID, u.Epoch)...)
	if err != nil || written == 0 || !back {
		return err
	}
	if err := t.happened(storage.HappenedEnrolled, u.ID, map[string]any{"seen": true}); err != nil {
		return err
	}
	if err := t.touchSetsOf(u.ID); err != nil {
		return err
	}
	// Nothing was due for it while it was gone, and a notifier may be about to say so again.
	return t.mark([]string{u.ID}, mark{at: t.now})
}
