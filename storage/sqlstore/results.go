package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// webhookInterval is how often it is written that events come at all.
const webhookInterval = time.Hour

// commandRow is what deciding about the result of a command needs.
type commandRow struct {
	now, webhookAt time.Time
	uuid, outcome  string
	leased         bool
}

// readCommand reads an enrollment's last command.
func readCommand(ctx context.Context, q rowQueryer, now, lock, id string) (row commandRow, known bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT `+now+`, webhook_at, command_uuid, command_outcome, lease_id IS NOT NULL
		FROM enrollments WHERE id = ?`+lock, id).
		Scan(instant{&row.now}, instant{&row.webhookAt}, text{&row.uuid}, text{&row.outcome}, &row.leased)
	if errors.Is(err, sql.ErrNoRows) {
		return row, false, nil
	}
	return row, err == nil, err
}

// concerns reports whether a result is one of the last command, and news.
func (row *commandRow) concerns(event storage.Event) bool {
	return row.uuid == event.CommandUUID && row.outcome != event.Status && !final(row.outcome)
}

// early reports whether a result may be one of a command that is being sent: a device can be faster than the MDM's answer.
func (row *commandRow) early(event storage.Event) bool {
	return row.leased && row.uuid != event.CommandUUID
}

// final reports whether a device says no more of a command: a NotNow that comes after is late.
func final(outcome string) bool { return outcome != "" && outcome != "NotNow" }

// applyCommand notes what a device made of the last command. There is one such event for each command of any kind, so
// what does not concern the last one of ours costs a read.
func (s *Store) applyCommand(ctx context.Context, event storage.Event) error {
	if event.CommandUUID == "" {
		return nil
	}
	row, known, err := readCommand(ctx, s.read, s.now(), "", event.ID)
	if err != nil || !known {
		return err
	}
	if !row.concerns(event) && !row.early(event) && row.now.Sub(row.webhookAt) < webhookInterval {
		return nil
	}
	return s.inTx(ctx, foreground, "noting the result of a command", func(t *tx) error {
		row, known, err := readCommand(t.ctx, t, t.now, t.dialect.Lock, event.ID)
		if err != nil || !known {
			return err
		}
		if row.early(event) {
			if err := t.keepEarlyResult(event); err != nil {
				return err
			}
		}
		if row.concerns(event) {
			return t.commandResult(event.ID, event.Status, event.Error)
		}
		_, err = t.exec(`UPDATE enrollments SET webhook_at = `+t.now+` WHERE id = ?`, event.ID)
		return err
	})
}

// commandResult writes what a device made of its last command.
func (t *tx) commandResult(id, outcome, text string) error {
	set := `webhook_at = ` + t.now + `, command_outcome = ?, command_error = ?, ` + awake
	switch outcome {
	case "Acknowledged":
		set += `, command_acknowledged_at = COALESCE(command_acknowledged_at, ` + t.now + `)`
	case "Error", "CommandFormatError":
		// Whoever waits for the device to come for it, to find something newer, waits no more.
		const waits = `notify_at IS NOT NULL AND desired_token <> command_token`
		set += `, notify_seq = CASE WHEN ` + waits + ` THEN notify_seq + 1 ELSE notify_seq END,
			notify_at = CASE WHEN ` + waits + ` THEN ` + t.now + ` ELSE notify_at END`
	}
	_, err := t.exec(`UPDATE enrollments SET `+set+` WHERE id = ?`, outcome, nullable(cutError(text)), id)
	return err
}

// maxEarlyResults bounds the results that are kept of one enrollment, which may be of anybody's commands: more do not come
// while one request to the MDM is answered.
const maxEarlyResults = 20

// keepEarlyResult keeps the result of a command until it is known whether it is one of ours. Collect deletes it when it is
// not. A final result is not replaced. The enrollment's row is held.
func (t *tx) keepEarlyResult(event storage.Event) error {
	_, err := t.exec(`DELETE FROM early_results WHERE enrollment_id = ? AND command_uuid = ? AND outcome = 'NotNow'`,
		event.ID, event.CommandUUID)
	if err != nil {
		return err
	}
	known, err := t.exists(`SELECT 1 FROM early_results WHERE enrollment_id = ? AND command_uuid = ?`,
		event.ID, event.CommandUUID)
	if err != nil || known {
		return err
	}
	full, err := t.exists(`SELECT 1 FROM early_results WHERE enrollment_id = ? ORDER BY command_uuid LIMIT 1 OFFSET ?`,
		event.ID, maxEarlyResults-1)
	if err != nil || full {
		return err
	}
	_, err = t.exec(`INSERT INTO early_results (enrollment_id, command_uuid, outcome, error, received_at)
		VALUES (?, ?, ?, ?, `+t.now+`)`, event.ID, event.CommandUUID, event.Status, nullable(cutError(event.Error)))
	return err
}

// takeEarlyResults writes the results that came before it was known that the command was sent. The enrollments' rows are
// held, so that a result comes either before this or to a row that has the command's UUID.
func (t *tx) takeEarlyResults(commandUUID string, ids []string) error {
	type result struct{ id, outcome, text string }
	var results []result
	err := queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
		var r result
		if err := rows.Scan(&r.id, &r.outcome, text{&r.text}); err != nil {
			return err
		}
		results = append(results, r)
		return nil
	}, `SELECT enrollment_id, outcome, error FROM early_results WHERE command_uuid = ? AND enrollment_id IN `+
		list(len(ids))+` ORDER BY enrollment_id`, args([]any{commandUUID}, ids)...)
	if err != nil {
		return err
	}
	for _, r := range results {
		// Only of the command that was written: another notifier may have the row.
		ours, err := t.exists(`SELECT 1 FROM enrollments WHERE id = ? AND command_uuid = ?`, r.id, commandUUID)
		if err != nil {
			return err
		}
		if ours {
			if err := t.commandResult(r.id, r.outcome, r.text); err != nil {
				return err
			}
		}
		if _, err := t.exec(`DELETE FROM early_results WHERE enrollment_id = ? AND command_uuid = ?`,
			r.id, commandUUID); err != nil {
			return err
		}
	}
	return nil
}
