package sqlstore

import (
	"database/sql"
	"encoding/json"
	"strings"

	"github.com/decree-ddm/decree/ddm"
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
	items := 0
	for _, e := range f.report.Errors {
		item, code, ok := itemError(&e)
		key := problemKey{kind: problemStatusItem, subject: item}
		if _, again := wanted[key]; !ok || again || items == f.tx.store.options.KeepErrors {
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

// replaceProblems writes problems in place of those that the report says are over. Of status items, at most as many are
// kept as errors.
func (f *fold) replaceProblems(wanted map[problemKey]string, items int) error {
	known := map[problemKey]string{}
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var key problemKey
		var code string
		if err := rows.Scan(&key.kind, &key.subject, &key.serverToken, &code); err != nil {
			return err
		}
		known[key] = code
		return nil
	}, `SELECT kind, subject, server_token, code FROM problems WHERE enrollment_id = ?`, f.enrollmentID)
	if err != nil {
		return err
	}
	for key := range known {
		if _, still := wanted[key]; still {
			continue
		}
		if key.kind == problemStatusItem && !f.reports(key.subject) && items < f.tx.store.options.KeepErrors {
			items++
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
	for key, code := range wanted {
		if before, same := known[key]; same && before == code {
			continue
		}
		rows = append(rows, []any{key.kind, key.subject, f.enrollmentID, key.serverToken, code})
	}
	return f.tx.upsertRows(`problems (kind, subject, enrollment_id, server_token, code, received_at)`,
		"kind, subject, enrollment_id, server_token", []string{"code", "received_at"}, rows)
}

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
