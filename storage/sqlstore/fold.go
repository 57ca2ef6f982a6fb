package sqlstore

import (
	"crypto/sha256"
	"database/sql"
	"slices"
	"strings"

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

// maxDeclarations is how many declarations are folded, more than a device has, and maxReasonBytes how long the reasons of
// one and an error may be.
const (
	maxDeclarations = 20_000
	maxReasonBytes  = 1 << 20
)

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
		if len(d.Identifier) > maxOctets || len(d.ServerToken) > maxOctets || len(d.Valid) > 64 ||
			len(d.Reasons) > maxReasonBytes || len(wanted) == maxDeclarations {
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

// What one device can make the database keep and do is bounded: beyond that, the stored report has it.
const (
	// maxValues is how many values, elements of lists counted one by one, are kept of an enrollment.
	maxValues = 10_000
	// maxValueBytes is the longest value that is kept, small enough for one statement with all its escapes.
	maxValueBytes = 4 << 20
)

// knownValues is what is known of a device's values before a report is folded.
type knownValues struct {
	values map[valueKey]hash
	byPath map[hash][]hash // elements
	paths  []string        // sorted
}

func (f *fold) knownValues() (*knownValues, error) {
	known := &knownValues{values: map[valueKey]hash{}, byPath: map[hash][]hash{}}
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var name string
		var path, element, value []byte
		if err := rows.Scan(&name, &path, &element, &value); err != nil {
			return err
		}
		if len(known.byPath[hash(path)]) == 0 {
			known.paths = append(known.paths, name)
		}
		known.values[valueKey{hash(path), hash(element)}] = hash(value)
		known.byPath[hash(path)] = append(known.byPath[hash(path)], hash(element))
		return nil
	}, `SELECT path, path_hash, element_hash, value_hash FROM status_values WHERE enrollment_id = ?`, f.enrollmentID)
	slices.Sort(known.paths)
	return known, err
}

// values brings the values up to date. Scalars and lists without keys are replaced as a whole; lists of keyed objects
// are merged. A full report also takes away what it does not have.
func (f *fold) values() error {
	if len(f.report.Values) == 0 && !f.report.FullReport {
		return nil
	}
	known, err := f.knownValues()
	if err != nil {
		return err
	}
	kept := map[valueKey]bool{}
	written := map[valueKey][]any{}
	room := maxValues - len(known.values)
	// What is far too much is not even looked at.
	looked := f.report.Values[:min(len(f.report.Values), maxValues)]
	for _, v := range looked {
		path := hashOf([]byte(v.Path))
		if v.Keyed && !f.report.FullReport {
			for _, element := range known.byPath[path] {
				kept[valueKey{path, element}] = true
			}
		}
		for _, e := range v.Elements[:min(len(v.Elements), maxValues)] {
			key := valueKey{path, hashOf([]byte(e.Key))}
			before, exists := known.values[key]
			if e.Removed {
				delete(kept, key)
				delete(written, key)
				continue
			}
			if len(e.Value) > maxValueBytes || !exists && room == 0 {
				continue
			}
			kept[key] = true
			value := hashOf(e.Value)
			if exists && before == value {
				delete(written, key)
				continue
			}
			if _, again := written[key]; !exists && !again {
				room--
			}
			written[key] = []any{f.enrollmentID, path[:], key.element[:], value[:], v.Path, e.Key, string(e.Value), f.reportID}
		}
	}
	if err := f.dropValues(known, looked, kept); err != nil {
		return err
	}
	rows := make([][]any, 0, len(written))
	for _, row := range written {
		rows = append(rows, row)
	}
	return f.upsert(`status_values (enrollment_id, path_hash, element_hash, value_hash, path, element, value,
		report_id, changed_at)`, "enrollment_id, path_hash, element_hash",
		[]string{"value_hash", "value", "report_id", "changed_at"}, rows)
}

// dropValues deletes what is known and no longer so: of a full report, all that is not kept; else what is not kept of the
// paths that the report has, and of those above and below them: an item that was an object and is none any more, or the
// other way round.
func (f *fold) dropValues(known *knownValues, looked []ddm.StatusValue, kept map[valueKey]bool) error {
	gone := known.paths
	if !f.report.FullReport {
		gone = nil
		for _, v := range looked {
			for i := range v.Path {
				if v.Path[i] == '.' {
					gone = append(gone, v.Path[:i])
				}
			}
			gone = append(gone, v.Path)
			below := v.Path + "."
			for i, _ := slices.BinarySearch(known.paths, below); i < len(known.paths); i++ {
				if !strings.HasPrefix(known.paths[i], below) {
					break
				}
				gone = append(gone, known.paths[i])
			}
		}
		slices.Sort(gone)
		gone = slices.Compact(gone)
	}
	for _, path := range gone {
		if err := f.dropElements(hashOf([]byte(path)), known.byPath[hashOf([]byte(path))], kept); err != nil {
			return err
		}
	}
	return nil
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

// errors appends the report's errors to those kept, unless the last report that had errors had the same one: then the
// device says again what is known.
func (f *fold) errors() error {
	if len(f.report.Errors) == 0 {
		return nil
	}
	type reported struct{ path, text string }
	known := map[reported]bool{}
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var e reported
		if err := rows.Scan(&e.path, &e.text); err != nil {
			return err
		}
		known[e] = true
		return nil
	}, `SELECT path, error FROM status_errors WHERE enrollment_id = ? AND report_id =
			(SELECT MAX(report_id) FROM status_errors newest WHERE newest.enrollment_id = ?)`, f.enrollmentID, f.enrollmentID)
	if err != nil {
		return err
	}
	var rows [][]any
	for _, e := range f.report.Errors {
		if len(e.Error) > maxReasonBytes || known[reported{e.Path, string(e.Error)}] {
			continue
		}
		rows = append(rows, []any{f.enrollmentID, e.Path, string(e.Error), f.reportID})
	}
	// What would be pruned at once is not written.
	rows = rows[max(0, len(rows)-f.tx.store.options.KeepErrors):]
	if err := f.insert(`status_errors (enrollment_id, path, error, report_id, received_at)`, "", rows); err != nil {
		return err
	}
	return f.tx.prune("status_errors", f.enrollmentID, f.tx.store.options.KeepErrors)
}

// maxStatementBytes bounds the values of one statement, far below what MySQL takes.
const maxStatementBytes = 1 << 20

// upsert writes rows into a table, whose last column is the current time, in place of those with the same key.
func (f *fold) upsert(table, key string, replaced []string, rows [][]any) error {
	assignments := ""
	for i, column := range replaced {
		if i > 0 {
			assignments += ", "
		}
		assignments += column + " = " + f.tx.dialect.Inserted(column)
	}
	return f.insert(table, f.tx.dialect.Upsert(key)+` `+assignments, rows)
}

// insert writes rows into a table, whose last column is the current time, in bounded statements.
func (f *fold) insert(table, behind string, rows [][]any) error {
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
		if _, err := f.tx.exec(`INSERT INTO `+table+` VALUES `+placeholders+` `+behind, values...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
