package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/decree-ddm/decree/storage"
)

const (
	// maxMerged is of how many sets the enrollments are merged. Where more hold a declaration, all enrollments are walked
	// through.
	maxMerged = 8
	// maxLookedStatus is how many enrollments are looked at for what they say of a declaration, for one page.
	maxLookedStatus = 2000
)

// DeclarationEnrollments implements storage.Fleet. It walks along the index that serves best, and looks at what each
// enrollment says.
func (s *Store) DeclarationEnrollments(
	ctx context.Context, identifier string, state storage.DeclarationState, page storage.Page,
) (list []storage.DeclarationEnrollment, next string, err error) {
	var serverToken string
	err = s.read.QueryRowContext(ctx, `SELECT server_token FROM declarations WHERE identifier = ?`, identifier).
		Scan(&serverToken)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", storage.ErrNotFound
	}
	var walk walker
	if err == nil {
		walk, err = s.walkDeclaration(ctx, identifier, state)
	}
	if err == nil {
		list, next, err = lookThrough(page, min(s.options.MaxLooked, maxLookedStatus), walk,
			func(ids []string) ([]storage.DeclarationEnrollment, error) {
				return s.sayOf(ctx, ids, identifier, serverToken, state)
			},
			func(e *storage.DeclarationEnrollment) string { return e.EnrollmentID })
	}
	if err != nil {
		return nil, "", fmt.Errorf("listing the enrollments of a declaration: %w", err)
	}
	return list, next, nil
}

// walkDeclaration returns what reads the ids of the enrollments among which are all that should have a declaration and are
// in a state.
func (s *Store) walkDeclaration(
	ctx context.Context, identifier string, state storage.DeclarationState,
) (walker, error) {
	if state == storage.StateInvalid {
		return func(after string, limit int) ([]string, error) {
			return queryStrings(ctx, s.read, `SELECT enrollment_id FROM problems`+s.dialect.ReadBy(Primary)+`
				WHERE kind = ? AND subject = ? AND enrollment_id > ? ORDER BY enrollment_id LIMIT ?`,
				problemDeclaration, identifier, after, limit)
		}, nil
	}
	sets, err := s.DeclarationSets(ctx, identifier, storage.Page{Limit: maxMerged + 1})
	if err != nil {
		return nil, err
	}
	if len(sets) > maxMerged {
		return func(after string, limit int) ([]string, error) {
			return queryStrings(ctx, s.read, `SELECT id FROM enrollments WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
		}, nil
	}
	return func(after string, limit int) ([]string, error) {
		var merged []string
		for _, set := range sets {
			ids, err := queryStrings(ctx, s.read, s.dialect.setMembers()+` LIMIT ?`, set, after, limit)
			if err != nil {
				return nil, err
			}
			merged = append(merged, ids...)
		}
		slices.Sort(merged)
		merged = slices.Compact(merged)
		return merged[:min(limit, len(merged))], nil
	}, nil
}

// sayOf returns those of some enrollments that should have a declaration and are in a state.
func (s *Store) sayOf(
	ctx context.Context, ids []string, identifier, serverToken string, state storage.DeclarationState,
) ([]storage.DeclarationEnrollment, error) {
	type said struct {
		id      string
		status  *storage.DeclarationStatus
		invalid bool
	}
	var all []said
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		one := said{}
		status := storage.DeclarationStatus{Identifier: identifier}
		var token sql.NullString
		var active, reportID sql.NullInt64
		if err := rows.Scan(&one.id, &token, &active, text{&status.Valid}, &status.Reasons, instant{&status.ReceivedAt},
			&reportID, &one.invalid); err != nil {
			return err
		}
		if token.Valid {
			status.ServerToken, status.Active, status.StatusID = token.String, active.Int64 == 1, reportID.Int64
			status.Current = token.String == serverToken
			one.status = &status
		}
		if last := len(all) - 1; last < 0 || all[last].id != one.id {
			all = append(all, one)
		} else if before := all[last].status; status.Current || !before.Current && before.ReceivedAt.Before(status.ReceivedAt) {
			all[last] = one
		}
		return nil
	}, `SELECT e.id, sd.server_token, sd.active, sd.valid, CASE WHEN LENGTH(sd.reasons) <= ? THEN sd.reasons END,
			sd.received_at, sd.report_id, CASE WHEN `+invalidStatus+` THEN 1 ELSE 0 END
		FROM enrollments e LEFT JOIN status_declarations sd ON sd.enrollment_id = e.id AND sd.identifier = ?
		WHERE e.id IN `+list(len(ids))+` AND e.left_at IS NULL
			AND (SELECT COUNT(*) FROM enrollment_sets es
				JOIN set_declarations m ON m.set_name = es.set_name AND m.identifier = ?
				WHERE es.enrollment_id = e.id) > 0
		ORDER BY e.id, sd.server_token`,
		append(args([]any{storage.MaxListedReasons, identifier}, ids), identifier)...)
	var found []storage.DeclarationEnrollment
	for _, one := range all {
		if inState(one.status, one.invalid, state) {
			found = append(found, storage.DeclarationEnrollment{EnrollmentID: one.id, Status: one.status})
		}
	}
	return found, err
}

// inState reports whether what an enrollment says of a declaration is what a state means; see storage.DeclarationSummary.
func inState(status *storage.DeclarationStatus, invalid bool, state storage.DeclarationState) bool {
	current := status != nil && status.Current
	switch state {
	case storage.StateAssigned:
		return true
	case storage.StateCurrent:
		return current
	case storage.StateActive:
		return current && status.Active
	case storage.StateValid:
		return current && status.Valid == "valid" && !invalid
	case storage.StateInvalid:
		return current && invalid
	case storage.StatePending:
		return !current
	}
	return false
}

// EnrollmentDeclarations implements storage.Fleet.
func (s *Store) EnrollmentDeclarations(
	ctx context.Context, enrollmentID string,
) (list []storage.EnrollmentDeclaration, err error) {
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var d storage.EnrollmentDeclaration
		var set string
		if err := rows.Scan(&d.Identifier, &d.Type, &d.Class, &d.ServerToken, &set); err != nil {
			return err
		}
		if len(list) == 0 || list[len(list)-1].Identifier != d.Identifier {
			list = append(list, d)
		}
		if last := &list[len(list)-1]; len(last.Sets) < storage.MaxListedSets {
			last.Sets = append(last.Sets, set)
		}
		return nil
	}, `SELECT d.identifier, d.type, d.class, d.server_token, es.set_name
		FROM enrollment_sets es
		JOIN set_declarations m ON m.set_name = es.set_name
		JOIN declarations d ON d.identifier = m.identifier
		WHERE es.enrollment_id = ? ORDER BY d.identifier, es.set_name`, enrollmentID)
	if err != nil {
		return nil, fmt.Errorf("reading what an enrollment should have: %w", err)
	}
	return list, nil
}
