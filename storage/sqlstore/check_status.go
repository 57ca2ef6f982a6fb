package sqlstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// CheckStatus implements storage.Checks.
func (s *Store) CheckStatus(
	ctx context.Context, enrollmentID string, check func(*storage.CheckedStatus) error,
) error {
	return s.inSnapshot(ctx, "checking status", func(ctx context.Context, raw *sql.Tx) error {
		r := statusReader{ctx: ctx, raw: raw, enrollmentID: enrollmentID}
		status, err := r.read()
		if err != nil {
			return err
		}
		return check(status)
	})
}

// statusReader reads what is known of a device.
type statusReader struct {
	ctx          context.Context
	raw          *sql.Tx
	enrollmentID string
	status       storage.CheckedStatus
}

func (r *statusReader) read() (*storage.CheckedStatus, error) {
	r.status.ItemError = itemError
	r.status.Report = r.report
	for _, read := range []func() error{r.reports, r.values, r.declarations, r.problems, r.facts} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	r.status.Derived = deriveFacts(r.status.Values)
	return &r.status, nil
}

func (r *statusReader) query(scan func(*sql.Rows) error, query string) error {
	return queryRows(r.ctx, r.raw, scan, query, r.enrollmentID)
}

func (r *statusReader) report(id int64) ([]byte, error) {
	var body []byte
	if err := r.raw.QueryRowContext(r.ctx, `SELECT body FROM status_reports WHERE id = ?`, id).Scan(&body); err != nil {
		return nil, err
	}
	return decompress(body)
}

func (r *statusReader) reports() error {
	return r.query(func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		r.status.Reports = append(r.status.Reports, id)
		return err
	}, `SELECT id FROM status_reports WHERE enrollment_id = ? ORDER BY id`)
}

func (r *statusReader) values() error {
	return r.query(func(rows *sql.Rows) error {
		var v storage.CheckedValue
		var path, element, valueHash, value []byte
		if err := rows.Scan(&v.Path, &v.Element, packed{&value}, &v.ReportID, &path, &element, &valueHash); err != nil {
			return err
		}
		matches := func(stored, content []byte) bool {
			sum := hashOf(content)
			return bytes.Equal(stored, sum[:])
		}
		v.Value = string(value)
		v.HashesMatch = matches(path, []byte(v.Path)) && matches(element, []byte(v.Element)) && matches(valueHash, value)
		r.status.Values = append(r.status.Values, v)
		return nil
	}, `SELECT path, element, value, report_id, path_hash, element_hash, value_hash FROM status_values
		WHERE enrollment_id = ? ORDER BY path_hash, element_hash`)
}

func (r *statusReader) declarations() error {
	return r.query(func(rows *sql.Rows) error {
		var d storage.CheckedDeclarationStatus
		err := rows.Scan(&d.Identifier, &d.ServerToken, &d.Class, &d.Active, &d.Valid, text{&d.Reasons}, &d.ReportID)
		d.Problem = problemOf(d.Valid, d.Reasons)
		r.status.Declarations = append(r.status.Declarations, d)
		return err
	}, `SELECT identifier, server_token, class, active, valid, reasons, report_id FROM status_declarations
		WHERE enrollment_id = ? ORDER BY identifier, server_token`)
}

func (r *statusReader) problems() error {
	return r.query(func(rows *sql.Rows) error {
		var p storage.CheckedProblem
		var kind string
		err := rows.Scan(&kind, &p.Subject, &p.ServerToken, &p.Code)
		p.Declaration = kind == problemDeclaration
		r.status.Problems = append(r.status.Problems, p)
		return err
	}, `SELECT kind, subject, server_token, code FROM problems WHERE enrollment_id = ? ORDER BY kind, subject, server_token`)
}

func (r *statusReader) facts() error {
	f := &r.status.Facts
	err := r.raw.QueryRowContext(r.ctx, `SELECT serial_number, model, os_family, os_version, os_order, os_build, capabilities,
			confirmed_at FROM facts WHERE enrollment_id = ?`, r.enrollmentID).
		Scan(&f.SerialNumber, &f.Model, &f.OSFamily, &f.OSVersion, &f.OSOrder, &f.OSBuild, &f.Capabilities, instant{&f.ConfirmedAt})
	if errors.Is(err, sql.ErrNoRows) {
		f.OSOrder = ddm.VersionOrder("") // nothing is known, which needs no row
		return nil
	}
	f.Confirmed = !f.ConfirmedAt.IsZero()
	return err
}

// deriveFacts makes facts from values anew. The values are in the order in which refreshFacts reads them.
func deriveFacts(values []storage.CheckedValue) (derived storage.CheckedFacts) {
	var supported []string
	for _, v := range values {
		if fact := factPaths[v.Path]; fact != nil {
			if name, _ := scalarText([]byte(v.Value)); v.Element == "" {
				if len(name) <= maxOctets {
					*fact(&derived.Facts) = name
				}
			}
			continue
		}
		if v.Path != confirmingPath && !slices.Contains(capabilityPaths, v.Path) {
			continue
		}
		derived.Confirmed = true
		if name, ok := scalarText([]byte(v.Value)); ok && v.Path != confirmingPath && len(supported) < maxCapabilities {
			supported = append(supported, name)
		}
	}
	derived.OSOrder = ddm.VersionOrder(derived.OSVersion)
	slices.Sort(supported)
	if supported = slices.Compact(supported); len(supported) > 0 {
		sum := sha256.Sum256([]byte(strings.Join(supported, "\x00")))
		derived.Capabilities = hex.EncodeToString(sum[:16])
	}
	return derived
}
