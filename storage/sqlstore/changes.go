package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// changeEntry is what a transaction has changed, for the log of changes.
type changeEntry struct {
	action                       storage.Action
	declaration, set, enrollment string
	from, to                     string // ServerTokens
	amount                       int    // not 0: it is about so many things, and not about one
	reached                      int    // enrollments that the transaction has marked itself
	// fanouts are the sets, each once, whose fan-outs, requested by this transaction, mark the others.
	fanouts []string
}

const changeColumns = `change_id, at, key_name, action, declaration, set_name, enrollment_id, from_token, to_token, held, amount,
	reached, waiting, of_enrollment`

// changeRow is a row of changeColumns, of which changeValues returns the values.
func changeRow(now string) string { return `(?, ` + now + `, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)` }

// changeValues returns the values for a row of the log; a nil reached is told by another row.
func changeValues(options storage.ChangeOptions, e changeEntry, reached any) []any {
	var amount any
	if e.amount != 0 {
		amount = e.amount
	}
	return []any{
		options.ChangeID, options.By, string(e.action), nullable(e.declaration), nullable(e.set), nullable(e.enrollment),
		nullable(e.from), nullable(e.to), options.Held, amount, reached, len(e.fanouts), e.enrollment != "",
	}
}

func insertChange(now string) string {
	return `INSERT INTO changes (` + changeColumns + `) VALUES ` + changeRow(now)
}

// linkChange is the statement that links a change to the fan-outs of so many sets that wait.
func linkChange(sets int) string {
	return `INSERT INTO change_fanouts (set_name, run, change_row)
		SELECT set_name, run, ? FROM fanouts WHERE pending = 1 AND set_name IN ` + list(sets)
}

