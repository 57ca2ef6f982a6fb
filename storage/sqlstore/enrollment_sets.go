package sqlstore

import (
	"context"

	"github.com/decree-ddm/decree/storage"
)

// PutEnrollmentSet implements storage.EnrollmentSets.
func (s *Store) PutEnrollmentSet(
	ctx context.Context, enrollmentID, set string, options storage.ChangeOptions,
) (changed bool, err error) {
	err = s.inTxAt(ctx, []string{ofEnrollment(enrollmentID)}, "assigning a set", func(t *tx) error {
		changed = false
		if err := t.ensureSet(set); err != nil {
			return err
		}
		if err := t.lockEnrollment(enrollmentID); err != nil {
			return err
		}
		assigned, err := t.exists(`SELECT 1 FROM enrollment_sets WHERE enrollment_id = ? AND set_name = ?`,
			enrollmentID, set)
		if err != nil || assigned {
			return err
		}
		changed = true
		t.touchedSets = append(t.touchedSets, set)
		if _, err := t.exec(`INSERT INTO enrollment_sets (enrollment_id, set_name) VALUES (?, ?)`,
			enrollmentID, set); err != nil {
			return err
		}
		if err := t.mark([]string{enrollmentID}, t.urgentMark(options)); err != nil {
			return err
		}
		return t.record(options, changeEntry{
			action: storage.ActionPutEnrollmentSet, enrollment: enrollmentID, set: set, reached: 1,
		})
	})
	return changed, err
}

// DeleteEnrollmentSet implements storage.EnrollmentSets.
func (s *Store) DeleteEnrollmentSet(
	ctx context.Context, enrollmentID, set string, options storage.ChangeOptions,
) (changed bool, err error) {
	return s.deleteEnrollmentSets(ctx, options,
		changeEntry{action: storage.ActionDropEnrollmentSet, enrollment: enrollmentID, set: set, reached: 1})
}

// DeleteEnrollmentSets implements storage.EnrollmentSets.
func (s *Store) DeleteEnrollmentSets(
	ctx context.Context, enrollmentID string, options storage.ChangeOptions,
) (changed bool, err error) {
	return s.deleteEnrollmentSets(ctx, options,
		changeEntry{action: storage.ActionDropEnrollmentSets, enrollment: enrollmentID, reached: 1})
}

// deleteEnrollmentSets takes the set of an entry away, or all, whichever its action is.
func (s *Store) deleteEnrollmentSets(
	ctx context.Context, options storage.ChangeOptions, entry changeEntry,
) (changed bool, err error) {
	err = s.inTxAt(ctx, []string{ofEnrollment(entry.enrollment)}, "taking sets away", func(t *tx) error {
		changed = false
		// Whoever has sets has a row. Without one there is nothing to delete, and no row is made for it.
		known, err := t.exists(`SELECT 1 FROM enrollments WHERE id = ?`+t.dialect.Lock, entry.enrollment)
		if err != nil || !known {
			return err
		}
		if err := t.touchSetsOf(entry.enrollment); err != nil {
			return err
		}
		var lost []string // which the entry does not name
		if entry.action == storage.ActionDropEnrollmentSets {
			lost, err = t.dropSets(entry.enrollment)
			changed = len(lost) > 0
		} else {
			var deleted int64
			deleted, err = t.exec(`DELETE FROM enrollment_sets WHERE enrollment_id = ? AND set_name = ?`,
				entry.enrollment, entry.set)
			changed = deleted > 0
		}
		if err != nil || !changed {
			return err
		}
		if err := t.mark([]string{entry.enrollment}, t.urgentMark(options)); err != nil {
			return err
		}
		return t.recordLoss(options, entry, lost)
	})
	return changed, err
}

// dropSets takes all sets away from an enrollment, and returns which these were. The caller holds the enrollment's row, so
// that it is given no others meanwhile.
func (t *tx) dropSets(enrollmentID string) (lost []string, err error) {
	lost, err = t.strings(`SELECT set_name FROM enrollment_sets WHERE enrollment_id = ? ORDER BY set_name`, enrollmentID)
	if err != nil || len(lost) == 0 {
		return nil, err
	}
	_, err = t.exec(`DELETE FROM enrollment_sets WHERE enrollment_id = ?`, enrollmentID)
	return lost, err
}

// EnrollmentSets implements storage.EnrollmentSets.
func (s *Store) EnrollmentSets(ctx context.Context, enrollmentID string, page storage.Page) ([]string, error) {
	return queryStrings(ctx, s.read, `SELECT set_name FROM enrollment_sets WHERE enrollment_id = ? AND set_name > ?
		ORDER BY set_name LIMIT ?`, enrollmentID, page.After, page.Limit)
}

// setMembers is the start of a query for the enrollments that have a set, after one of them, in the order of their ids. By
// any other index than the set's own it would read through the enrollments that do not have it.
func (d *Dialect) setMembers() string {
	return `SELECT enrollment_id FROM enrollment_sets` + d.ReadBy("enrollment_sets_set") + `
		WHERE set_name = ? AND enrollment_id > ? ORDER BY enrollment_id`
}
