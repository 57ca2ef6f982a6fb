package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// maxDetailOctets bounds what is told of a happening: devices give reasons of any length. Beyond it, what is longer than
// maxDetailValueOctets is left out, and can be asked for.
const (
	maxDetailOctets      = 16 << 10
	maxDetailValueOctets = 1 << 10
)

// happened notes what happened to an enrollment, for the log. The detail becomes a JSON object.
func (t *tx) happened(kind storage.HappeningKind, enrollmentID string, detail map[string]any) error {
	text, err := happeningDetail(detail)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO event_outbox (at, kind, enrollment_id, detail) VALUES (`+t.now+`, ?, ?, ?)`,
		string(kind), enrollmentID, text)
	return err
}

func happeningDetail(detail map[string]any) (string, error) {
	if detail == nil {
		return "{}", nil
	}
	text, err := json.Marshal(detail)
	if err != nil || len(text) <= maxDetailOctets {
		return string(text), err
	}
	kept := map[string]any{"shortened": true}
	for name, value := range detail {
		if text, err = json.Marshal(value); err != nil {
			return "", err
		}
		if len(text) <= maxDetailValueOctets {
			kept[name] = value
		}
	}
	text, err = json.Marshal(kept)
	return string(text), err
}

// AdvanceHappenings implements storage.Happenings.
//
// The one row of event_log is locked until the commit, so that no id can be read before all lower ones can. Whoever finds
// it locked leaves the work to the one who has it. Nobody who holds another lock waits for this one.
func (s *Store) AdvanceHappenings(ctx context.Context, limit int) (appended int, more bool, err error) {
	waits, err := s.happeningsWait(ctx)
	if err != nil || !waits {
		return 0, false, err
	}
	err = s.inTx(ctx, background, "advancing the log", func(t *tx) error {
		appended, more, err = t.advanceHappenings(limit)
		return err
	})
	if err != nil {
		return 0, false, err
	}
	return appended, more, nil
}

// happeningsWait reports whether there is something to do, which there mostly is not.
func (s *Store) happeningsWait(ctx context.Context) (bool, error) {
	var last int64
	var oldest, noted sql.NullInt64
	err := s.read.QueryRowContext(ctx, `SELECT last_id, (SELECT MIN(id) FROM events), (SELECT MIN(id) FROM event_outbox)
		FROM event_log WHERE id = 1`).Scan(&last, &oldest, &noted)
	if err != nil {
		return false, fmt.Errorf("looking for what happened: %w", err)
	}
	if noted.Valid || oldest.Valid && oldest.Int64 <= last-int64(s.options.KeepEvents) {
		return true, nil
	}
	news, err := queryStrings(ctx, s.read, `SELECT id FROM enrollments`+s.dialect.ReadBy("enrollments_sync_news")+`
		WHERE sync_news = 1 ORDER BY id LIMIT 1`)
	if err != nil {
		return false, fmt.Errorf("looking for who came to be in sync: %w", err)
	}
	return len(news) > 0, nil
}

func (t *tx) advanceHappenings(limit int) (appended int, more bool, err error) {
	var last int64
	err = t.raw.QueryRowContext(t.ctx, `SELECT last_id FROM event_log WHERE id = 1`+t.dialect.LockSkip).Scan(&last)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	noted, err := t.appendNoted(last, limit)
	if err != nil {
		return 0, false, err
	}
	told, moreNews := 0, false
	// What was noted earlier comes first: an enrollment is told of before that it is in sync.
	if noted < limit {
		if told, moreNews, err = t.appendSyncNews(last+int64(noted), limit); err != nil {
			return 0, false, err
		}
	}
	appended = noted + told
	last += int64(appended)
	if appended > 0 {
		if _, err := t.exec(`UPDATE event_log SET last_id = ? WHERE id = 1`, last); err != nil {
			return 0, false, err
		}
	}
	pruned, err := t.pruneHappenings(last-int64(t.store.options.KeepEvents), 2*limit)
	return appended, noted == limit || moreNews || pruned == int64(2*limit), err
}

// appendNoted moves what was noted, and is committed, to the log. The rows are named by their ids, since others may be
// committed in between that sort before some of these.
func (t *tx) appendNoted(last int64, limit int) (appended int, err error) {
	var ids []any
	err = queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	}, `SELECT id FROM event_outbox WHERE id > 0 ORDER BY id LIMIT ?`, limit)
	if err != nil {
		return 0, err
	}
	for chunk := range slices.Chunk(ids, chunkSize) {
		moved, err := t.exec(`INSERT INTO events (id, at, kind, enrollment_id, detail)
			SELECT ? + ROW_NUMBER() OVER (ORDER BY id), at, kind, enrollment_id, detail FROM event_outbox
			WHERE id IN `+list(len(chunk)), append([]any{last + int64(appended)}, chunk...)...)
		if err == nil && moved != int64(len(chunk)) {
			err = fmt.Errorf("%d of %d happenings were moved", moved, len(chunk))
		}
		if err != nil {
			return 0, err
		}
		if _, err := t.exec(`DELETE FROM event_outbox WHERE id IN `+list(len(chunk)), chunk...); err != nil {
			return 0, err
		}
		appended += len(chunk)
	}
	return appended, nil
}

// appendSyncNews tells of enrollments that are in sync and were last told to be out of sync, or the other way round. What
// others hold is left for later, so that nobody waits for the locks that are held here for longer than this takes. Nobody is
// told of who has left, and has nothing.
func (t *tx) appendSyncNews(last int64, limit int) (appended int, more bool, err error) {
	type news struct {
		id         string
		outOfSync  bool
		left       bool
		at, now    time.Time
		want, have string
	}
	var all []news
	err = queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
		var n news
		err := rows.Scan(&n.id, &n.outOfSync, &n.left, instant{&n.at}, instant{&n.now}, text{&n.want}, text{&n.have})
		all = append(all, n)
		return err
	}, `SELECT id, out_of_sync, left_at IS NOT NULL, sync_changed_at, `+t.now+`, desired_token, synced_token
		FROM enrollments`+t.dialect.ReadBy("enrollments_sync_news")+`
		WHERE sync_news = 1 ORDER BY id LIMIT ?`+t.dialect.LockSkip, limit)
	if err != nil {
		return 0, false, err
	}
	for chunk := range slices.Chunk(all, chunkSize) {
		var ids []string
		var values []any
		for _, n := range chunk {
			ids = append(ids, n.id)
			if n.left {
				continue
			}
			appended++
			kind, detail := storage.HappenedInSync, map[string]any{}
			if n.have != "" {
				detail["token"] = n.have
			}
			if n.outOfSync {
				kind, detail = storage.HappenedOutOfSync, map[string]any{}
				if n.want != "" {
					detail["desired_token"] = n.want
				}
			}
			if n.at.IsZero() {
				n.at = n.now
			}
			text, err := happeningDetail(detail)
			if err != nil {
				return 0, false, err
			}
			values = append(values, last+int64(appended), n.at.UnixMicro(), string(kind), n.id, text)
		}
		if len(values) > 0 {
			if _, err := t.exec(`INSERT INTO events (id, at, kind, enrollment_id, detail) VALUES `+rowsOf(len(values)/5, 5),
				values...); err != nil {
				return 0, false, err
			}
		}
		if _, err := t.exec(`UPDATE enrollments SET sync_told = out_of_sync, sync_news = NULL WHERE id IN `+list(len(ids)),
			args(nil, ids)...); err != nil {
			return 0, false, err
		}
	}
	return appended, len(all) == limit, nil
}

// pruneHappenings deletes up to an id, a bounded number of the oldest.
func (t *tx) pruneHappenings(until int64, limit int) (pruned int64, err error) {
	var oldest sql.NullInt64
	if err := t.raw.QueryRowContext(t.ctx, `SELECT MIN(id) FROM events`).Scan(&oldest); err != nil {
		return 0, err
	}
	if !oldest.Valid || oldest.Int64 > until {
		return 0, nil
	}
	return t.exec(`DELETE FROM events WHERE id <= ?`, min(until, oldest.Int64+int64(limit)-1))
}

// ends returns the ids of the oldest and of the newest in the log.
func (s *Store) ends(ctx context.Context) (oldest, last int64, err error) {
	var first sql.NullInt64
	err = s.read.QueryRowContext(ctx, `SELECT last_id, (SELECT MIN(id) FROM events) FROM event_log WHERE id = 1`).
		Scan(&last, &first)
	if !first.Valid {
		first.Int64 = last + 1
	}
	return first.Int64, last, err
}

// Happenings implements storage.Happenings. The end is read before the page, so that Next passes over nothing that was
// appended meanwhile, and the beginning after it, so that nothing was deleted meanwhile.
func (s *Store) Happenings(ctx context.Context, query storage.HappeningQuery) (*storage.HappeningPage, error) {
	oldest, last, err := s.ends(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the ends of the log: %w", err)
	}
	after := query.After
	if after == storage.FromOldest {
		after = oldest - 1
	}
	gone := &storage.HappeningsGoneError{After: after, OldestID: oldest, LastID: last}
	page := &storage.HappeningPage{Next: after, LastID: last}
	switch {
	case after > last:
		return nil, gone
	case after == last:
		return page, nil
	}
	page.Next = min(after+int64(s.options.MaxLooked), last)
	where, values := `id > ? AND id <= ?`, []any{after, page.Next}
	if query.EnrollmentID != "" {
		where += ` AND enrollment_id = ?`
		values = append(values, query.EnrollmentID)
	}
	if len(query.Kinds) > 0 {
		where += ` AND kind IN ` + list(len(query.Kinds))
		for _, kind := range query.Kinds {
			values = append(values, string(kind))
		}
	}
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var h storage.Happening
		var detail []byte
		err := rows.Scan(&h.ID, instant{&h.At}, &h.Kind, &h.EnrollmentID, &detail)
		h.Detail = detail
		page.Happenings = append(page.Happenings, h)
		return err
	}, `SELECT id, at, kind, enrollment_id, detail FROM events WHERE `+where+` ORDER BY id LIMIT ?`,
		append(values, query.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	if len(page.Happenings) == query.Limit {
		page.Next = page.Happenings[query.Limit-1].ID
	}
	if query.After == storage.FromOldest {
		return page, nil
	}
	if gone.OldestID, gone.LastID, err = s.ends(ctx); err != nil {
		return nil, fmt.Errorf("reading the ends of the log: %w", err)
	}
	if after < gone.OldestID-1 {
		return nil, gone
	}
	return page, nil
}

// TakeDelivery implements storage.Happenings.
func (s *Store) TakeDelivery(ctx context.Context, lease storage.Lease, limit int) (*storage.Delivery, error) {
	var last int64
	var delivered, holder sql.NullInt64
	var held bool
	now := s.now()
	err := s.read.QueryRowContext(ctx, `SELECT last_id, delivered_id, lease_id, COALESCE(lease_until > `+now+`, 0)
		FROM event_log WHERE id = 1`).Scan(&last, &delivered, &holder, &held)
	if err != nil {
		return nil, fmt.Errorf("looking for what is to be delivered: %w", err)
	}
	if delivered.Valid && delivered.Int64 == last || held && holder.Int64 != lease.ID {
		return nil, nil
	}
	taken := false
	err = s.inTx(ctx, background, "taking a delivery", func(t *tx) error {
		written, err := t.exec(`UPDATE event_log SET lease_id = ?, lease_until = `+t.later(lease.Duration.Microseconds())+`,
				delivered_id = COALESCE(delivered_id, last_id)
			WHERE id = 1 AND (lease_id = ? OR lease_until IS NULL OR lease_until <= `+t.now+`)`, lease.ID, lease.ID)
		if taken = err == nil && written == 1; !taken {
			return err
		}
		return t.raw.QueryRowContext(t.ctx, `SELECT delivered_id FROM event_log WHERE id = 1`).Scan(&delivered)
	})
	if err != nil || !taken {
		return nil, err
	}
	page, err := s.Happenings(ctx, storage.HappeningQuery{After: delivered.Int64, Limit: limit})
	var gone *storage.HappeningsGoneError
	if errors.As(err, &gone) {
		page, err = s.Happenings(ctx, storage.HappeningQuery{After: storage.FromOldest, Limit: limit})
	}
	if err != nil || len(page.Happenings) == 0 {
		return nil, err
	}
	return &storage.Delivery{
		Happenings: page.Happenings, Lost: page.Happenings[0].ID - 1 - delivered.Int64,
	}, nil
}

// HoldDelivery implements storage.Happenings.
func (s *Store) HoldDelivery(ctx context.Context, lease storage.Lease) (held bool, err error) {
	return s.changeDelivery(ctx, lease, "keeping a delivery", func(t *tx) (string, []any) {
		return `lease_until = ` + t.later(lease.Duration.Microseconds()), nil
	})
}

// Delivered implements storage.Happenings.
func (s *Store) Delivered(ctx context.Context, lease storage.Lease, id int64) (held bool, err error) {
	return s.changeDelivery(ctx, lease, "noting a delivery", func(*tx) (string, []any) {
		return `delivered_id = ?`, []any{id}
	})
}

// GiveUpDelivery implements storage.Happenings.
func (s *Store) GiveUpDelivery(ctx context.Context, lease storage.Lease) error {
	_, err := s.changeDelivery(ctx, lease, "giving up a delivery", func(*tx) (string, []any) {
		return `lease_id = NULL, lease_until = NULL`, nil
	})
	return err
}

// changeDelivery writes to the row of the log while a lease is held. One that has ended is, while nobody else has taken it.
func (s *Store) changeDelivery(
	ctx context.Context, lease storage.Lease, operation string, assignments func(*tx) (set string, values []any),
) (held bool, err error) {
	err = s.inTx(ctx, background, operation, func(t *tx) error {
		set, values := assignments(t)
		written, err := t.exec(`UPDATE event_log SET `+set+` WHERE id = 1 AND lease_id = ?`, append(values, lease.ID)...)
		held = written == 1
		return err
	})
	return held && err == nil, err
}
