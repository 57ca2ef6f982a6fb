package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// ListEnrollments implements storage.Overview. It walks along the index that serves the filter best, a few enrollments at
// a time, and looks at each of those: no planner can make more of it than that.
func (s *Store) ListEnrollments(
	ctx context.Context, filter storage.EnrollmentFilter, page storage.Page,
) (found []storage.Listed, next string, err error) {
	walk, err := s.walk(ctx, filter)
	if err == nil {
		found, next, err = lookThrough(page, s.options.MaxLooked, walk,
			func(ids []string) ([]storage.Listed, error) { return s.listed(ctx, ids, filter) },
			func(l *storage.Listed) string { return l.Enrollment.ID })
	}
	if err != nil {
		return nil, "", fmt.Errorf("listing enrollments: %w", err)
	}
	return found, next, nil
}

// walker reads at most so many ids behind one, in order. One may come twice in a row.
type walker func(after string, limit int) ([]string, error)

// lookThrough walks through enrollments and looks at each of them, until a page is full or a number of them was looked at.
func lookThrough[T any](
	page storage.Page, most int, walk walker, look func(ids []string) ([]T, error), id func(*T) string,
) (found []T, next string, err error) {
	next = page.After
	for looked := 0; looked < most; {
		n := min(chunkSize, most-looked)
		ids, err := walk(next, n)
		if err != nil {
			return nil, "", err
		}
		if len(ids) > 0 {
			more, err := look(ids)
			if err != nil {
				return nil, "", err
			}
			found = append(found, more...)
		}
		if len(found) > page.Limit {
			return found[:page.Limit], id(&found[page.Limit-1]), nil
		}
		if len(ids) < n {
			return found, "", nil
		}
		looked += n
		next = ids[n-1]
	}
	return found, next, nil
}

// walk returns what reads the ids of the enrollments among which are all that a filter selects.
func (s *Store) walk(ctx context.Context, filter storage.EnrollmentFilter) (walker, error) {
	if filter.Failing != nil && *filter.Failing {
		// Mostly few fail. Their index is not in the order of ids, so that it serves when it is read whole.
		failing, err := queryStrings(ctx, s.read, failingColumn("id"), s.options.MaxLooked, s.options.MaxLooked)
		if err != nil {
			return nil, err
		}
		if len(failing) < s.options.MaxLooked {
			slices.Sort(failing)
			return walkThrough(failing), nil
		}
	}
	query, values := `SELECT id FROM enrollments WHERE id > ? ORDER BY id LIMIT ?`, []any{}
	switch {
	case filter.Set != "":
		query = s.dialect.setMembers() + ` LIMIT ?`
		values = append(values, filter.Set)
	case filter.Serial != "":
		query = s.dialect.factsQuery("serial_number")
		values = append(values, filter.Serial)
	case filter.Model != "":
		query = s.dialect.factsQuery("model")
		values = append(values, filter.Model)
	case filter.OSFamily != "":
		query = s.dialect.factsQuery("os_family")
		values = append(values, filter.OSFamily)
	case filter.InSync != nil:
		query = `SELECT id FROM enrollments` + s.dialect.ReadBy("enrollments_sync") + `
			WHERE out_of_sync = ? AND id > ? ORDER BY id LIMIT ?`
		values = append(values, !*filter.InSync)
	}
	return func(after string, limit int) ([]string, error) {
		return queryStrings(ctx, s.read, query, append(slices.Clone(values), after, limit)...)
	}, nil
}

// factsQuery reads the ids of the enrollments with a fact, in order, from its index.
func (d *Dialect) factsQuery(column string) string {
	return `SELECT enrollment_id FROM facts` + d.ReadBy("facts_"+column) + `
		WHERE ` + column + ` = ? AND enrollment_id > ? ORDER BY enrollment_id LIMIT ?`
}

// walkThrough walks through sorted ids.
func walkThrough(ids []string) walker {
	return func(after string, limit int) ([]string, error) {
		first, found := slices.BinarySearch(ids, after)
		if found {
			first++
		}
		return ids[first:min(first+limit, len(ids))], nil
	}
}

// listed returns those of some enrollments that a filter selects.
func (s *Store) listed(
	ctx context.Context, ids []string, filter storage.EnrollmentFilter,
) (found []storage.Listed, err error) {
	where, values := conditions(filter)
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var enrollment storage.Enrollment
		var vector storage.Vector
		if err := scanEnrollment(rows, &enrollment, &vector); err != nil {
			return err
		}
		if len(found) == 0 || found[len(found)-1].Enrollment.ID != enrollment.ID {
			found = append(found, storage.Listed{Enrollment: enrollment})
		}
		last := &found[len(found)-1]
		for _, set := range vector {
			if len(last.Sets) < storage.MaxListedSets {
				last.Sets = append(last.Sets, set.Name)
			}
		}
		return nil
	}, `SELECT `+s.now()+`, `+enrollmentColumns+` WHERE e.id IN `+list(len(ids))+where+` ORDER BY e.id, es.set_name`,
		append(args(nil, ids), values...)...)
	return found, err
}

