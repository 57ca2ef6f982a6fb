package sqlstore

import (
	"crypto/sha256"
	"database/sql"
	"slices"

	"github.com/decree-ddm/decree/ddm"
)

// fold brings what is known of a device up to date with a report, in the transaction that stores it, with the
// enrollment's row locked. It writes only what differs.
type fold struct {
	tx           *tx
	enrollmentID string
	reportID     int64
	report       *ddm.StatusReport
}

// maxOctets is the longest identifier and server token that is folded: Decree's declarations have shorter ones.
const maxOctets = 255

func (f *fold) run() error {
	if f.report.HasDeclarations {
		if err := f.declarations(); err != nil {
			return err
		}
	}
	if err := f.values(); err != nil {
		return err
	}
	return f.errors()
}

type declarationKey struct{ identifier, serverToken string }

// declarations replaces what the device says of its declarations: a report that speaks of them is the whole state.
func (f *fold) declarations() error {
	type content struct {
		class, valid, reasons string
		active                bool
	}
	known := map[declarationKey]content{}
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var key declarationKey
		var c content
		if err := rows.Scan(&key.identifier, &key.serverToken, &c.class, &c.active, &c.valid, text{&c.reasons}); err != nil {
			return err
		}
		known[key] = c
		return nil
	}, `SELECT identifier, server_token, class, active, valid, reasons FROM status_declarations
		WHERE enrollment_id = ?`, f.enrollmentID)
	if err != nil {
		return err
	}
	wanted := map[declarationKey]content{}
	for _, d := range f.report.Declarations {
		if len(d.Identifier) > maxOctets || len(d.ServerToken) > maxOctets || len(d.Valid) > 64 {
			continue // the stored report has it
		}
		wanted[declarationKey{d.Identifier, d.ServerToken}] = content{string(d.Class), d.Valid, string(d.Reasons), d.Active}
	}
	for key := range known {
		if _, still := wanted[key]; still {
			continue
		}
		if _, err := f.tx.exec(`DELETE FROM status_declarations
			WHERE enrollment_id = ? AND identifier = ? AND server_token = ?`,
			f.enrollmentID, key.identifier, key.serverToken); err != nil {
			return err
		}
	}
	var changed [][]any
	for key, c := range wanted {
		if before, same := known[key]; same && before == c {
			continue
		}
		changed = append(changed, []any{f.enrollmentID, key.identifier, key.serverToken, c.class, c.active, c.valid,
			nullable(c.reasons), f.reportID})
	}
	return f.upsert(`status_declarations (enrollment_id, identifier, server_token, class, active, valid, reasons,
		report_id, received_at)`, "enrollment_id, identifier, server_token",
		[]string{"class", "active", "valid", "reasons", "report_id", "received_at"}, changed)
}

type hash [16]byte

func hashOf(b []byte) hash {
	sum := sha256.Sum256(b)
	return hash(sum[:16])
}

type valueKey struct{ path, element hash }

