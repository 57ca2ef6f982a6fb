package sqlstore

import (
	"context"

	"github.com/decree-ddm/decree/storage"
)

// Restored makes a database that was restored from a backup say no more than is known. The devices have gone on since the
// backup was made: which tokens they hold, and what they were told, is what they say from now on. So everybody who may
// hold something is out of sync and due, except for those who have left. Those that the backup knows nothing of and for
// whom there is nothing stay so: declarative management is not switched on for them.
func (s *Store) Restored(ctx context.Context, changeID string) error {
	return s.inTx(ctx, background, "having everybody looked at again", func(t *tx) error {
		// It counts as told, of something that nobody knows, and as having come for it.
		const told = `(command_sent_at IS NOT NULL OR asked_token IS NOT NULL OR fetched_token IS NOT NULL
			OR synced_token IS NOT NULL
			OR EXISTS (SELECT 1 FROM facts f WHERE f.enrollment_id = enrollments.id AND f.confirmed_at IS NOT NULL))`
		for _, statement := range []string{
			`UPDATE enrollments SET command_acknowledged_at = CASE WHEN ` + told + ` THEN ` + t.now + ` ELSE NULL END`,
			`UPDATE enrollments SET
				command_sent_at = command_acknowledged_at, command_token = NULL, command_uuid = NULL, command_outcome = NULL,
				command_error = NULL, sends = 0, pushed_at = NULL, push_failures = 0, attempts = 0, last_error = NULL,
				asked_token = NULL, asked_at = NULL, fetched_token = NULL, fetched_at = NULL,
				synced_token = NULL, synced_at = NULL,
				sync_changed_at = CASE WHEN command_acknowledged_at IS NULL OR out_of_sync = 1 THEN sync_changed_at ELSE ` + t.now + ` END,
				sync_news = CASE WHEN sync_told = 0 AND (command_acknowledged_at IS NOT NULL OR out_of_sync = 1)
					OR sync_told = 1 AND command_acknowledged_at IS NULL AND out_of_sync = 0 THEN 1 END,
				out_of_sync = CASE WHEN command_acknowledged_at IS NULL THEN out_of_sync ELSE 1 END,
				lease_id = NULL, lease_seq = NULL, lease_until = NULL, priority = 0,
				notify_seq = notify_seq + 1, notify_at = CASE WHEN left_at IS NULL THEN ` + t.now + ` ELSE NULL END`,
			`DELETE FROM early_results`,
		} {
			if _, err := t.exec(statement); err != nil {
				return err
			}
		}
		var marked int
		if err := t.raw.QueryRowContext(t.ctx, `SELECT COUNT(*) FROM enrollments WHERE left_at IS NULL`).Scan(&marked); err != nil {
			return err
		}
		return t.record(storage.ChangeOptions{ChangeID: changeID, By: storage.ByRestore},
			changeEntry{action: storage.ActionRestore, reached: marked})
	})
}
