package sqlstore

import (
	"crypto/sha256"
	"database/sql"
	"slices"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// fold brings what is known of a device up to date with a report, in the transaction that stores it, with the
// enrollment's row locked. It writes only what differs.
type fold struct {
	tx           *tx
	job          *reportJob
	enrollmentID string
	reportID     int64
	report       *ddm.StatusReport
	hadProblems  bool // what is known of the device has problems

	knownDeclarations map[declarationKey]declarationContent
	known             *knownValues

	// touched are the declarations of which the report says something new, and changed the paths of values that are not as
	// they were.
	touched []string
	changed []string
	// leftOut counts what is not kept of the report but in the report itself.
	leftOut int
}

// maxDeclarations is how many declarations are folded, more than a device has, and maxReasonBytes how long the reasons of
// one and an error may be.
const (
	maxDeclarations = 20_000
	maxReasonBytes  = 1 << 20
)

// maxOctets is the longest identifier and server token that is folded: Decree's declarations have shorter ones.
const maxOctets = 255

// fold finds what is to be written of declarations and values, and deletes what is gone.
func (f *fold) fold(written *foldedRows) error {
	if f.report.HasDeclarations {
		if err := f.declarations(written); err != nil {
			return err
		}
	}
	return f.values(written)
}

// conclude writes what follows from what the fold has written.
func (f *fold) conclude() error {
	if err := f.errors(); err != nil {
		return err
	}
	if err := f.problems(); err != nil {
		return err
	}
	if err := f.softwareUpdate(); err != nil {
		return err
	}
	if !touchesFacts(f.changed) {
		return nil
	}
	return f.tx.refreshFacts(f.enrollmentID)
}

type declarationKey struct{ identifier, serverToken string }

// declarationContent is what a device says of a declaration.
type declarationContent struct {
	class, valid, reasons string
	active                bool
}

// verdict is what that comes to: HappenedValid, HappenedInvalid or neither.
func (c declarationContent) verdict() storage.HappeningKind {
	switch {
	case problemOf(c.valid, c.reasons) != "":
		return storage.HappenedInvalid
	case c.valid == "valid":
		return storage.HappenedValid
	}
	return ""
}

// declarations replaces what the device says of its declarations: a report that speaks of them is the whole state.
func (f *fold) declarations(written *foldedRows) error {
	known := f.knownDeclarations
	wanted := map[declarationKey]declarationContent{}
	for _, d := range f.report.Declarations {
		if len(d.Identifier) > maxOctets || len(d.ServerToken) > maxOctets || len(d.Valid) > 64 ||
			len(d.Reasons) > maxReasonBytes || len(wanted) == maxDeclarations {
			f.leftOut++
			continue
		}
		wanted[declarationKey{d.Identifier, d.ServerToken}] = declarationContent{
			string(d.Class), d.Valid, string(d.Reasons), d.Active,
		}
	}
	for key := range known {
		if _, still := wanted[key]; still {
			continue
		}
		f.touched = append(f.touched, key.identifier)
		if _, err := f.tx.exec(`DELETE FROM status_declarations
			WHERE enrollment_id = ? AND identifier = ? AND server_token = ?`,
			f.enrollmentID, key.identifier, key.serverToken); err != nil {
			return err
		}
	}
	for key, c := range wanted {
		before, same := known[key]
		if same && before == c {
			continue
		}
		f.touched = append(f.touched, key.identifier)
		written.declarations = append(written.declarations, []any{f.enrollmentID, key.identifier, key.serverToken, c.class,
			c.active, c.valid, nullable(c.reasons), f.reportID})
	}
	return f.verdicts(known, wanted, written)
}

// verdicts tells of the declarations that have become valid or invalid.
func (f *fold) verdicts(known, wanted map[declarationKey]declarationContent, written *foldedRows) error {
	for _, d := range f.report.Declarations {
		key := declarationKey{d.Identifier, d.ServerToken}
		now, folded := wanted[key]
		if before, same := known[key]; !folded || same && before == now {
			continue
		}
		verdict := now.verdict()
		if before := known[key]; verdict == "" || before.verdict() == verdict {
			continue
		}
		detail := map[string]any{"identifier": d.Identifier, "server_token": d.ServerToken}
		if verdict == storage.HappenedInvalid {
			detail["code"] = problemOf(now.valid, now.reasons)
		}
		text, err := happeningDetail(detail)
		if err != nil {
			return err
		}
		written.happenings = append(written.happenings, []any{string(verdict), f.enrollmentID, text})
	}
	return nil
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
	maxValues = 20_000
	// maxPackedBytes is the longest value that is kept, as it is stored: small enough for one statement with its escapes.
	maxPackedBytes = 15 << 20
)

// knownValues is what is known of a device's values before a report is folded.
type knownValues struct {
	values map[valueKey]hash
	byPath map[hash][]hash // elements
	paths  []string        // sorted
}

func (k *knownValues) add(name string, path, element, value hash) {
	if len(k.byPath[path]) == 0 {
		k.paths = append(k.paths, name)
	}
	k.values[valueKey{path, element}] = value
	k.byPath[path] = append(k.byPath[path], element)
}

// values brings the values up to date. Scalars and lists without keys are replaced as a whole; lists of keyed objects
// are merged. A full report also takes away what it does not have.
func (f *fold) values(rows *foldedRows) error {
	if len(f.report.Values) == 0 && !f.report.FullReport {
		return nil
	}
	known := f.known
	kept := map[valueKey]bool{}
	written := map[valueKey][]any{}
	room := maxValues - len(known.values)
	// What is far too much is not even looked at.
	looked := f.report.Values[:min(len(f.report.Values), maxValues)]
	f.leftOut += len(f.report.Values) - len(looked)
	for _, v := range looked {
		path := hashOf([]byte(v.Path))
		merged := v.Keyed
		if v.List && len(v.Elements) == 0 && len(known.byPath[path]) > 0 {
			// Of a list that is merged it says that nothing has changed.
			var err error
			if merged, err = f.keyed(path); err != nil {
				return err
			}
		}
		if merged && !f.report.FullReport {
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
			value := hashOf(e.Value)
			if exists && before == value {
				kept[key] = true
				delete(written, key)
				continue
			}
			stored, err := pack(e.Value)
			if err != nil {
				return err
			}
			if len(stored) > maxPackedBytes || !exists && room == 0 {
				f.leftOut++
				continue
			}
			kept[key] = true
			if _, again := written[key]; !exists && !again {
				room--
			}
			written[key] = []any{f.enrollmentID, path[:], key.element[:], value[:], v.Path, e.Key, stored, f.reportID}
		}
	}
	if err := f.dropValues(known, looked, kept); err != nil {
		return err
	}
	for _, row := range written {
		rows.values = append(rows.values, row)
		f.changed = append(f.changed, row[4].(string))
	}
	return nil
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
		dropped, err := f.dropElements(hashOf([]byte(path)), known.byPath[hashOf([]byte(path))], kept)
		if err != nil {
			return err
		}
		if dropped {
			f.changed = append(f.changed, path)
		}
	}
	return nil
}