// record writes what this transaction has changed to the log of changes. The caller holds the locks of what it is about, so
// that rows which are about the same have ids in the order of what they tell.
func (t *tx) record(options storage.ChangeOptions, e changeEntry) error {
	result, err := t.execPrepared(t.store.insertChange, insertChange(t.now), changeValues(options, e, e.reached)...)
	if err != nil {
		return err
	}
	id, err := result.LastInsertId()
	if err != nil {
		return err
	}
	// The transaction holds the rows of these fan-outs, which therefore have not begun.
	for chunk := range slices.Chunk(e.fanouts, chunkSize) {
		var prepared *sql.Stmt
		if len(chunk) == 1 {
			prepared = t.store.linkChange
		}
		result, err := t.execPrepared(prepared, linkChange(len(chunk)), args([]any{id}, chunk)...)
		if err != nil {
			return err
		}
		linked, err := result.RowsAffected()
		if err == nil && linked != int64(len(chunk)) {
			err = fmt.Errorf("a change waits for %d fan-outs, and %d of them are there", len(chunk), linked)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recordParts writes changes to the log of which another row tells whom all of them have reached.
func (t *tx) recordParts(options storage.ChangeOptions, parts []changeEntry) error {
	for chunk := range slices.Chunk(parts, chunkSize) {
		text := make([]byte, 0, 64*len(chunk))
		var all []any
		for i, part := range chunk {
			if i > 0 {
				text = append(text, ',')
			}
			text = append(text, changeRow(t.now)...)
			all = append(all, changeValues(options, part, nil)...)
		}
		if _, err := t.exec(`INSERT INTO changes (`+changeColumns+`) VALUES `+string(text), all...); err != nil {
			return err
		}
	}
	return nil
}

// recordLoss writes a change to the log by which an enrollment has lost several sets at once: each of them as if it were lost
// alone, so that it is found by the set, and behind them the entry, which counts them and tells the reach.
func (t *tx) recordLoss(options storage.ChangeOptions, e changeEntry, lost []string) error {
	parts := make([]changeEntry, len(lost))
	for i, set := range lost {
		parts[i] = changeEntry{action: storage.ActionDropEnrollmentSet, enrollment: e.enrollment, set: set}
	}
	if err := t.recordParts(options, parts); err != nil {
		return err
	}
	e.amount = len(lost)
	return t.record(options, e)
}

// credit adds what a fan-out has reached to the changes that have requested it, to a bounded number of them, and reports
// whether these were all. Nothing else is locked behind the rows of changes.
func (t *tx) credit(set string, run, reached int64) (all bool, err error) {
	var rows []any
	err = queryRows(t.ctx, t.raw, func(found *sql.Rows) error {
		var row int64
		err := found.Scan(&row)
		rows = append(rows, row)
		return err
	}, `SELECT change_row FROM change_fanouts WHERE set_name = ? AND run = ? ORDER BY change_row LIMIT ?`, set, run, chunkSize)
	if err != nil || len(rows) == 0 {
		return err == nil, err
	}
	if _, err := t.exec(`UPDATE changes SET reached = reached + ?, waiting = waiting - 1 WHERE id IN `+list(len(rows)),
		append([]any{reached}, rows...)...); err != nil {
		return false, err
	}
	_, err = t.exec(`DELETE FROM change_fanouts WHERE set_name = ? AND run = ? AND change_row IN `+list(len(rows)),
		append([]any{set, run}, rows...)...)
	return len(rows) < chunkSize, err
}

// trimChanges deletes the oldest rows of the log of changes that are too many: of those that are about one enrollment, of
// which there are as many as there are devices, and of the others. Those that wait for fan-outs stay until these are done.
func (s *Store) trimChanges(ctx context.Context, limit int) error {
	for _, ofEnrollment := range []bool{false, true} {
		var oldest, newest sql.NullInt64
		err := s.read.QueryRowContext(ctx, `SELECT (SELECT MIN(id) FROM changes WHERE of_enrollment = ?),
			(SELECT MAX(id) FROM changes WHERE of_enrollment = ?)`, ofEnrollment, ofEnrollment).Scan(&oldest, &newest)
		if err == nil && newest.Int64-oldest.Int64 >= int64(s.options.KeepChanges) {
			err = s.trimClass(ctx, ofEnrollment, limit)
		}
		if err != nil {
			return fmt.Errorf("deleting old changes: %w", err)
		}
	}
	return nil
}

func (s *Store) trimClass(ctx context.Context, ofEnrollment bool, limit int) error {
	from := `SELECT id FROM changes` + s.dialect.ReadBy("changes_kept") + ` WHERE of_enrollment = ?`
	// Ids have gaps, so that the rows are counted, in an index that has nothing else in it.
	surplus, err := s.changeIDs(ctx, from+` ORDER BY id DESC LIMIT 1 OFFSET ?`, ofEnrollment, s.options.KeepChanges)
	if err != nil || len(surplus) == 0 {
		return err
	}
	var after any = int64(0)
	for {
		old, err := s.changeIDs(ctx, from+` AND id > ? AND id <= ? ORDER BY id LIMIT ?`,
			ofEnrollment, after, surplus[0], min(limit, chunkSize))
		if err != nil || len(old) == 0 {
			return err
		}
		after = old[len(old)-1]
		if err := s.inTx(ctx, background, "deleting", func(t *tx) error {
			_, err := t.exec(`DELETE FROM changes WHERE id IN `+list(len(old))+` AND waiting = 0`, old...)
			return err
		}); err != nil {
			return err
		}
	}
}

func (s *Store) changeIDs(ctx context.Context, query string, args ...any) (ids []any, err error) {
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	}, query, args...)
	return ids, err
}

// maxChangesRead is how many rows of the log are read at a time where some may not be wanted.
const maxChangesRead = 500

// changeFilter is a filter that has an index of its own.
type changeFilter struct{ column, index, value string }

// filtersOf returns the filters of a query, the one first that mostly leaves the fewest rows.
func filtersOf(query storage.ChangeQuery) []changeFilter {
	return slices.DeleteFunc([]changeFilter{
		{"change_id", "changes_change", query.ChangeID},
		{"enrollment_id", "changes_enrollment", query.EnrollmentID},
		{"declaration", "changes_declaration", query.Declaration},
		{"set_name", "changes_set", query.Set},
		{"key_name", "changes_key", query.By},
		{"action", "changes_action", string(query.Action)},
	}, func(filter changeFilter) bool { return filter.value == "" })
}

// Changes implements storage.Changes. It walks along the index of the first filter, and looks whether the others fit.
func (s *Store) Changes(
	ctx context.Context, query storage.ChangeQuery,
) (list []storage.Change, next *storage.ChangePlace, err error) {
	index, where := "changes_at", ""
	var values []any
	filters := filtersOf(query)
	if len(filters) > 0 {
		index, where = filters[0].index, filters[0].column+` = ? AND `
		values = append(values, filters[0].value)
	}
	page := query.Limit + 1 // the one more tells whether there is a next page
	if len(filters) > 1 {
		page = maxChangesRead
	}
	place := storage.ChangePlace{At: time.UnixMicro(math.MaxInt64), ID: math.MaxInt64}
	if !query.Until.IsZero() {
		place.At = time.UnixMicro(ceilMicro(query.Until) - 1)
	}
	if after := query.After; after.ID != 0 && !after.At.After(place.At) {
		place = after
	}
	since := int64(0)
	if !query.Since.IsZero() {
		since = ceilMicro(query.Since)
	}
	statement := `SELECT id, ` + changeColumns + ` FROM changes` + s.dialect.ReadBy(index) + ` WHERE ` + where + `
		at >= ? AND at <= ? AND (at < ? OR id < ?) ORDER BY at DESC, id DESC LIMIT ?`
	for looked := 0; ; {
		var read []storage.Change
		at := place.At.UnixMicro()
		err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
			change, err := scanChange(rows)
			read = append(read, change)
			return err
		}, statement, append(slices.Clone(values), since, at, at, place.ID, page)...)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the log of changes: %w", err)
		}
		for i, change := range read {
			looked++
			place = storage.ChangePlace{At: change.At, ID: change.ID}
			if wants(query, change) {
				list = append(list, change)
			}
			if len(list) < query.Limit && looked < s.options.MaxLooked {
				continue
			}
			if i < len(read)-1 || len(read) == page {
				next = &place
			}
			return list, next, nil
		}
		if len(read) < page {
			return list, nil, nil
		}
	}
}

