package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/decree-ddm/decree/storage"
)

const (
	// countPage is of how many enrollments one declaration is counted with one statement, and sharedPage of how many several
	// are: few enough that it lasts some milliseconds.
	countPage, sharedPage = 2000, 500
	// maxShared is how many declarations are counted together.
	maxShared = 100
)

// summaryCount is the counting of declarations that are in the same sets.
type summaryCount struct {
	began    int64
	first    string
	assigned int64
	said     map[string]*saidCount // by declaration
}

// saidCount is what is said of one declaration.
type saidCount struct {
	serverToken                     string
	current, active, valid, invalid int64
}

func (c *summaryCount) page() int {
	if len(c.said) == 1 {
		return countPage
	}
	return sharedPage
}

// CountDeclaration implements storage.Summaries. What changes meanwhile behind the place that it has reached is not seen,
// and touches the declaration, so that it is counted again.
func (s *Store) CountDeclaration(
	ctx context.Context, identifier string, others []string, interval time.Duration, rest func(context.Context) error,
) (counted []string, early time.Duration, err error) {
	count, early, err := s.beginCount(ctx, identifier, others, interval)
	if err != nil {
		return nil, 0, fmt.Errorf("counting a declaration: %w", err)
	}
	if count == nil {
		return nil, early, nil
	}
	for set, first := "", true; ; first = false {
		// An enrollment counts with the first of its sets that hold the declaration.
		sets, err := s.DeclarationSets(ctx, identifier, storage.Page{After: set, Limit: 1})
		if err != nil {
			return nil, 0, fmt.Errorf("counting a declaration: %w", err)
		}
		if len(sets) == 0 {
			break
		}
		set = sets[0]
		if err := s.countSet(ctx, count, set, !first, rest); err != nil {
			return nil, 0, err
		}
	}
	err = s.inTx(ctx, background, "writing summaries", func(t *tx) error {
		counted = nil
		for identifier, said := range count.said {
			counted = append(counted, identifier)
			if _, err := t.exec(`UPDATE declaration_summaries SET server_token = ?, assigned = ?, current = ?, active = ?,
					valid = ?, invalid = ?, counted_at = ?
				WHERE identifier = ? AND (counted_at < ? OR counted_at > `+t.now+`)`, said.serverToken, count.assigned, said.current, said.active,
				said.valid, said.invalid, count.began, identifier, count.began); err != nil {
				return err
			}
		}
		return nil
	})
	return counted, 0, err
}

// beginCount reads what there is to count. It returns nil where there is nothing, or it is too early.
func (s *Store) beginCount(
	ctx context.Context, identifier string, others []string, interval time.Duration,
) (count *summaryCount, early time.Duration, err error) {
	count = &summaryCount{first: identifier, said: map[string]*saidCount{}}
	sets, err := s.DeclarationSets(ctx, identifier, storage.Page{Limit: maxMerged + 1})
	if err != nil {
		return nil, 0, err
	}
	together := []string{identifier}
	if len(sets) > 0 && len(sets) <= maxMerged && len(others) > 0 {
		if together, err = s.inSameSets(ctx, identifier, others[:min(len(others), maxShared-1)], sets); err != nil {
			return nil, 0, err
		}
	}
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var found string
		var said saidCount
		var before int64
		if err := rows.Scan(&count.began, &found, &said.serverToken, &before); err != nil {
			return err
		}
		since := time.Duration(count.began-before) * time.Microsecond
		switch {
		case since < 0 || since >= interval:
			count.said[found] = &said
		case found == identifier:
			early = interval - since
		}
		return nil
	}, `SELECT `+s.now()+`, d.identifier, d.server_token, c.counted_at
		FROM declarations d JOIN declaration_summaries c ON c.identifier = d.identifier
		WHERE d.identifier IN `+list(len(together)), args(nil, together)...)
	if err != nil || count.said[identifier] == nil {
		return nil, early, err
	}
	return count, 0, nil
}

// inSameSets returns a declaration, and those of others that are in exactly the same sets.
func (s *Store) inSameSets(ctx context.Context, identifier string, others, sets []string) ([]string, error) {
	same := []string{identifier}
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var found string
		var all, shared int
		if err := rows.Scan(&found, &all, &shared); err != nil {
			return err
		}
		if all == len(sets) && shared == len(sets) && found != identifier {
			same = append(same, found)
		}
		return nil
	}, `SELECT identifier, COUNT(*), COUNT(CASE WHEN set_name IN `+list(len(sets))+` THEN 1 END)
		FROM set_declarations WHERE identifier IN `+list(len(others))+` GROUP BY identifier ORDER BY identifier`,
		args(args(nil, sets), others)...)
	return same, err
}

