package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// enrollGrace is how long an enrollment that has begun is waited for to complete, before the device is told anyway: the
// event of its completion may be lost.
const enrollGrace = time.Minute

// lifeRow is what deciding about an event needs. Times but for now are by the MDM's clock.
type lifeRow struct {
	now                                 time.Time
	authenticatedAt, enrolledAt, leftAt time.Time
	// tally came with the token update of tallyAt.
	tally   int
	tallyAt time.Time
	// askedAt, fetchedAt, syncedAt and sentAt are what is known of the device's tokens, by the database's clock.
	askedAt, fetchedAt, syncedAt, sentAt time.Time
}

// worked reports whether what is known of the device's tokens, if anything is, is from before a time.
func (row *lifeRow) worked(before time.Time) bool {
	return until(row.askedAt, before) || until(row.fetchedAt, before) || until(row.syncedAt, before)
}

// told reports whether the last command, if there is one, is from before a time.
func (row *lifeRow) told(before time.Time) bool { return until(row.sentAt, before) }

func until(at, end time.Time) bool { return !at.IsZero() && !at.After(end) }

// readLife reads an enrollment's life.
func readLife(ctx context.Context, q rowQueryer, now, id string) (row lifeRow, known bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT `+now+`, authenticated_at, enrolled_at, left_at, token_tally, token_updated_at,
			asked_at, fetched_at, synced_at, command_sent_at
		FROM enrollments WHERE id = ?`, id).
		Scan(instant{&row.now}, instant{&row.authenticatedAt}, instant{&row.enrolledAt}, instant{&row.leftAt},
			&row.tally, instant{&row.tallyAt}, instant{&row.askedAt}, instant{&row.fetchedAt}, instant{&row.syncedAt}, instant{&row.sentAt})
	if errors.Is(err, sql.ErrNoRows) {
		return row, false, nil
	}
	return row, err == nil, err
}

// ApplyEvent implements storage.Events.
func (s *Store) ApplyEvent(
	ctx context.Context, event storage.Event, options storage.EventOptions,
) (marked bool, err error) {
	if event.Kind == storage.EventCommand {
		return false, s.applyCommand(ctx, event)
	}
	// As it is stored: the same event, repeated, must not look like a later one.
	event.At = event.At.Truncate(time.Microsecond)
	err = s.inTx(ctx, foreground, "applying an event", func(t *tx) error {
		marked = false
		for _, set := range options.EnrollSets {
			if err := t.ensureSet(set); err != nil {
				return err
			}
		}
		if err := t.lockEnrollment(event.ID); err != nil {
			return err
		}
		row, _, err := readLife(t.ctx, t, t.now, event.ID)
		if err != nil {
			return err
		}
		if err := t.describe(event); err != nil {
			return err
		}
		switch event.Kind {
		case storage.EventAuthenticate:
			marked, err = t.authenticate(event, row, options)
		case storage.EventTokenUpdate:
			marked, err = t.tokenUpdate(event, row, options)
		case storage.EventCheckOut:
			err = t.checkOut(event, row, options)
		}
		return err
	})
	return marked, err
}

// describe writes what every event tells.
func (t *tx) describe(event storage.Event) error {
	_, err := t.exec(`UPDATE enrollments SET webhook_at = `+t.now+`,
			type = CASE WHEN ? <> '' THEN ? ELSE type END, parent_id = CASE WHEN ? <> '' THEN ? ELSE parent_id END
		WHERE id = ?`, event.Type, event.Type, event.ParentID, event.ParentID, event.ID)
	return err
}

// authenticate begins an enrollment, unless it is known to have begun, completed or ended later than this.
func (t *tx) authenticate(event storage.Event, row lifeRow, options storage.EventOptions) (bool, error) {
	if !event.At.After(row.authenticatedAt) || !event.At.After(row.leftAt) {
		return false, nil
	}
	if _, err := t.exec(`UPDATE enrollments SET authenticated_at = ? WHERE id = ?`,
		event.At.UnixMicro(), event.ID); err != nil {
		return false, err
	}
	completed := !event.At.After(row.enrolledAt)
	if completed && !row.worked(event.At) && !row.told(event.At) {
		return false, nil // the event of its completion overtook this one, and has done it all
	}
	if err := t.void(event.ID, event.At); err != nil {
		return false, err
	}
	if err := t.voidChannels(event); err != nil {
		return false, err
	}
	if completed {
		return t.enroll(event, mark{urgent: true, at: t.now}, options)
	}
	// Its completion is what tells it; this is for when that event is lost.
	return t.enroll(event, mark{urgent: true, at: t.later(enrollGrace.Microseconds())}, options)
}

// tokenUpdate completes an enrollment, or is a new push token of one that is complete.
func (t *tx) tokenUpdate(event storage.Event, row lifeRow, options storage.EventOptions) (bool, error) {
	if !event.At.After(row.enrolledAt) || !event.At.After(row.leftAt) {
		return false, nil
	}
	begun := row.authenticatedAt.After(row.enrolledAt) && !event.At.Before(row.authenticatedAt)
	first := event.Tally == 1
	newer := event.At.After(row.tallyAt)
	missed := newer && event.Tally > 0 && event.Tally < row.tally
	// The MDM counts when it sends, so the first may say that it is the second.
	unheard := row.enrolledAt.IsZero() && event.Tally <= 2
	back := !row.leftAt.IsZero()
	if newer {
		if _, err := t.exec(`UPDATE enrollments SET token_tally = ?, token_updated_at = ? WHERE id = ?`,
			event.Tally, event.At.UnixMicro(), event.ID); err != nil {
			return false, err
		}
	}
	if !begun && !first && !missed && !unheard && !back {
		return false, nil
	}
	if _, err := t.exec(`UPDATE enrollments SET enrolled_at = ? WHERE id = ?`,
		event.At.UnixMicro(), event.ID); err != nil {
		return false, err
	}
	// Where the beginning was seen, it voided what was before. Unless the device has been at work since: then it was the
	// beginning of another enrollment, whose completion was not seen.
	if !begun || row.worked(event.At) {
		if err := t.void(event.ID, event.At); err != nil {
			return false, err
		}
		if err := t.voidChannels(event); err != nil {
			return false, err
		}
	} else if _, err := t.exec(`UPDATE enrollments SET pushed_at = NULL, push_failures = 0 WHERE id = ?`, event.ID); err != nil {
		// What was pushed before the enrollment was complete went to a push token that is not its own.
		return false, err
	}
	if err := t.happened(storage.HappenedEnrolled, event.ID, typeDetail(event)); err != nil {
		return false, err
	}
	return t.enroll(event, mark{urgent: true, at: t.now}, options)
}

// typeDetail is what is told of an enrollment that enrolled.
func typeDetail(event storage.Event) map[string]any {
	detail := map[string]any{}
	if event.Type != "" {
		detail["type"] = event.Type
	}
	if event.ParentID != "" {
		detail["parent_id"] = event.ParentID
	}
	return detail
}

// enroll marks an enrollment that is there now, and gives it sets if it has none.
func (t *tx) enroll(event storage.Event, m mark, options storage.EventOptions) (bool, error) {
	has, err := t.exists(`SELECT 1 FROM enrollment_sets WHERE enrollment_id = ? LIMIT 1`, event.ID)
	if err != nil {
		return false, err
	}
	if !has {
		for _, set := range options.EnrollSets {
			if _, err := t.exec(`INSERT INTO enrollment_sets (enrollment_id, set_name) VALUES (?, ?)`,
				event.ID, set); err != nil {
				return false, err
			}
			if err := t.record(options.Change, changeEntry{
				action: storage.ActionPutEnrollmentSet, enrollment: event.ID, set: set, reached: 1,
			}); err != nil {
				return false, err
			}
		}
	}
	if err := t.touchSetsOf(event.ID); err != nil {
		return false, err
	}
	if _, err := t.exec(`UPDATE enrollments SET left_at = NULL WHERE id = ?`, event.ID); err != nil {
		return false, err
	}
	return true, t.mark([]string{event.ID}, m)
}

// checkOut notes that an enrollment has left, with its user channels.
func (t *tx) checkOut(event storage.Event, row lifeRow, options storage.EventOptions) error {
	if !event.At.After(row.enrolledAt) || !event.At.After(row.authenticatedAt) || !event.At.After(row.leftAt) {
		return nil
	}
	ids, err := t.channels(event.ID)
	if err != nil {
		return err
	}
	var left []string // those whose rows it holds; a channel may have been deleted meanwhile
	for _, id := range append([]string{event.ID}, ids...) {
		if err := t.void(id, event.At); err != nil {
			return err
		}
		if err := t.forgetStatus(id); err != nil {
			return err
		}
		there, err := t.exists(`SELECT 1 FROM enrollments WHERE id = ? AND left_at IS NULL`, id)
		if err != nil {
			return err
		}
		if there {
			if err := t.happened(storage.HappenedLeft, id, nil); err != nil {
				return err
			}
		}
		updated, err := t.exec(`UPDATE enrollments SET left_at = ?, notify_at = NULL, priority = 0,
			notify_seq = notify_seq + 1 WHERE id = ?`, event.At.UnixMicro(), id)
		if err != nil {
			return err
		}
		if updated > 0 {
			left = append(left, id)
		}
	}
	if !options.RemoveSets {
		return nil
	}
	// The rows of the log of changes come last, behind those of all enrollments.
	for _, id := range left {
		lost, err := t.dropSets(id)
		if err != nil {
			return err
		}
		// It is not told of that, and found to have what it should.
		if err := t.mark([]string{id}, mark{at: t.now}); err != nil {
			return err
		}
		if len(lost) == 0 {
			continue
		}
		if err := t.recordLoss(options.Change, changeEntry{
			action: storage.ActionDropEnrollmentSets, enrollment: id, reached: 1,
		}, lost); err != nil {
			return err
		}
	}
	return nil
}

// forgetStatus forgets all that a device said, but for its reports. Who has left would else be counted for ever with what it
// said last, after the time that the MDM's clock had when it left.
func (t *tx) forgetStatus(id string) error {
	for _, table := range []string{"status_declarations", "status_values", "status_errors", "problems"} {
		if _, err := t.exec(`DELETE FROM `+table+` WHERE enrollment_id = ?`, id); err != nil {
			return err
		}
	}
	return t.forgetFacts(id)
}

// channels lists the user channels of a device.
func (t *tx) channels(id string) ([]string, error) {
	return t.strings(`SELECT id FROM enrollments WHERE parent_id = ? AND id <> ? ORDER BY id`, id, id)
}

// voidChannels does to a device's user channels what its enrolling does to them. They have no beginning of their own, so
// they are to be told when their next token update completes them, or somewhat later without it; those that left with the
// device when they are heard of.
func (t *tx) voidChannels(event storage.Event) error {
	ids, err := t.channels(event.ID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := t.void(id, event.At); err != nil {
			return err
		}
		if _, err := t.exec(`UPDATE enrollments SET authenticated_at = ? WHERE id = ?`, event.At.UnixMicro(), id); err != nil {
			return err
		}
	}
	return t.mark(ids, mark{at: t.later(enrollGrace.Microseconds())})
}

// void forgets what was known of a device until a time: what it holds, what it was told, what it said. From then on
// requests that began before count for nothing.
func (t *tx) void(id string, until time.Time) error {
	at := until.UnixMicro()
	_, err := t.exec(`UPDATE enrollments SET enroll_epoch = enroll_epoch + 1,
			`+t.syncState(`CASE WHEN synced_at <= ? THEN 1 ELSE out_of_sync END`)+`,
			asked_token = CASE WHEN asked_at <= ? THEN NULL ELSE asked_token END,
			asked_at = CASE WHEN asked_at <= ? THEN NULL ELSE asked_at END,
			fetched_token = CASE WHEN fetched_at <= ? THEN NULL ELSE fetched_token END,
			fetched_at = CASE WHEN fetched_at <= ? THEN NULL ELSE fetched_at END,
			synced_token = CASE WHEN synced_at <= ? THEN NULL ELSE synced_token END,
			synced_at = CASE WHEN synced_at <= ? THEN NULL ELSE synced_at END,
			command_token = CASE WHEN command_sent_at <= ? THEN NULL ELSE command_token END,
			command_uuid = CASE WHEN command_sent_at <= ? THEN NULL ELSE command_uuid END,
			command_outcome = CASE WHEN command_sent_at <= ? THEN NULL ELSE command_outcome END,
			command_error = CASE WHEN command_sent_at <= ? THEN NULL ELSE command_error END,
			command_acknowledged_at = CASE WHEN command_sent_at <= ? THEN NULL ELSE command_acknowledged_at END,
			sends = CASE WHEN command_sent_at <= ? THEN 0 ELSE sends END,
			command_sent_at = CASE WHEN command_sent_at <= ? THEN NULL ELSE command_sent_at END,
			pushed_at = CASE WHEN pushed_at <= ? THEN NULL ELSE pushed_at END,
			push_failures = 0, attempts = 0, last_error = NULL,
			lease_id = NULL, lease_seq = NULL, lease_until = NULL
		WHERE id = ?`, at, at, at, at, at, at, at, at, at, at, at, at, at, at, at, at, at, id)
	if err != nil {
		return err
	}
	// What seems to be from the future was received before the clock was set back.
	for table, column := range map[string]string{
		"status_declarations": "received_at", "status_values": "changed_at", "status_errors": "received_at", "problems": "received_at",
	} {
		if _, err := t.exec(`DELETE FROM `+table+` WHERE enrollment_id = ? AND (`+column+` <= ? OR `+column+` > `+t.now+`)`,
			id, at); err != nil {
			return err
		}
	}
	// A problem can have been said again since, without anything new of its declaration, of which nothing is known any more.
	if _, err := t.exec(`DELETE FROM problems WHERE enrollment_id = ? AND kind = ? AND NOT EXISTS (
			SELECT 1 FROM status_declarations sd WHERE sd.enrollment_id = problems.enrollment_id
				AND sd.identifier = problems.subject AND sd.server_token = problems.server_token)`, id, problemDeclaration); err != nil {
		return err
	}
	if err := t.touchSetsOf(id); err != nil {
		return err
	}
	return t.foldAgain(id, at)
}