// values brings the values up to date. Scalars and lists without keys are replaced as a whole; lists of keyed objects
// are merged. A full report also takes away what it does not have.
func (f *fold) values() error {
	if len(f.report.Values) == 0 && !f.report.FullReport {
		return nil
	}
	known := map[valueKey]hash{}
	byPath := map[hash][]hash{}
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var path, element, value []byte
		if err := rows.Scan(&path, &element, &value); err != nil {
			return err
		}
		known[valueKey{hash(path), hash(element)}] = hash(value)
		byPath[hash(path)] = append(byPath[hash(path)], hash(element))
		return nil
	}, `SELECT path_hash, element_hash, value_hash FROM status_values WHERE enrollment_id = ?`, f.enrollmentID)
	if err != nil {
		return err
	}
	kept := map[valueKey]bool{}
	written := map[valueKey][]any{}
	for _, v := range f.report.Values {
		path := hashOf([]byte(v.Path))
		if v.Keyed && !f.report.FullReport {
			for _, element := range byPath[path] {
				kept[valueKey{path, element}] = true
			}
		}
		for _, e := range v.Elements {
			key := valueKey{path, hashOf([]byte(e.Key))}
			if e.Removed {
				delete(kept, key)
				delete(written, key)
				continue
			}
			kept[key] = true
			value := hashOf(e.Value)
			if before, same := known[key]; same && before == value {
				delete(written, key)
				continue
			}
			written[key] = []any{f.enrollmentID, path[:], key.element[:], value[:], v.Path, e.Key, string(e.Value), f.reportID}
		}
		if !f.report.FullReport {
			if err := f.dropElements(path, byPath[path], kept); err != nil {
				return err
			}
		}
	}
	if f.report.FullReport {
		for path, elements := range byPath {
			if err := f.dropElements(path, elements, kept); err != nil {
				return err
			}
		}
	}
	rows := make([][]any, 0, len(written))
	for _, row := range written {
		rows = append(rows, row)
	}
	return f.upsert(`status_values (enrollment_id, path_hash, element_hash, value_hash, path, element, value,
		report_id, changed_at)`, "enrollment_id, path_hash, element_hash",
		[]string{"value_hash", "value", "report_id", "changed_at"}, rows)
}

// dropElements deletes those of a path's elements that are not kept.
func (f *fold) dropElements(path hash, elements []hash, kept map[valueKey]bool) error {
	gone := slices.DeleteFunc(slices.Clone(elements), func(element hash) bool {
		return kept[valueKey{path, element}]
	})
	for chunk := range slices.Chunk(gone, chunkSize) {
		values := []any{f.enrollmentID, path[:]}
		for _, element := range chunk {
			values = append(values, element[:])
		}
		if _, err := f.tx.exec(`DELETE FROM status_values
			WHERE enrollment_id = ? AND path_hash = ? AND element_hash IN `+list(len(chunk)), values...); err != nil {
			return err
		}
	}
	return nil
}

// errors appends the report's errors to those kept.
func (f *fold) errors() error {
	if len(f.report.Errors) == 0 {
		return nil
	}
	// What would be pruned at once is not written.
	reported := f.report.Errors[max(0, len(f.report.Errors)-f.tx.store.options.KeepErrors):]
	for chunk := range slices.Chunk(reported, chunkSize) {
		var values []any
		rows := ""
		for i, e := range chunk {
			if i > 0 {
				rows += ","
			}
			rows += `(?, ?, ?, ?, ` + f.tx.now + `)`
			values = append(values, f.enrollmentID, e.Path, string(e.Error), f.reportID)
		}
		if _, err := f.tx.exec(`INSERT INTO status_errors (enrollment_id, path, error, report_id, received_at)
			VALUES `+rows, values...); err != nil {
			return err
		}
	}
	return f.tx.prune("status_errors", f.enrollmentID, f.tx.store.options.KeepErrors)
}

// maxStatementBytes bounds the values of one statement, far below what MySQL takes.
const maxStatementBytes = 1 << 20

// upsert writes rows into a table, whose last column is the current time.
func (f *fold) upsert(table, key string, replaced []string, rows [][]any) error {
	assignments := ""
	for i, column := range replaced {
		if i > 0 {
			assignments += ", "
		}
		assignments += column + " = " + f.tx.dialect.Inserted(column)
	}
	for len(rows) > 0 {
		var values []any
		placeholders := ""
		size, n := 0, 0
		for n < len(rows) && n < chunkSize && (n == 0 || size < maxStatementBytes) {
			if n > 0 {
				placeholders += ","
			}
			row := list(len(rows[n]))
			placeholders += row[:len(row)-1] + `, ` + f.tx.now + `)`
			for _, value := range rows[n] {
				if s, ok := value.(string); ok {
					size += len(s)
				}
			}
			values = append(values, rows[n]...)
			n++
		}
		if _, err := f.tx.exec(`INSERT INTO `+table+` VALUES `+placeholders+` `+f.tx.dialect.Upsert(key)+` `+assignments,
			values...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
