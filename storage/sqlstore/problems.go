package sqlstore

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// The kinds of what can have a problem: a declaration, or a status item that a device could not report.
const (
	problemDeclaration = "declaration"
	problemStatusItem  = "status-item"
)

// problemOf returns the code of what is wrong with a declaration, given what a device says of it, or "". That an
// activation's predicate is false, or that nothing activates a declaration, is no problem: such codes begin with Info.
// Apple: status/statusreason.yaml.
func problemOf(valid, reasons string) string {
	if valid != "invalid" && !strings.Contains(reasons, `"Error.`) && !strings.Contains(reasons, `\u`) {
		return ""
	}
	code, isError := ddm.ReasonCode([]byte(reasons))
	if valid == "invalid" || isError {
		return code
	}
	return ""
}

type problemKey struct{ kind, subject, serverToken string }

// problems brings up to date what is wrong on the device now: declarations that are invalid, and status items that could
// not be reported and have not been reported since.
func (f *fold) problems() error {
	wanted := map[problemKey]string{}
	for key, c := range f.declared {
		if code := problemOf(c.valid, c.reasons); code != "" {
			wanted[problemKey{problemDeclaration, key.identifier, key.serverToken}] = code
		}
	}
	// The last errors of a report are those that are kept. Of several about one item the last one counts.
	items := 0
	for _, e := range slices.Backward(f.report.Errors) {
		if items == f.tx.store.options.KeepErrors {
			break
		}
		item, code, ok := itemError(&e)
		key := problemKey{kind: problemStatusItem, subject: item}
		if _, again := wanted[key]; !ok || again {
			continue
		}
		items++
		wanted[key] = code
	}
	if len(wanted) == 0 && !f.hadProblems {
		return nil
	}
	return f.replaceProblems(wanted, items)
}

// itemError returns the status item of an error that is about one, and the code. Apple: protocol/statusreport.yaml.
func itemError(e *ddm.StatusError) (item, code string, ok bool) {
	var content struct {
		StatusItem string
		Reasons    json.RawMessage
	}
	if e.Path != ddm.PathErrors || json.Unmarshal(e.Error, &content) != nil ||
		content.StatusItem == "" || len(content.StatusItem) > maxOctets {
		return "", "", false
	}
	code, _ = ddm.ReasonCode(content.Reasons)
	return content.StatusItem, code, true
}

// knownProblem is a problem as it is stored.
type knownProblem struct {
	code       string
	receivedAt int64
}

// replaceProblems writes problems in place of those that the report says are over. Of status items, at most as many are
// kept as errors.
func (f *fold) replaceProblems(wanted map[problemKey]string, items int) error {
	known := map[problemKey]knownProblem{}
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var key problemKey
		var p knownProblem
		if err := rows.Scan(&key.kind, &key.subject, &key.serverToken, &p.code, &p.receivedAt); err != nil {
			return err
		}
		known[key] = p
		return nil
	}, `SELECT kind, subject, server_token, code, received_at FROM problems WHERE enrollment_id = ?`, f.enrollmentID)
	if err != nil {
		return err
	}
	stay, err := f.staying(known, wanted, f.tx.store.options.KeepErrors-items)
	if err != nil {
		return err
	}
	for key := range known {
		if _, still := wanted[key]; still || stay[key] {
			continue
		}
		if key.kind == problemDeclaration && f.declared == nil {
			continue
		}
		if _, err := f.tx.exec(`DELETE FROM problems
			WHERE kind = ? AND subject = ? AND enrollment_id = ? AND server_token = ?`,
			key.kind, key.subject, f.enrollmentID, key.serverToken); err != nil {
			return err
		}
	}
	var rows [][]any
	// What is said again is as new as the report, unless nothing in that is new: what devices repeat costs no writes.
	news := f.newErrors || len(f.touched) > 0 || len(f.changed) > 0
	for key, code := range wanted {
		if before, same := known[key]; same && before.code == code && !news {
			continue
		}
		rows = append(rows, []any{key.kind, key.subject, f.enrollmentID, key.serverToken, code})
	}
	return f.tx.upsertRows(`problems (kind, subject, enrollment_id, server_token, code, received_at)`,
		"kind, subject, enrollment_id, server_token", []string{"code", "received_at"}, rows)
}

// staying returns the problems with status items of which the report says nothing, as many as there is room for: first those
// whose error is kept, the newest of these first.
func (f *fold) staying(
	known map[problemKey]knownProblem, wanted map[problemKey]string, room int,
) (map[problemKey]bool, error) {
	var silent []problemKey
	for key := range known {
		if _, again := wanted[key]; !again && key.kind == problemStatusItem && !f.reports(key.subject) {
			silent = append(silent, key)
		}
	}
	if len(silent) > room {
		place := map[string]int{}
		err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
			reported := ddm.StatusError{Path: ddm.PathErrors}
			if err := rows.Scan(&reported.Error); err != nil {
				return err
			}
			if item, _, ok := itemError(&reported); ok && place[item] == 0 {
				place[item] = len(place) + 1
			}
			return nil
		}, newestItemErrors, f.enrollmentID, ddm.PathErrors, storage.MaxListedReasons, f.tx.store.options.KeepErrors)
		if err != nil {
			return nil, err
		}
		last := len(place) + 1
		slices.SortFunc(silent, func(a, b problemKey) int {
			return cmp.Or(cmp.Compare(cmp.Or(place[a.subject], last), cmp.Or(place[b.subject], last)),
				cmp.Compare(known[b].receivedAt, known[a].receivedAt), cmp.Compare(a.subject, b.subject))
		})
		silent = silent[:room]
	}
	stay := make(map[problemKey]bool, len(silent))
	for _, key := range silent {
		stay[key] = true
	}
	return stay, nil
}

// newestItemErrors selects the errors of an enrollment that can be shown as examples of problems.
const newestItemErrors = `SELECT error FROM status_errors WHERE enrollment_id = ? AND path = ? AND LENGTH(error) <= ?
	ORDER BY id DESC LIMIT ?`

// reports reports whether the report has a status item, or everything.
func (f *fold) reports(item string) bool {
	if f.report.FullReport {
		return true
	}
	path := ddm.PathStatusItems + "." + item
	if f.report.HasDeclarations &&
		(path == pathManagement || path == ddm.PathDeclarations || strings.HasPrefix(path, ddm.PathDeclarations+".")) {
		return true
	}
	for i := range f.report.Values {
		if rest, ok := strings.CutPrefix(f.report.Values[i].Path, path); ok && (rest == "" || rest[0] == '.') {
			return true
		}
	}
	return false
}