// conditions returns the part of a WHERE clause for a filter.
func conditions(filter storage.EnrollmentFilter) (where string, values []any) {
	add := func(condition string, arguments ...any) {
		where += ` AND ` + condition
		values = append(values, arguments...)
	}
	if filter.InSync != nil {
		add(`e.out_of_sync = ?`, !*filter.InSync)
	}
	if filter.Failing != nil {
		add(`(e.attempts > 0 OR e.push_failures > 0) = ?`, *filter.Failing)
	}
	if filter.Left != nil {
		add(`(e.left_at IS NOT NULL) = ?`, *filter.Left)
	}
	if filter.Set != "" {
		// It counts, for EXISTS could be turned into a join that begins with the set.
		add(`(SELECT COUNT(*) FROM enrollment_sets f WHERE f.enrollment_id = e.id AND f.set_name = ?) > 0`, filter.Set)
	}
	if filter.Type != "" {
		add(`e.type = ?`, filter.Type)
	}
	if !filter.SeenBefore.IsZero() {
		add(`(e.last_seen IS NULL OR e.last_seen < ?)`, filter.SeenBefore.UnixMicro())
	}
	if !filter.SeenAfter.IsZero() {
		add(`e.last_seen > ?`, filter.SeenAfter.UnixMicro())
	}
	facts, factValues := factConditions(filter)
	if facts != "" {
		add(`(SELECT COUNT(*) FROM facts f WHERE f.enrollment_id = e.id`+facts+`) > 0`, factValues...)
	}
	if filter.Confirmed != nil {
		add(`((SELECT COUNT(*) FROM facts f WHERE f.enrollment_id = e.id AND f.confirmed_at IS NOT NULL) > 0) = ?`,
			*filter.Confirmed)
	}
	return where, values
}

// factConditions returns the part of a WHERE clause over facts, as f, for a filter.
func factConditions(filter storage.EnrollmentFilter) (where string, values []any) {
	add := func(condition, value string) {
		if value != "" {
			where += ` AND ` + condition
			values = append(values, value)
		}
	}
	add(`f.serial_number = ?`, filter.Serial)
	add(`f.model = ?`, filter.Model)
	add(`f.os_family = ?`, filter.OSFamily)
	add(`f.os_order >= ?`, ddm.VersionOrder(filter.OSVersionFrom))
	add(`f.os_order <> '' AND f.os_order < ?`, ddm.VersionOrder(filter.OSVersionBelow))
	add(`(SELECT COUNT(*) FROM capabilities c WHERE c.id = f.capabilities AND c.name = ?) > 0`, filter.Supports)
	return where, values
}

// Facts implements storage.Overview.
func (s *Store) Facts(ctx context.Context, ids []string) (map[string]storage.Facts, error) {
	all := map[string]storage.Facts{}
	for chunk := range slices.Chunk(ids, chunkSize) {
		err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
			var id string
			var facts storage.Facts
			if err := rows.Scan(&id, &facts.SerialNumber, &facts.Model, &facts.OSFamily, &facts.OSVersion, &facts.OSBuild,
				instant{&facts.ConfirmedAt}); err != nil {
				return err
			}
			all[id] = facts
			return nil
		}, `SELECT enrollment_id, serial_number, model, os_family, os_version, os_build, confirmed_at FROM facts
			WHERE enrollment_id IN `+list(len(chunk)), args(nil, chunk)...)
		if err != nil {
			return nil, fmt.Errorf("reading facts: %w", err)
		}
	}
	return all, nil
}

// maxErrors is how many different errors are told of.
const maxErrors = 100

