package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/decree-ddm/decree/storage"
)

// requestFanouts asks that the enrollments of these sets, sorted, be marked. A set has at most one fan-out that runs
// and one that waits; a further request merges with the one that waits, whose run stays what it is.
func (t *tx) requestFanouts(sets []string, options storage.ChangeOptions, forceID int64) error {
	due := t.later(t.store.options.NotifyDelay.Microseconds())
	held := t.dialect.Inserted("held")
	force := t.dialect.Inserted("force_id")
	// A change that merges with a waiting notification has it go by another number: who was marked for the first one, by
	// way of another set, must be marked for the change.
	renewed := strconv.FormatInt(newForceID(), 10)
	run := rand.Int64() // #nosec G404 -- it has to differ, not to be secret
	for chunk := range slices.Chunk(sets, chunkSize) {
		var values []any
		for _, set := range chunk {
			values = append(values, set, options.Held, forceID, options.ChangeID, run)
		}
		rows := strings.TrimSuffix(strings.Repeat(`(?, 1, ?, ?, ?, ?, `+due+`),`, len(chunk)), ",")
		if _, err := t.exec(`INSERT INTO fanouts (set_name, pending, held, force_id, change_id, run, due_at) VALUES `+rows+` `+
			t.dialect.Upsert("set_name, pending")+`
				held = CASE WHEN `+held+` = 0 THEN 0 ELSE held END,
				force_id = CASE WHEN `+force+` <> 0 THEN `+force+` WHEN force_id <> 0 THEN `+renewed+` ELSE 0 END,
				change_id = `+t.dialect.Inserted("change_id"), values...); err != nil {
			return err
		}
	}
	return nil
}

// AdvanceFanout implements storage.Notifications.
//
// The fan-out's row is locked while a page of its enrollments is marked, which keeps other replicas off it and is
// given up by the database should this process die. Nobody who holds an enrollment's lock waits for a fan-out's.
func (s *Store) AdvanceFanout(ctx context.Context, limit int) (*storage.FanoutPage, error) {
	due, err := queryStrings(ctx, s.read, `SELECT set_name FROM fanouts WHERE due_at <= `+s.now()+` ORDER BY due_at LIMIT 1`)
	if err != nil || len(due) == 0 {
		return nil, err
	}
	var page *storage.FanoutPage
	err = s.inTx(ctx, background, "advancing a fan-out", func(t *tx) error {
		page, err = t.advanceFanout(limit)
		return err
	})
	return page, err
}

func (t *tx) advanceFanout(limit int) (*storage.FanoutPage, error) {
	page := &storage.FanoutPage{}
	var pending, done bool
	var position string
	var run int64
	m := mark{at: t.now}
	// It counts, for MariaDB makes of NOT EXISTS a copy of all fan-outs.
	err := t.raw.QueryRowContext(t.ctx, `SELECT set_name, pending, position, held, force_id, change_id, reached, run, done
		FROM fanouts WHERE due_at <= `+t.now+` AND (pending = 0
			OR (SELECT COUNT(*) FROM fanouts running WHERE running.set_name = fanouts.set_name AND running.pending = 0) = 0)
		ORDER BY due_at LIMIT 1`+t.dialect.LockSkip).
		Scan(&page.Set, &pending, &position, &m.held, &m.forceID, &page.ChangeID, &page.Reached, &run, &done)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if pending {
		if _, err := t.exec(`UPDATE fanouts SET pending = 0 WHERE set_name = ? AND pending = 1`, page.Set); err != nil {
			return nil, err
		}
	}
	if !done {
		var ids []string
		if page.Set == everybody {
			m.keepHeld = true
			ids, err = t.strings(`SELECT id FROM enrollments WHERE id > ? ORDER BY id LIMIT ?`, position, limit)
		} else {
			ids, err = t.strings(t.dialect.setMembers()+` LIMIT ?`, page.Set, position, limit)
		}
		if err != nil {
			return nil, err
		}
		page.Marked = len(ids)
		page.Reached += int64(len(ids))
		done = len(ids) < limit
		// What is over in one page is no mass fan-out, and need not stand behind one.
		m.urgent = done && position == ""
		if err := t.mark(ids, m); err != nil {
			return nil, err
		}
		if len(ids) > 0 {
			position = ids[len(ids)-1]
		}
	}
	if done {
		if page.Done, err = t.credit(page.Set, run, page.Reached); err != nil {
			return nil, err
		}
	}
	if page.Done {
		_, err = t.exec(`DELETE FROM fanouts WHERE set_name = ? AND pending = 0`, page.Set)
		return page, err
	}
	// The others have their turn first.
	_, err = t.exec(`UPDATE fanouts SET position = ?, reached = ?, done = ?, due_at = `+t.now+`
		WHERE set_name = ? AND pending = 0`, position, page.Reached, done, page.Set)
	return page, err
}
