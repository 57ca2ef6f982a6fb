package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// The database's clock can be set back: times that were stored before are in the future then, and what waits for them would
// wait for as long as the clock was ahead. So the latest time that was seen is in the database too. When the clock is behind
// that, all enrollments are gone through, page by page, and times that are to come are put back by as much.
//
// A time is put back whoever wrote it, before the clock was wrong too. What is due too early for that is looked at, and found
// to have time.
const (
	// clockInterval is how often the time is noted.
	clockInterval = 10 * time.Second
	// clockSlack is by how much the clock may go back without consequence.
	clockSlack = 5 * time.Second
	// clockPage is how many enrollments are put right in one transaction.
	clockPage = 200
	// longestLease is more than any lease lasts. One that ends later has been taken by a clock that was ahead.
	longestLease = 10 * time.Minute
)

// neverBefore is a time before which no clock is believed: machines without one of their own begin in 1970.
var neverBefore = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// KeepClock notes the time, and puts stored times right when the clock was set back, a page at a time. It returns by how much
// the clock was found to be set back, 0 if it was not, and whether there is more to put right.
func (s *Store) KeepClock(ctx context.Context) (back time.Duration, more bool, err error) {
	row, err := readClock(ctx, s.read, s.now(), "")
	if err != nil {
		return 0, false, fmt.Errorf("reading the clock: %w", err)
	}
	idle := row.back() <= clockSlack && !row.behind.Valid && row.now.Sub(row.seenAt) < clockInterval
	if idle || row.now.Before(neverBefore) {
		return 0, false, nil
	}
	err = s.inTx(ctx, background, "keeping the clock", func(t *tx) error {
		back, more = 0, false
		row, err := readClock(ctx, t, t.now, t.dialect.LockSkip)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil // somebody else is at it
		case err != nil:
			return err
		case row.back() > clockSlack:
			back, more = row.back(), true
			return t.setBack(row)
		case row.behind.Valid:
			more, err = t.putBack(row)
			return err
		}
		_, err = t.exec(`UPDATE clock SET seen_at = ` + t.now + ` WHERE id = 1`)
		return err
	})
	return back, more && err == nil, err
}

// clockRow is what the database knows of its clock.
type clockRow struct {
	now, seenAt time.Time
	// behind is by how much times are being put back, and position the enrollment up to which they are.
	behind   sql.NullInt64
	position string
}

// back is by how much the clock was set back.
func (row *clockRow) back() time.Duration { return row.seenAt.Sub(row.now) }

func readClock(ctx context.Context, q rowQueryer, now, lock string) (row clockRow, err error) {
	err = q.QueryRowContext(ctx, `SELECT `+now+`, seen_at, behind, position FROM clock WHERE id = 1`+lock).
		Scan(instant{&row.now}, instant{&row.seenAt}, &row.behind, text{&row.position})
	return row, err
}

// setBack begins to put times back. Where that is being done already, it begins anew: the clock was set back again.
func (t *tx) setBack(row clockRow) error {
	behind := row.back().Microseconds() + row.behind.Int64
	if _, err := t.exec(`UPDATE event_log SET lease_until = ` + t.now + `
		WHERE id = 1 AND lease_until > ` + t.later(longestLease.Microseconds())); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE clock SET seen_at = `+t.now+`, behind = ?, position = '' WHERE id = 1`, behind)
	return err
}

// pastColumns are times of what has happened.
var pastColumns = []string{
	"created_at", "authenticated_at", "enrolled_at", "left_at", "token_updated_at", "webhook_at", "last_seen", "command_sent_at",
	"command_acknowledged_at", "pushed_at", "asked_at", "fetched_at", "synced_at", "sync_changed_at",
}

// putBack puts the times of a page of fan-outs, of numbers of declarations, or of enrollments back.
func (t *tx) putBack(row clockRow) (more bool, err error) {
	sets, err := t.strings(`SELECT set_name FROM fanouts WHERE due_at > `+t.later(t.store.options.NotifyDelay.Microseconds())+`
		ORDER BY due_at LIMIT ?`, clockPage)
	if err != nil {
		return false, err
	}
	if len(sets) > 0 {
		slices.Sort(sets)
		_, err = t.exec(`UPDATE fanouts SET due_at = `+t.now+` WHERE set_name IN `+list(len(sets)), args(nil, sets)...)
		return true, err
	}
	counted, err := t.strings(`SELECT identifier FROM declaration_summaries WHERE counted_at > `+
		t.later(clockSlack.Microseconds())+` ORDER BY counted_at LIMIT ?`, clockPage)
	if err != nil {
		return false, err
	}
	if len(counted) > 0 {
		slices.Sort(counted)
		_, err = t.exec(`UPDATE declaration_summaries SET counted_at = `+t.now+` WHERE identifier IN `+list(len(counted)),
			args(nil, counted)...)
		return true, err
	}
	ids, err := t.strings(`SELECT id FROM enrollments WHERE id > ? ORDER BY id LIMIT ?`, row.position, clockPage)
	if err != nil {
		return false, err
	}
	if len(ids) > 0 {
		set, ahead := aheadOf(t.now, t.later(clockSlack.Microseconds()), t.later(longestLease.Microseconds()),
			row.behind.Int64)
		if _, err := t.exec(`UPDATE enrollments SET `+set+` WHERE id IN `+list(len(ids))+` AND (`+ahead+`)`,
			args(nil, ids)...); err != nil {
			return false, err
		}
	}
	if len(ids) < clockPage {
		_, err = t.exec(`UPDATE clock SET behind = NULL, position = '' WHERE id = 1`)
		return false, err
	}
	_, err = t.exec(`UPDATE clock SET position = ? WHERE id = 1`, ids[len(ids)-1])
	return true, err
}

// aheadOf returns the assignments that put times back by so many microseconds, and the condition for rows that have any to
// put back. What is due then is due now, and what has happened has not happened later than now.
//
// What happens while this waits for a row has its time from after it began, and servers of a cluster have clocks of their own:
// what is after now by little is right, and would be put back to before it happened.
func aheadOf(now, recent, leased string, behind int64) (set, ahead string) {
	set = `lease_until = CASE WHEN lease_until > ` + leased + ` THEN ` + now + ` ELSE lease_until END`
	ahead = `lease_until > ` + leased
	add := func(column, latest, far, near string) {
		set += fmt.Sprintf(`, %[1]s = CASE WHEN %[1]s > %[2]s + %[3]d THEN %[5]s WHEN %[1]s > %[4]s THEN %[6]s ELSE %[1]s END`,
			column, now, behind, latest, far, near)
		ahead += ` OR ` + column + ` > ` + latest
	}
	back := ` - ` + strconv.FormatInt(behind, 10)
	add("notify_at", now, "notify_at"+back, now)
	for _, column := range pastColumns {
		add(column, recent, now, column+back)
	}
	return set, ahead
}