// ceilMicro is the first microsecond that is not before a time.
func ceilMicro(t time.Time) int64 {
	return t.Add(time.Microsecond - time.Nanosecond).UnixMicro()
}

// wants reports whether a row fits all filters of a query.
func wants(query storage.ChangeQuery, change storage.Change) bool {
	fits := func(wanted, is string) bool { return wanted == "" || wanted == is }
	return fits(query.ChangeID, change.ChangeID) && fits(query.EnrollmentID, change.EnrollmentID) &&
		fits(query.Declaration, change.Declaration) && fits(query.Set, change.Set) && fits(query.By, change.By) &&
		fits(string(query.Action), string(change.Action))
}

func scanChange(rows *sql.Rows) (change storage.Change, err error) {
	var action string
	var amount, reached sql.NullInt64
	var waiting int64
	var ofEnrollment bool
	err = rows.Scan(&change.ID, &change.ChangeID, instant{&change.At}, &change.By, &action, text{&change.Declaration},
		text{&change.Set}, text{&change.EnrollmentID}, text{&change.FromToken}, text{&change.ToToken}, &change.Held, &amount,
		&reached, &waiting, &ofEnrollment)
	change.Action, change.Amount = storage.Action(action), amount.Int64
	if reached.Valid {
		change.Reach = &storage.Reach{Enrollments: reached.Int64, Finished: waiting == 0}
	}
	return change, err
}
