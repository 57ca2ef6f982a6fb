package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/decree-ddm/decree/storage"
)

// enrollmentColumns are in the order in which scanEnrollment reads them; the last three are of the vector.
const enrollmentColumns = `e.id, e.type, e.parent_id, e.enroll_epoch, e.created_at, e.last_seen,
	e.notify_at, e.notify_seq, e.held, e.force_seq > e.sent_seq, e.attempts, e.last_error,
	e.command_uuid, e.command_token, e.command_sent_at, e.command_acknowledged_at, e.sends,
	e.desired_token, e.asked_token, e.asked_at, e.fetched_token, e.fetched_at, e.synced_token, e.synced_at,
	es.set_name, s.version, s.changed_at
	FROM enrollments e
	LEFT JOIN enrollment_sets es ON es.enrollment_id = e.id
	LEFT JOIN sets s ON s.name = es.set_name`

func (s *Store) enrollmentQuery() string {
	return `SELECT ` + s.now() + `, ` + enrollmentColumns + ` WHERE e.id = ? ORDER BY es.set_name`
}

// scanEnrollment reads one row of an enrollment's rows, one for each of its sets.
func scanEnrollment(rows *sql.Rows, e *storage.Enrollment, vector *storage.Vector) error {
	var set sql.NullString
	var version sql.NullInt64
	var setVersion storage.SetVersion
	err := rows.Scan(instant{&e.Now}, &e.ID, &e.Type, &e.ParentID, &e.Epoch, instant{&e.CreatedAt}, instant{&e.LastSeen},
		instant{&e.NotifyAt}, &e.NotifySeq, &e.Held, &e.Forced, &e.Attempts, text{&e.LastError},
		text{&e.CommandUUID}, text{&e.CommandToken}, instant{&e.CommandSentAt}, instant{&e.CommandAcknowledgedAt}, &e.Sends,
		text{&e.DesiredToken}, text{&e.AskedToken}, instant{&e.AskedAt}, text{&e.FetchedToken}, instant{&e.FetchedAt},
		text{&e.SyncedToken}, instant{&e.SyncedAt},
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

// preparedQuery is a prepared statement with its arguments left to the call.
type preparedQuery struct{ *sql.Stmt }

func (p preparedQuery) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return p.Stmt.QueryContext(ctx, args...)
}

// Enrollment implements storage.Enrollments.
func (s *Store) Enrollment(ctx context.Context, id string) (*storage.Enrollment, storage.Vector, error) {
	enrollment := &storage.Enrollment{ID: id}
	var vector storage.Vector
	var q queryer = s.read
	query := ""
	if s.enrollment != nil {
		q = preparedQuery{s.enrollment}
	} else {
		query = s.enrollmentQuery()
	}
	err := queryRows(ctx, q, func(rows *sql.Rows) error {
		return scanEnrollment(rows, enrollment, &vector)
	}, query, id)
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

// updateDevice writes one row. Assignments that read a column stand before those that write it.
func (t *tx) updateDevice(u storage.DeviceUpdate) error {
	set := `last_seen = ` + t.now
	var values []any
	add := func(assignments string, arguments ...any) {
		set += `, ` + assignments
		values = append(values, arguments...)
	}
	if u.Type != "" {
		add(`type = ?`, u.Type)
	}
	if u.ParentID != "" {
		add(`parent_id = ?`, u.ParentID)
	}
	if u.DesiredToken != "" {
		add(`desired_token = ?`, u.DesiredToken)
	}
	if u.AskedToken != "" {
		add(`asked_token = ?, asked_at = `+t.now, u.AskedToken)
	}
	if u.FetchedToken != "" {
		add(`fetched_token = ?, fetched_at = `+t.now+`, asked_token = NULL, asked_at = NULL`, u.FetchedToken)
	}
	switch {
	case u.SyncedToken != "":
		add(`synced_token = ?, synced_at = `+t.now+`, asked_token = NULL, asked_at = NULL`, u.SyncedToken)
	case u.LostSync:
		add(`synced_token = NULL, synced_at = NULL`)
	}
	if u.Acknowledged {
		add(`command_acknowledged_at = CASE WHEN command_acknowledged_at IS NULL AND command_sent_at IS NOT NULL
			THEN ` + t.now + ` ELSE command_acknowledged_at END`)
	}
	const undisturbed = `notify_seq = ? AND force_seq <= sent_seq`
	switch u.Check {
	case storage.CheckClear:
		add(`held = CASE WHEN `+undisturbed+` THEN 0 ELSE held END,
			priority = CASE WHEN `+undisturbed+` THEN 0 ELSE priority END,
			notify_at = CASE WHEN `+undisturbed+` THEN NULL ELSE notify_at END,
			attempts = 0, last_error = NULL`, u.NotifySeq, u.NotifySeq, u.NotifySeq)
	case storage.CheckPostpone:
		add(`priority = CASE WHEN `+undisturbed+` THEN 0 ELSE priority END,
			notify_at = CASE WHEN `+undisturbed+` THEN `+t.later(u.CheckAfter.Microseconds())+
			` ELSE notify_at END`, u.NotifySeq, u.NotifySeq)
	}
	_, err := t.exec(`UPDATE enrollments SET `+set+` WHERE id = ? AND enroll_epoch = ?`,
		append(values, u.ID, u.Epoch)...)
	return err
}
