package sqlstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/decree-ddm/decree/storage"
)

// mark is a note that enrollments may have to be told.
type mark struct {
	held     bool   // they are not to be told, unless something else has them told
	keepHeld bool   // who was not to be told still is not
	forceID  int64  // not 0: they are to be told even if in sync, once for this number
	urgent   bool   // they overtake mass fan-outs
	at       string // expression for when they are due
}

// urgentMark is the mark for an enrollment that a change names. It waits a moment for more edits.
func (t *tx) urgentMark(options storage.ChangeOptions) mark {
	return mark{held: options.Held, urgent: true, at: t.later(t.store.options.NotifyDelay.Microseconds())}
}

// later is the expression for so many microseconds from now.
func (t *tx) later(microseconds int64) string {
	return t.now + " + " + strconv.FormatInt(microseconds, 10)
}

// lockEnrollment locks an enrollment's row, and makes it if there is none.
func (t *tx) lockEnrollment(id string) error {
	known, err := t.exists(`SELECT 1 FROM enrollments WHERE id = ?`+t.dialect.Lock, id)
	if err != nil || known {
		return err
	}
	return t.createEnrollments([]string{id})
}

func (t *tx) createEnrollments(ids []string) error {
	for chunk := range slices.Chunk(ids, chunkSize) {
		values := make([]byte, 0, len(chunk)*8)
		for i := range chunk {
			if i > 0 {
				values = append(values, ',')
			}
			values = append(values, "(?, "+t.now+")"...)
		}
		if _, err := t.exec(`INSERT INTO enrollments (id, created_at) VALUES `+string(values)+` `+t.dialect.KeepExisting("id"),
			args(nil, chunk)...); err != nil {
			return err
		}
	}
	return nil
}

// mark marks enrollments, given in sorted order. Assignments stand in an order that is right also where a later one
// sees what an earlier one wrote, as in MySQL.
func (t *tx) mark(ids []string, m mark) error {
	set := `notify_seq = notify_seq + 1, `
	where := ``
	if m.held {
		// Who waits to be told stays so; the time of a check after a command stays too. Only who had nothing due is
		// looked at, to write down what is desired, and then left alone.
		set += `held = CASE WHEN notify_at IS NULL THEN 1 ELSE held END,
			notify_at = CASE WHEN notify_at IS NULL THEN ` + m.at + ` ELSE notify_at END`
	} else {
		if !m.keepHeld {
			set += `held = 0, `
		}
		set += `notify_at = CASE WHEN notify_at IS NULL OR notify_at > ` + m.at + ` THEN ` + m.at + ` ELSE notify_at END`
	}
	if m.urgent {
		set += `, priority = 1`
	}
	if m.forceID != 0 {
		force := strconv.FormatInt(m.forceID, 10)
		set += `, force_seq = notify_seq` + t.dialect.AfterIncrement + `, force_id = ` + force
		where = ` AND force_id <> ` + force
	}
	for chunk := range slices.Chunk(ids, chunkSize) {
		if _, err := t.exec(`UPDATE enrollments SET `+set+` WHERE id IN `+list(len(chunk))+where,
			args(nil, chunk)...); err != nil {
			return err
		}
	}
	return nil
}

// newForceID returns a number for a notification that is not 0.
func newForceID() int64 {
	return rand.Int64N(1<<62) + 1 // #nosec G404 -- it has to differ, not to be secret
}

// Notify implements storage.Notifications.
func (s *Store) Notify(ctx context.Context, targets storage.NotifyTargets, options storage.ChangeOptions) error {
	forceID := newForceID()
	options.Held = false // it releases those that are
	enrollments := slices.Compact(slices.Sorted(slices.Values(targets.Enrollments)))
	return s.inTx(ctx, foreground, "notifying", func(t *tx) error {
		sets := slices.Clone(targets.Sets)
		for chunk := range slices.Chunk(targets.Declarations, chunkSize) {
			more, err := t.strings(`SELECT DISTINCT set_name FROM set_declarations WHERE identifier IN `+list(len(chunk)),
				args(nil, chunk)...)
			if err != nil {
				return err
			}
			sets = append(sets, more...)
		}
		slices.Sort(sets)
		sets = slices.Compact(sets)
		// Fan-outs before enrollments: a fan-out that takes a step holds its row while it marks.
		if err := t.requestFanouts(sets, options, forceID); err != nil {
			return err
		}
		if err := t.createEnrollments(enrollments); err != nil {
			return err
		}
		m := t.urgentMark(options)
		m.forceID = forceID
		if err := t.mark(enrollments, m); err != nil {
			return err
		}
		return t.record(options, notifyEntry(targets, enrollments, sets))
	})
}

// Unmatched implements storage.Notifications.
func (s *Store) Unmatched(ctx context.Context, targets storage.NotifyTargets) (unmatched storage.NotifyTargets, err error) {
	for _, kind := range []struct {
		names     []string
		unmatched *[]string
		column    string
		matching  string
	}{
		{targets.Declarations, &unmatched.Declarations, `identifier`, `SELECT identifier FROM declarations WHERE `},
		// Rows of sets stay when nobody has the set any more. A set can have very many enrollments: one is enough.
		{targets.Sets, &unmatched.Sets, `name`, `SELECT name FROM sets
			WHERE (SELECT es.set_name FROM enrollment_sets es WHERE es.set_name = sets.name LIMIT 1) IS NOT NULL AND `},
		{targets.Enrollments, &unmatched.Enrollments, `id`, `SELECT id FROM enrollments WHERE `},
	} {
		names := slices.Compact(slices.Sorted(slices.Values(kind.names)))
		for chunk := range slices.Chunk(names, chunkSize) {
			matched, err := queryStrings(ctx, s.read, kind.matching+kind.column+` IN `+list(len(chunk)), args(nil, chunk)...)
			if err != nil {
				return storage.NotifyTargets{}, fmt.Errorf("looking for whom to notify: %w", err)
			}
			for _, name := range chunk {
				if !slices.Contains(matched, name) {
					*kind.unmatched = append(*kind.unmatched, name)
				}
			}
		}
	}
	return unmatched, nil
}

// notifyEntry tells of a notification. It names a target of a kind that has no other.
func notifyEntry(targets storage.NotifyTargets, enrollments, fanouts []string) changeEntry {
	only := func(names []string) string {
		if len(names) == 1 {
			return names[0]
		}
		return ""
	}
	entry := changeEntry{
		action: storage.ActionNotify, declaration: only(targets.Declarations), set: only(targets.Sets),
		enrollment: only(enrollments), reached: len(enrollments), fanouts: fanouts,
	}
	if targeted := len(targets.Declarations) + len(targets.Sets) + len(enrollments); targeted > 1 {
		entry.amount = targeted
	}
	return entry
}