// countSet adds a set's enrollments, page by page, to a count; those of them that have an earlier set which holds the
// declaration are counted there.
func (s *Store) countSet(
	ctx context.Context, count *summaryCount, set string, earlier bool, rest func(context.Context) error,
) error {
	for after, more := "", true; more; {
		ends, err := queryStrings(ctx, s.read, s.dialect.setMembers()+` LIMIT 1 OFFSET ?`, set, after, count.page()-1)
		if err != nil {
			return fmt.Errorf("counting a declaration: %w", err)
		}
		var end string
		if more = len(ends) > 0; more {
			end = ends[0]
		}
		if err := s.countEnrollments(ctx, count, set, after, end, earlier); err != nil {
			return fmt.Errorf("counting a declaration: %w", err)
		}
		after = end
		if err := rest(ctx); err != nil {
			return err
		}
	}
	return nil
}

// invalidStatus says that the row sd of status_declarations has a problem. To look whether there is a row of problems
// takes a while, and what gives no reasons has none that is not invalid.
const invalidStatus = `(sd.valid = 'invalid' OR COALESCE(LENGTH(sd.reasons), 0) > 2 AND EXISTS (SELECT 1 FROM problems p
	WHERE p.kind = '` + problemDeclaration + `' AND p.subject = sd.identifier AND p.enrollment_id = sd.enrollment_id
		AND p.server_token = sd.server_token))`

// saidColumns count what is said, from columns active, valid and invalid.
const saidColumns = `COUNT(active), COUNT(CASE WHEN active = 1 THEN 1 END),
	COUNT(CASE WHEN invalid = 0 AND valid = 'valid' THEN 1 END), COUNT(CASE WHEN invalid = 1 THEN 1 END)`

func (c *saidCount) add(current, active, valid, invalid int64) {
	c.current += current
	c.active += active
	c.valid += valid
	c.invalid += invalid
}

// countEnrollments adds the enrollments of a set that are behind one, up to an end if there is one. Tables are left-joined
// from that of the sets on, so that no planner begins with another one, and reads it whole.
func (s *Store) countEnrollments(
	ctx context.Context, count *summaryCount, set, after, end string, earlier bool,
) error {
	from := `FROM enrollment_sets es` + s.dialect.ReadBy("enrollment_sets_set") + `
		LEFT JOIN enrollments e ON e.id = es.enrollment_id`
	where := ` WHERE es.set_name = ? AND es.enrollment_id > ? AND e.left_at IS NULL`
	values := []any{set, after}
	if end != "" {
		where += ` AND es.enrollment_id <= ?`
		values = append(values, end)
	}
	if earlier {
		where += ` AND (SELECT COUNT(*) FROM enrollment_sets o
			JOIN set_declarations m ON m.set_name = o.set_name AND m.identifier = ?
			WHERE o.enrollment_id = es.enrollment_id AND o.set_name < ?) = 0`
		values = append(values, count.first, set)
	}
	var assigned, current, active, valid, invalid int64
	if said := count.said[count.first]; len(count.said) == 1 {
		err := s.read.QueryRowContext(ctx, `SELECT COUNT(*), `+saidColumns+`
			FROM (SELECT sd.active, sd.valid, `+invalidStatus+` AS invalid `+from+`
				LEFT JOIN status_declarations sd
					ON sd.enrollment_id = es.enrollment_id AND sd.identifier = ? AND sd.server_token = ?`+where+`) counted`,
			append([]any{count.first, said.serverToken}, values...)...).Scan(&assigned, &current, &active, &valid, &invalid)
		count.assigned += assigned
		said.add(current, active, valid, invalid)
		return err
	}
	err := s.read.QueryRowContext(ctx, `SELECT COUNT(*) `+from+where, values...).Scan(&assigned)
	if err != nil {
		return err
	}
	count.assigned += assigned
	// An enrollment's rows stand next to each other, so that to read all of them is faster than to look for some.
	return queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var identifier, serverToken string
		if err := rows.Scan(text{&identifier}, text{&serverToken}, &current, &active, &valid, &invalid); err != nil {
			return err
		}
		if said := count.said[identifier]; said != nil && said.serverToken == serverToken {
			said.add(current, active, valid, invalid)
		}
		return nil
	}, `SELECT identifier, server_token, `+saidColumns+`
		FROM (SELECT sd.identifier, sd.server_token, sd.active, sd.valid, `+invalidStatus+` AS invalid `+from+`
			LEFT JOIN status_declarations sd ON sd.enrollment_id = es.enrollment_id`+where+`) counted
		GROUP BY identifier, server_token`, values...)
}
