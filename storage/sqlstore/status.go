package sqlstore

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// PutStatus implements storage.Statuses.
func (s *Store) PutStatus(ctx context.Context, status storage.ReceivedStatus) error {
	body, err := compress(status.Raw)
	if err != nil {
		return fmt.Errorf("compressing a status report: %w", err)
	}
	return s.inTx(ctx, foreground, "storing a status report", func(t *tx) error {
		id := status.Device.ID
		if err := t.lockEnrollment(id); err != nil {
			return err
		}
		now, err := t.exists(`SELECT 1 FROM enrollments WHERE id = ? AND enroll_epoch = ?`, id, status.Device.Epoch)
		if err != nil || !now {
			return err
		}
		reportID, err := t.insertReport(id, body)
		if err != nil {
			return err
		}
		fold := &fold{tx: t, enrollmentID: id, reportID: reportID, report: status.Report}
		if err := fold.run(); err != nil {
			return err
		}
		return t.updateDevice(status.Device)
	})
}

// insertReport stores a report and deletes those that are too many.
func (t *tx) insertReport(enrollmentID string, body []byte) (int64, error) {
	result, err := t.raw.ExecContext(t.ctx, `INSERT INTO status_reports (enrollment_id, received_at, body)
		VALUES (?, `+t.now+`, ?)`, enrollmentID, body)
	if err != nil {
		return 0, err
	}
	id, err := result.LastInsertId()
	if err != nil {
		return 0, err
	}
	// All that the report says is of the time at which it came.
	var receivedAt int64
	if err := t.raw.QueryRowContext(t.ctx, `SELECT received_at FROM status_reports WHERE id = ?`, id).
		Scan(&receivedAt); err != nil {
		return 0, err
	}
	t.now = strconv.FormatInt(receivedAt, 10)
	return id, t.prune("status_reports", enrollmentID, t.store.options.KeepReports)
}

// prune deletes all but the newest rows of an enrollment from a table with ascending ids.
func (t *tx) prune(table, enrollmentID string, keep int) error {
	var oldest int64
	err := t.raw.QueryRowContext(t.ctx, `SELECT id FROM `+table+` WHERE enrollment_id = ?
		ORDER BY id DESC LIMIT 1 OFFSET ?`, enrollmentID, keep-1).Scan(&oldest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = t.exec(`DELETE FROM `+table+` WHERE enrollment_id = ? AND id < ?`, enrollmentID, oldest)
	return err
}

// DeclarationStatuses implements storage.Statuses.
func (s *Store) DeclarationStatuses(ctx context.Context, enrollmentID string) ([]storage.DeclarationStatus, error) {
	var list []storage.DeclarationStatus
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var status storage.DeclarationStatus
		if err := rows.Scan(&status.Identifier, &status.ServerToken, &status.Active, &status.Valid, &status.Reasons,
			instant{&status.ReceivedAt}, &status.StatusID, &status.Current); err != nil {
			return err
		}
		if status.Identifier == ddm.ShardIdentifier {
			status.Current = status.ServerToken == ddm.ShardDeclaration(enrollmentID).ServerToken
		}
		list = append(list, status)
		return nil
	}, `SELECT sd.identifier, sd.server_token, sd.active, sd.valid, sd.reasons, sd.received_at, sd.report_id,
			EXISTS (SELECT 1 FROM declarations d
				JOIN set_declarations m ON m.identifier = d.identifier
				JOIN enrollment_sets es ON es.set_name = m.set_name AND es.enrollment_id = sd.enrollment_id
				WHERE d.identifier = sd.identifier AND d.server_token = sd.server_token)
		FROM status_declarations sd WHERE sd.enrollment_id = ?
		ORDER BY sd.identifier, sd.server_token`, enrollmentID)
	if err != nil {
		return nil, fmt.Errorf("reading the status of declarations: %w", err)
	}
	return list, nil
}

// StatusValues implements storage.Statuses.
func (s *Store) StatusValues(ctx context.Context, enrollmentID string) ([]storage.StatusValue, error) {
	var list []storage.StatusValue
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var value storage.StatusValue
		if err := rows.Scan(&value.Path, &value.Value, instant{&value.ChangedAt}, &value.StatusID); err != nil {
			return err
		}
		list = append(list, value)
		return nil
	}, `SELECT path, value, changed_at, report_id FROM status_values WHERE enrollment_id = ?
		ORDER BY path, element`, enrollmentID)
	if err != nil {
		return nil, fmt.Errorf("reading status values: %w", err)
	}
	return list, nil
}

// StatusErrors implements storage.Statuses.
func (s *Store) StatusErrors(
	ctx context.Context, enrollmentID string, offset, limit int,
) ([]storage.StatusError, error) {
	var list []storage.StatusError
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var e storage.StatusError
		if err := rows.Scan(&e.Path, &e.Error, instant{&e.ReceivedAt}, &e.StatusID); err != nil {
			return err
		}
		list = append(list, e)
		return nil
	}, `SELECT path, error, received_at, report_id FROM status_errors WHERE enrollment_id = ?
		ORDER BY id DESC LIMIT ? OFFSET ?`, enrollmentID, limit, offset)
	if err != nil {
		return nil, fmt.Errorf("reading status errors: %w", err)
	}
	return list, nil
}

// StatusReportByIndex implements storage.Statuses.
func (s *Store) StatusReportByIndex(ctx context.Context, enrollmentID string, index int) (*storage.StatusReport, error) {
	report, err := scanReport(s.read.QueryRowContext(ctx, `SELECT id, received_at, body, 0 FROM status_reports
		WHERE enrollment_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?`, enrollmentID, index))
	if report != nil {
		report.Index = index
	}
	return report, err
}

// StatusReportByID implements storage.Statuses.
func (s *Store) StatusReportByID(
	ctx context.Context, enrollmentID string, statusID int64,
) (*storage.StatusReport, error) {
	return scanReport(s.read.QueryRowContext(ctx, `SELECT r.id, r.received_at, r.body,
			(SELECT COUNT(*) FROM status_reports newer WHERE newer.enrollment_id = r.enrollment_id AND newer.id > r.id)
		FROM status_reports r WHERE r.enrollment_id = ? AND r.id = ?`, enrollmentID, statusID))
}

func scanReport(row *sql.Row) (*storage.StatusReport, error) {
	var report storage.StatusReport
	var body []byte
	err := row.Scan(&report.StatusID, instant{&report.ReceivedAt}, &body, &report.Index)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, storage.ErrNotFound
	}
	if err == nil {
		report.Raw, err = decompress(body)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a status report: %w", err)
	}
	return &report, nil
}

// compress makes reports small: there are many, and a report of the largest size that is taken must fit into what
// MySQL takes in one statement.
func compress(raw []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

func decompress(body []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
