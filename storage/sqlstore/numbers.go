package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"

	"github.com/decree-ddm/decree/storage"
)

// counters count what no caller is told.
type counters struct {
	retries, leftOut atomic.Int64
}

// Stats is what a store has done since it was opened.
type Stats struct {
	// Pools are the connections to the database, by what they are for.
	Pools map[string]sql.DBStats
	// Works says that the database answered when Look last asked it, and could be written to.
	Works bool
	// InFlight are the operations under way, and Refused counts those that were not begun because the database was away, or too
	// much waited for it.
	InFlight, Refused int64
	// Retries counts the transactions that lost against others and were tried again.
	Retries int64
	// LeftOut counts what status reports said and is kept in the stored report only.
	LeftOut int64
}

// Stats asks no database.
func (s *Store) Stats() Stats {
	pools := map[string]sql.DBStats{"read": s.read.db.Stats()}
	if s.write == s.read.db {
		pools = map[string]sql.DBStats{"all": s.read.db.Stats()}
	} else {
		pools["write"] = s.write.Stats()
	}
	g := s.guard
	return Stats{Pools: pools, Works: g.away.Load() == nil && g.unwritable.Load() == nil, InFlight: g.inside.Load(),
		Refused: g.refused.Load(), Retries: s.counters.retries.Load(), LeftOut: s.counters.leftOut.Load()}
}

// HappeningNumbers implements storage.Numbers.
func (s *Store) HappeningNumbers(ctx context.Context) (storage.HappeningNumbers, error) {
	var numbers storage.HappeningNumbers
	var oldest, delivered sql.NullInt64
	var news int
	err := s.read.QueryRowContext(ctx, `SELECT last_id, delivered_id, (SELECT MIN(id) FROM events),
			(SELECT COUNT(*) FROM (SELECT id FROM event_outbox WHERE id > 0 ORDER BY id LIMIT ?) noted)
		FROM event_log WHERE id = 1`, s.options.MaxCounted).Scan(&numbers.LastID, &delivered, &oldest, &numbers.Waiting)
	if err == nil {
		err = s.read.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT id FROM enrollments`+
			s.dialect.ReadBy("enrollments_sync_news")+` WHERE sync_news = 1 ORDER BY id LIMIT ?) news`,
			s.options.MaxCounted).Scan(&news)
	}
	if err != nil {
		return numbers, fmt.Errorf("counting what happened: %w", err)
	}
	numbers.Waiting = min(numbers.Waiting+news, s.options.MaxCounted)
	numbers.DeliveredID, numbers.Delivers = delivered.Int64, delivered.Valid
	numbers.OldestID = numbers.LastID + 1
	if oldest.Valid {
		numbers.OldestID = oldest.Int64
	}
	return numbers, nil
}

// CountEnrollments implements storage.Numbers. It walks along the primary key, which has all that is counted beside it.
func (s *Store) CountEnrollments(
	ctx context.Context, after string, limit int,
) (count storage.FleetCount, next string, err error) {
	var all int64
	err = s.read.QueryRowContext(ctx, `SELECT COUNT(*), MAX(id), COUNT(left_at),
			COUNT(CASE WHEN left_at IS NULL AND out_of_sync = 1 THEN 1 END)
		FROM (SELECT id, left_at, out_of_sync FROM enrollments WHERE id > ? ORDER BY id LIMIT ?) counted`, after, limit).
		Scan(&all, text{&next}, &count.Left, &count.OutOfSync)
	if err != nil {
		return count, "", fmt.Errorf("counting enrollments: %w", err)
	}
	count.InSync = all - count.Left - count.OutOfSync
	if all < int64(limit) {
		next = ""
	}
	return count, next, nil
}
