package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// everybody stands in the place of a set where a fan-out is for all enrollments. No set has this name.
const everybody = ""

// switching is for how long servers that are restarted one after the other may differ in what they compose with.
const switching = 24 * time.Hour

// ServeWith implements storage.Serving.
//
// Servers that still compose the other way may settle what was marked, and requests of devices, by what they compose. So
// each server that starts while they may still be there has everybody looked at again: the last one has the last word.
func (s *Store) ServeWith(ctx context.Context, shard bool) (switched bool, err error) {
	err = s.inTx(ctx, foreground, "comparing with what was served last", func(t *tx) error {
		var last sql.NullBool
		var at, now time.Time
		if err := t.raw.QueryRowContext(t.ctx, `SELECT shard, switched_at, `+t.now+` FROM serving WHERE id = 1`+t.dialect.Lock).
			Scan(&last, instant{&at}, instant{&now}); err != nil {
			return err
		}
		switched = last.Valid && last.Bool != shard
		if !last.Valid {
			_, err := t.exec(`UPDATE serving SET shard = ? WHERE id = 1`, shard)
			return err
		}
		if switched {
			if _, err := t.exec(`UPDATE serving SET shard = ?, switched_at = `+t.now+` WHERE id = 1`, shard); err != nil {
				return err
			}
		} else if at.IsZero() || now.Sub(at) >= switching {
			return nil
		}
		return t.requestFanouts([]string{everybody}, storage.ChangeOptions{}, 0)
	})
	return switched && err == nil, err
}
