package sqlstore

import (
	"crypto/sha256"
	"database/sql"
	"maps"
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
	left         bool // the enrollment has left
	newErrors    bool // the report's errors are kept: they are not all those of the last one

	knownDeclarations map[declarationKey]declarationContent
	known             *knownValues
	declared          map[declarationKey]declarationContent // what is known after the report

	// touched are the declarations of which the report says something new, and changed the paths of values that are not as
	// they were.
	touched []string
	changed []string
	// keptBytes is how long all values are that are known or come with the report; 0 until it is asked for.
	keptBytes int64
	// leftOut counts what is not kept of the report but in the report itself.
	leftOut int
}

// maxDeclarations is how many declarations are folded, more than a device has, and maxReasonBytes how long the reasons of
// one and an error may be.
const (
	maxDeclarations = 20_000
	maxValidOctets  = 64
	maxReasonBytes  = 1 << 20
)

// maxOctets is the longest identifier and server token that is folded: Decree's declarations have shorter ones.
const maxOctets = 255

// fold finds what is to be written of declarations and values, and deletes what is gone.
func (f *fold) fold(written *foldedRows) error {
	if f.saysDeclarations() {
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
		if len(d.Identifier) > maxOctets || len(d.ServerToken) > maxOctets || len(wanted) == maxDeclarations {
			f.leftOut++
			continue
		}
		if len(d.Valid) > maxValidOctets || len(d.Reasons) > maxReasonBytes {
			f.leftOut++
			d.Valid = strings.ToValidUTF8(d.Valid[:min(len(d.Valid), maxValidOctets)], "")
			if len(d.Reasons) > maxReasonBytes {
				d.Reasons = nil
			}
		}
		wanted[declarationKey{d.Identifier, d.ServerToken}] = declarationContent{
			string(d.Class), d.Valid, string(d.Reasons), d.Active,
		}
	}
	f.declared = wanted
	if err := f.dropDeclarations(); err != nil {
		return err
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

// dropDeclarations deletes what is known of declarations of which the report says nothing.
func (f *fold) dropDeclarations() error {
	stays := map[string]bool{}
	for key := range f.declared {
		stays[key.identifier] = true
	}
	gone := map[string]bool{}
	for key := range f.knownDeclarations {
		if _, still := f.declared[key]; still {
			continue
		}
		f.touched = append(f.touched, key.identifier)
		if !stays[key.identifier] {
			gone[key.identifier] = true
			continue
		}
		if _, err := f.tx.exec(`DELETE FROM status_declarations
			WHERE enrollment_id = ? AND identifier = ? AND server_token = ?`,
			f.enrollmentID, key.identifier, key.serverToken); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(gone)), chunkSize) {
		if _, err := f.tx.exec(`DELETE FROM status_declarations WHERE enrollment_id = ? AND identifier IN `+list(len(chunk)),
			args([]any{f.enrollmentID}, chunk)...); err != nil {
			return err
		}
	}
	return nil
}

// maxVerdicts is how many verdicts of one report are told of, so that one device cannot push what others do out of the log.
const maxVerdicts = 200

// verdicts tells of the declarations that have become valid or invalid.
func (f *fold) verdicts(known, wanted map[declarationKey]declarationContent, written *foldedRows) error {
	told := 0
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
		if told++; told > maxVerdicts {
			f.leftOut++
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
	// maxKeptBytes is how long the values of an enrollment are together, as they are given, and lightBytes how long one is
	// that needs no look at how long the others are: of those there cannot be more than that.
	maxKeptBytes = 64 << 20
	lightBytes   = maxKeptBytes / maxValues / 2
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

// saysValues reports whether the report can change values: declarations can take the place of one.
func (f *fold) saysValues() bool {
	return len(f.report.Values) > 0 || f.report.FullReport || f.report.HasDeclarations
}

// saysDeclarations reports whether the report can change declarations: something else can take their place.
func (f *fold) saysDeclarations() bool {
	if f.report.HasDeclarations {
		return true
	}
	for i := range f.report.Values {
		if path := f.report.Values[i].Path; path == ddm.PathDeclarations || path == pathManagement {
			return true
		}
	}
	return false
}

// values brings the values up to date. Scalars and lists without keys are replaced as a whole; lists of keyed objects
// are merged. A full report also takes away what it does not have.
func (f *fold) values(rows *foldedRows) error {
	if !f.saysValues() {
		return nil
	}
	known := f.known
	kept := map[valueKey]bool{}
	written := map[valueKey][]any{}
	var added []valueKey // in the order of the report
	for _, v := range f.report.Values {
		path := hashOf([]byte(v.Path))
		if merged, err := f.merged(path, &v); err != nil {
			return err
		} else if merged {
			for _, element := range known.byPath[path] {
				kept[valueKey{path, element}] = true
			}
		}
		for _, e := range v.Elements {
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
			if fits, err := f.fits(e.Value, stored); err != nil {
				return err
			} else if !fits {
				f.leftOut++
				delete(kept, key)
				delete(written, key)
				continue
			}
			kept[key] = true
			if _, again := written[key]; !exists && !again {
				added = append(added, key)
			}
			written[key] = []any{f.enrollmentID, path[:], key.element[:], value[:], v.Path, e.Key, stored, f.reportID}
		}
	}
	dropped, err := f.dropValues(f.gone(), kept)
	if err != nil {
		return err
	}
	room := maxValues - len(known.values) + dropped
	for _, key := range added {
		if _, still := written[key]; still && room == 0 {
			delete(written, key)
			f.leftOut++
		} else if still {
			room--
		}
	}
	for _, row := range written {
		rows.values = append(rows.values, row)
		f.changed = append(f.changed, row[4].(string))
	}
	return nil
}

// merged reports whether what is known of a path stays but for what the report says of it: a list of keyed objects, where
// one is known. An empty list says of such a list that nothing has changed.
func (f *fold) merged(path hash, v *ddm.StatusValue) (bool, error) {
	if f.report.FullReport || len(f.known.byPath[path]) == 0 || !v.Keyed && !(v.List && len(v.Elements) == 0) {
		return false, nil
	}
	return f.keyed(path)
}

// gone returns the paths of which nothing stays but what the report has: of a full report, all that are known; else those
// that the report has, and those above and below them: an item that was an object and is none any more, or the other way
// round, or one of Apple's dictionaries, of which the report has it all.
func (f *fold) gone() []string {
	known := f.known.paths
	if f.report.FullReport {
		return known
	}
	reported := make([]string, 0, len(f.report.Values)+1)
	for i := range f.report.Values {
		path := f.report.Values[i].Path
		reported = append(reported, path)
		if item, ok := ddm.DictionaryItem(path); ok {
			reported = append(reported, item)
		}
	}
	if f.report.HasDeclarations {
		reported = append(reported, ddm.PathDeclarations)
	}
	slices.Sort(reported)
	reported = slices.Compact(reported)
	var gone []string
	for _, path := range reported {
		if _, same := slices.BinarySearch(known, path); same {
			gone = append(gone, path)
		}
		below := path + "."
		for i, _ := slices.BinarySearch(known, below); i < len(known) && strings.HasPrefix(known[i], below); i++ {
			gone = append(gone, known[i])
		}
	}
	// A path can have any number of dots: what is known is looked for in the report, which is bounded, not all that is above.
	for _, path := range known {
		if i, _ := slices.BinarySearch(reported, path); i == len(reported) || !strings.HasPrefix(reported[i], path) {
			continue
		}
		below := path + "."
		if i, _ := slices.BinarySearch(reported, below); i < len(reported) && strings.HasPrefix(reported[i], below) {
			gone = append(gone, path)
		}
	}
	slices.Sort(gone)
	return slices.Compact(gone)
}

// dropValues deletes what is not kept of some paths, and returns how much that was.
func (f *fold) dropValues(gone []string, kept map[valueKey]bool) (dropped int, err error) {
	var whole []any // the hashes of paths of which nothing is kept
	for _, name := range gone {
		path := hashOf([]byte(name))
		elements := slices.DeleteFunc(slices.Clone(f.known.byPath[path]), func(element hash) bool {
			return kept[valueKey{path, element}]
		})
		if len(elements) == 0 {
			continue
		}
		dropped += len(elements)
		f.changed = append(f.changed, name)
		if len(elements) == len(f.known.byPath[path]) {
			whole = append(whole, path[:])
			continue
		}
		for chunk := range slices.Chunk(elements, chunkSize) {
			values := []any{f.enrollmentID, path[:]}
			for _, element := range chunk {
				values = append(values, element[:])
			}
			if _, err := f.tx.exec(`DELETE FROM status_values
				WHERE enrollment_id = ? AND path_hash = ? AND element_hash IN `+list(len(chunk)), values...); err != nil {
				return 0, err
			}
		}
	}
	for chunk := range slices.Chunk(whole, chunkSize) {
		if _, err := f.tx.exec(`DELETE FROM status_values WHERE enrollment_id = ? AND path_hash IN `+list(len(chunk)),
			append([]any{f.enrollmentID}, chunk...)...); err != nil {
			return 0, err
		}
	}
	return dropped, nil
}

// keyed reports whether the elements that are known of a path are of a list that is merged: those of another have their
// place in the list as key.
func (f *fold) keyed(path hash) (bool, error) {
	keyed := false
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var element string
		var value []byte
		if err := rows.Scan(&element, packed{&value}); err != nil {
			return err
		}
		key, ok := ddm.ElementKey(value)
		keyed = keyed || ok && key == element
		return nil
	}, `SELECT element, value FROM status_values WHERE enrollment_id = ? AND path_hash = ?`, f.enrollmentID, path[:])
	return keyed, err
}

// errors appends the report's errors to those kept, unless the last report that had errors had them all: then the device
// says again what is known.
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
		rows = append(rows, []any{f.enrollmentID, e.Path, string(e.Error), f.reportID})
	}
	// What would be pruned at once is not written, and is no news.
	rows = rows[max(0, len(rows)-f.tx.store.options.KeepErrors):]
	f.newErrors = slices.ContainsFunc(rows, func(row []any) bool {
		return !known[reported{row[1].(string), row[2].(string)}]
	})
	if !f.newErrors {
		return nil
	}
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
