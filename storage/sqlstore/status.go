package sqlstore

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// pruneAtOnce is how many rows too many there may be before they are deleted, together. They are not shown.
const pruneAtOnce = 8

// prune deletes all but the newest rows of an enrollment, which has more, from a table with ascending ids.
func (t *tx) prune(table, enrollmentID string, keep int) error {
	var surplus int64
	if err := t.raw.QueryRowContext(t.ctx, `SELECT id FROM `+table+` WHERE enrollment_id = ?
		ORDER BY id DESC LIMIT 1 OFFSET ?`, enrollmentID, keep).Scan(&surplus); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM `+table+` WHERE enrollment_id = ? AND id <= ?`, enrollmentID, surplus)
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
		if err := rows.Scan(&value.Path, packed{&value.Value}, instant{&value.ChangedAt}, &value.StatusID); err != nil {
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
		ORDER BY id DESC LIMIT ? OFFSET ?`, enrollmentID, max(0, min(limit, s.options.KeepErrors-offset)), offset)
	if err != nil {
		return nil, fmt.Errorf("reading status errors: %w", err)
	}
	return list, nil
}

// StatusReportByIndex implements storage.Statuses.
func (s *Store) StatusReportByIndex(ctx context.Context, enrollmentID string, index int) (*storage.StatusReport, error) {
	if index >= s.options.KeepReports {
		return nil, storage.ErrNotFound
	}
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
	report, err := scanReport(s.read.QueryRowContext(ctx, `SELECT r.id, r.received_at, r.body,
			(SELECT COUNT(*) FROM status_reports newer WHERE newer.enrollment_id = r.enrollment_id AND newer.id > r.id)
		FROM status_reports r WHERE r.enrollment_id = ? AND r.id = ?`, enrollmentID, statusID))
	if err == nil && report.Index >= s.options.KeepReports {
		return nil, storage.ErrNotFound
	}
	return report, err
}

func scanReport(row scanner) (*storage.StatusReport, error) {
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

// compressors are kept, for each has tables of a megabyte.
var compressors = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is one of gzip's
	}
	return w
}}

// compress makes reports small: there are many, and a report of the largest size that is taken must fit into what
// MySQL takes in one statement.
func compress(raw []byte) ([]byte, error) {
	var b bytes.Buffer
	w := compressors.Get().(*gzip.Writer)
	defer compressors.Put(w)
	w.Reset(&b)
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	err := w.Close()
	return b.Bytes(), err
}

func decompress(body []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// packedFrom is how long a value is before it is compressed: values that are compared and counted are shorter, and one as
// long as a report must fit into a statement.
const packedFrom = 64 << 10

// pack returns a value as it is stored. JSON does not begin as what is compressed does.
func pack(value []byte) ([]byte, error) {
	if len(value) < packedFrom {
		return value, nil
	}
	return compress(value)
}

// packed scans what pack has made.
type packed struct{ value *[]byte }

// Scan implements sql.Scanner.
func (p packed) Scan(from any) error {
	var stored []byte
	switch from := from.(type) {
	case []byte:
		stored = bytes.Clone(from)
	case string:
		stored = []byte(from)
	default:
		return fmt.Errorf("a value is stored as %T", from)
	}
	var err error
	if bytes.HasPrefix(stored, []byte{0x1f, 0x8b}) {
		stored, err = decompress(stored)
	}
	*p.value = stored
	return err
}

// fits reports whether there is room for a value: for itself, and with all that is known and that the report has so far.
func (f *fold) fits(value, stored []byte) (bool, error) {
	if len(value) <= lightBytes || len(stored) > maxPackedBytes {
		return len(stored) <= maxPackedBytes, nil
	}
	if f.keptBytes == 0 {
		if err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
			var length int64
			var begin, end []byte
			err := rows.Scan(&length, &begin, &end)
			if bytes.Equal(begin, packedMagic) {
				length = int64(binary.LittleEndian.Uint32(end)) // gzip ends with how long it was
			}
			f.keptBytes += length
			return err
		}, `SELECT LENGTH(value), SUBSTR(value, 1, 2), SUBSTR(value, -4) FROM status_values WHERE enrollment_id = ?`,
			f.enrollmentID); err != nil {
			return false, err
		}
	}
	if f.keptBytes+int64(len(value)) > maxKeptBytes {
		return false, nil
	}
	f.keptBytes += int64(len(value))
	return true, nil
}