// QueueNumbers implements storage.Overview. Every count is one of the rows of a subquery with a limit, which is in the
// order of an index: without an order, MariaDB reads through the table.
func (s *Store) QueueNumbers(ctx context.Context) (storage.QueueNumbers, error) {
	numbers := storage.QueueNumbers{Bound: s.options.MaxCounted}
	now := s.now()
	// The index begins with the priority.
	for _, priority := range []int{1, 0} {
		var due, leased, waiting int
		var oldest time.Time
		err := s.read.QueryRowContext(ctx, `SELECT `+now+`, COUNT(*), COUNT(CASE WHEN lease_until > `+now+` THEN 1 END),
				MIN(notify_at)
			FROM (SELECT notify_at, lease_until FROM enrollments WHERE priority = ? AND notify_at <= `+now+`
				ORDER BY notify_at LIMIT ?) counted`, priority, s.options.MaxCounted).
			Scan(instant{&numbers.Now}, &due, &leased, instant{&oldest})
		if err == nil {
			err = s.read.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT notify_at FROM enrollments
				WHERE priority = ? AND notify_at > `+now+` ORDER BY notify_at LIMIT ?) counted`,
				priority, s.options.MaxCounted).Scan(&waiting)
		}
		if err != nil {
			return numbers, fmt.Errorf("counting the queue: %w", err)
		}
		numbers.Due = min(numbers.Due+due, numbers.Bound)
		numbers.Leased = min(numbers.Leased+leased, numbers.Bound)
		numbers.Waiting = min(numbers.Waiting+waiting, numbers.Bound)
		if numbers.OldestDue.IsZero() || !oldest.IsZero() && oldest.Before(numbers.OldestDue) {
			numbers.OldestDue = oldest
		}
	}
	err := s.read.QueryRowContext(ctx, `SELECT COUNT(DISTINCT set_name) FROM (SELECT set_name FROM fanouts
		WHERE set_name > '' ORDER BY set_name, pending LIMIT ?) counted`, s.options.MaxCounted).Scan(&numbers.Fanouts)
	if err != nil {
		return numbers, fmt.Errorf("counting fan-outs: %w", err)
	}
	err = s.read.QueryRowContext(ctx, `SELECT MIN(due_at) FROM fanouts WHERE due_at <= `+now).
		Scan(instant{&numbers.OldestFanout})
	if err != nil {
		return numbers, fmt.Errorf("looking for the oldest fan-out: %w", err)
	}
	return numbers, s.countFailing(ctx, &numbers)
}

// failingColumn is a query for a column of those whose last attempts failed, and of those who could not be woken, up to a
// number of each: every one once, and along two indexes.
func failingColumn(column string) string {
	return `SELECT ` + column + ` FROM (SELECT ` + column + ` FROM enrollments WHERE attempts > 0
			ORDER BY attempts LIMIT ?) refused
		UNION ALL SELECT ` + column + ` FROM (SELECT ` + column + ` FROM enrollments WHERE push_failures > 0 AND attempts = 0
			ORDER BY push_failures LIMIT ?) unwoken`
}

// countFailing counts those whose last attempts failed.
func (s *Store) countFailing(ctx context.Context, numbers *storage.QueueNumbers) error {
	failing := ` FROM (` + failingColumn("last_error") + `) counted`
	err := s.read.QueryRowContext(ctx, `SELECT COUNT(*)`+failing, s.options.MaxCounted, s.options.MaxCounted).
		Scan(&numbers.Failing)
	if err != nil {
		return fmt.Errorf("counting failures: %w", err)
	}
	numbers.Failing = min(numbers.Failing, numbers.Bound)
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var by storage.ErrorCount
		if err := rows.Scan(text{&by.Error}, &by.Count); err != nil {
			return err
		}
		numbers.FailingBy = append(numbers.FailingBy, by)
		return nil
	}, `SELECT last_error, COUNT(*)`+failing+` GROUP BY last_error ORDER BY COUNT(*) DESC, last_error LIMIT ?`,
		s.options.MaxCounted, s.options.MaxCounted, maxErrors)
	if err != nil {
		return fmt.Errorf("counting failures by error: %w", err)
	}
	return nil
}

// DeleteEnrollment implements storage.Overview. What a device asks or says holds the enrollment's row too, so that
// nothing of it can come back behind the deletion.
func (s *Store) DeleteEnrollment(
	ctx context.Context, id string, options storage.ChangeOptions,
) (changed bool, err error) {
	options.Held = false // there is nobody to be told
	err = s.inTxAt(ctx, []string{ofEnrollment(id)}, "deleting an enrollment", func(t *tx) error {
		if changed, err = t.exists(`SELECT 1 FROM enrollments WHERE id = ?`+t.dialect.Lock, id); err != nil || !changed {
			return err
		}
		if err := t.forgetFacts(id); err != nil {
			return err
		}
		if err := t.touchSetsOf(id); err != nil {
			return err
		}
		for _, table := range []string{
			"early_results", "problems", "status_declarations", "status_values", "status_errors", "status_reports",
		} {
			if _, err := t.exec(`DELETE FROM `+table+` WHERE enrollment_id = ?`, id); err != nil {
				return err
			}
		}
		lost, err := t.dropSets(id)
		if err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM enrollments WHERE id = ?`, id); err != nil {
			return err
		}
		return t.recordLoss(options, changeEntry{action: storage.ActionDeleteEnrollment, enrollment: id}, lost)
	})
	return changed, err
}