// keyed reports whether the elements that are known of a path are of a list that is merged: those of another have their
// place in the list as key.
func (f *fold) keyed(path hash) (bool, error) {
	keyed := true
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var element string
		var value []byte
		if err := rows.Scan(&element, packed{&value}); err != nil {
			return err
		}
		key, ok := ddm.ElementKey(value)
		keyed = keyed && ok && key == element
		return nil
	}, `SELECT element, value FROM status_values WHERE enrollment_id = ? AND path_hash = ?`, f.enrollmentID, path[:])
	return keyed, err
}

// dropElements deletes those of a path's elements that are not kept, and reports whether there were any.
func (f *fold) dropElements(path hash, elements []hash, kept map[valueKey]bool) (bool, error) {
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
			return false, err
		}
	}
	return len(gone) > 0, nil
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
		if len(e.Error) > maxReasonBytes {
			f.leftOut++
			continue
		}
		if known[reported{e.Path, string(e.Error)}] {
			continue
		}
		rows = append(rows, []any{f.enrollmentID, e.Path, string(e.Error), f.reportID})
	}
	// What would be pruned at once is not written.
	rows = rows[max(0, len(rows)-f.tx.store.options.KeepErrors):]
	if err := f.tx.insertRows(`status_errors (enrollment_id, path, error, report_id, received_at)`, "", rows); err != nil {
		return err
	}
	keep := f.tx.store.options.KeepErrors
	tooMany, err := f.tx.exists(`SELECT 1 FROM status_errors WHERE enrollment_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?`,
		f.enrollmentID, keep+pruneAtOnce-1)
	if err != nil || !tooMany {
		return err
	}
	return f.tx.prune("status_errors", f.enrollmentID, keep)
}

// maxStatementBytes bounds the values of one statement, far below what MySQL takes.
const maxStatementBytes = 1 << 20

// upsertRows writes rows into a table, whose last column is the current time, in place of those with the same key.
func (t *tx) upsertRows(table, key string, replaced []string, rows [][]any) error {
	assignments := ""
	for i, column := range replaced {
		if i > 0 {
			assignments += ", "
		}
		assignments += column + " = " + t.dialect.Inserted(column)
	}
	return t.insertRows(table, t.dialect.Upsert(key)+` `+assignments, rows)
}

// insertRows writes rows into a table, whose last column is the current time, in bounded statements.
func (t *tx) insertRows(table, behind string, rows [][]any) error {
	for len(rows) > 0 {
		var values []any
		placeholders := ""
		size, n := 0, 0
		for n < len(rows) && n < chunkSize && (n == 0 || size < maxStatementBytes) {
			if n > 0 {
				placeholders += ","
			}
			row := list(len(rows[n]))
			placeholders += row[:len(row)-1] + `, ` + t.now + `)`
			for _, value := range rows[n] {
				switch value := value.(type) {
				case string:
					size += len(value)
				case []byte:
					size += len(value)
				}
			}
			values = append(values, rows[n]...)
			n++
		}
		if _, err := t.exec(`INSERT INTO `+table+` VALUES `+placeholders+` `+behind, values...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
