package checker

import (
	"context"
	"fmt"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// statuses verifies what is known of each device.
func (c *checker) statuses(ctx context.Context) error {
	return c.each(ctx, Status, func(
		ctx context.Context, after string, found func(subject, problem string),
	) (last string, rows int, err error) {
		everySet := func(storage.SetVersion) bool { return true }
		list, _, err := c.source.CheckedEnrollments(ctx, storage.Page{After: after, Limit: payloadPage}, everySet)
		for i := range list {
			id := list[i].ID
			last = id
			if !list[i].HasStatus {
				continue
			}
			if err := c.source.CheckStatus(ctx, id, func(status *storage.CheckedStatus) error {
				return checkStatus(status, func(problem string) { found(id, problem) })
			}); err != nil {
				return "", 0, err
			}
		}
		return last, len(list), err
	})
}

func checkStatus(status *storage.CheckedStatus, found func(problem string)) error {
	for i := range status.Values {
		if v := &status.Values[i]; !v.HashesMatch {
			found("the value of " + v.Path + " is not the one that its hashes are of")
		}
	}
	facts, derived := status.Facts, status.Derived
	facts.ConfirmedAt = derived.ConfirmedAt // since when is not known from the values
	if facts != derived {
		found(fmt.Sprintf("its facts are %+v, and its values say %+v", facts, derived))
	}
	checkDeclarationProblems(status, found)
	folded, err := refold(status)
	if err != nil {
		found("its reports cannot be read: " + err.Error())
		return nil
	}
	folded.compare(status, found)
	return nil
}

// checkDeclarationProblems compares the problems of declarations with what is known of the declarations.
func checkDeclarationProblems(status *storage.CheckedStatus, found func(problem string)) {
	wanted := map[storage.CheckedProblem]bool{}
	for _, d := range status.Declarations {
		if d.Problem != "" {
			wanted[storage.CheckedProblem{Declaration: true, Subject: d.Identifier, ServerToken: d.ServerToken, Code: d.Problem}] = true
		}
	}
	for _, p := range status.Problems {
		if p.Declaration && !wanted[p] {
			found("has the problem " + p.Code + " with the declaration " + p.Subject + ", of which it says nothing like that")
		}
		delete(wanted, p)
	}
	for p := range wanted {
		found("lacks the problem " + p.Code + " with the declaration " + p.Subject)
	}
}

// refold folds the reports that are kept, from the last full one on, as storage has done when they came.
func refold(status *storage.CheckedStatus) (*fold, error) {
	f := &fold{values: map[string]map[string]string{}, items: map[string]string{}}
	// Found first and then read again, so that no more than one is in memory at a time.
	from := len(status.Reports)
	for i := len(status.Reports) - 1; i >= 0 && f.full == 0; i-- {
		report, err := readReport(status, i)
		if err != nil {
			return nil, err
		}
		if report.FullReport {
			from, f.full = i, status.Reports[i]
		}
		if report.HasDeclarations && f.declared == 0 {
			f.declared = status.Reports[i]
			f.foldDeclarations(report)
		}
	}
	for i := from; i < len(status.Reports); i++ {
		report, err := readReport(status, i)
		if err != nil {
			return nil, err
		}
		f.foldValues(report)
		f.foldItems(report, status.ItemError)
	}
	return f, nil
}

func readReport(status *storage.CheckedStatus, i int) (*ddm.StatusReport, error) {
	text, err := status.Report(status.Reports[i])
	if err != nil {
		return nil, err
	}
	return ddm.ParseStatusReport(text)
}

// compare compares what was folded with what is stored. Where a device has enrolled again since, what it said before is
// void: then nothing that is stored is as old as the report that it would come from, and there is nothing to compare.
func (f *fold) compare(status *storage.CheckedStatus, found func(problem string)) {
	if f.full != 0 && !f.tooMuch && storedUntil(f.full, status.Values, func(v *storage.CheckedValue) int64 { return v.ReportID }) {
		f.compareValues(status, found)
		f.compareItems(status, found)
	}
	if f.declared != 0 && !f.tooManyDeclarations && storedUntil(f.declared, status.Declarations,
		func(d *storage.CheckedDeclarationStatus) int64 { return d.ReportID }) {
		f.compareDeclarations(status, found)
	}
}

// storedUntil reports whether one of the rows is of that report or an earlier one.
func storedUntil[Row any](report int64, rows []Row, reportOf func(*Row) int64) bool {
	for i := range rows {
		if reportOf(&rows[i]) <= report {
			return true
		}
	}
	return false
}

func (f *fold) compareValues(status *storage.CheckedStatus, found func(problem string)) {
	for i := range status.Values {
		v := &status.Values[i]
		wanted, there := f.values[v.Path][v.Element]
		delete(f.values[v.Path], v.Element) // what is left is not stored
		if !there {
			found("has a value of " + valueName(v.Path, v.Element) + " that its reports do not have")
		} else if wanted != v.Value {
			found("has another value of " + valueName(v.Path, v.Element) + " than its reports")
		}
	}
	for path, elements := range f.values {
		for element := range elements {
			found("lacks the value of " + valueName(path, element) + " that its reports have")
		}
	}
}

func valueName(path, element string) string {
	if element == "" {
		return path
	}
	return path + "[" + element + "]"
}

func (f *fold) compareDeclarations(status *storage.CheckedStatus, found func(problem string)) {
	stored := map[declarationKey]bool{}
	for _, d := range status.Declarations {
		key := declarationKey{d.Identifier, d.ServerToken}
		stored[key] = true
		if wanted, there := f.declarations[key]; !there {
			found("is said to have the declaration " + d.Identifier + " " + d.ServerToken + ", which its last report has not")
		} else if wanted != (declarationContent{d.Class, d.Valid, d.Reasons, d.Active}) {
			found("the status of the declaration " + d.Identifier + " " + d.ServerToken + " is another than in its last report")
		}
	}
	for key := range f.declarations {
		if !stored[key] {
			found("is not said to have the declaration " + key.identifier + " " + key.serverToken + ", which its last report has")
		}
	}
}

// compareItems compares the problems with status items. How many are kept depends on the servers' -keep-errors, so that only
// none is too few, and that only while there is still what is wrong with the newest: others may never have been kept.
func (f *fold) compareItems(status *storage.CheckedStatus, found func(problem string)) {
	some := false
	for _, p := range status.Problems {
		if p.Declaration {
			continue
		}
		some = true
		if code, there := f.items[p.Subject]; !there {
			found("has a problem with the status item " + p.Subject + ", of which its reports say nothing")
		} else if code != p.Code {
			found("has the problem " + p.Code + " with the status item " + p.Subject + ", and its reports say " + code)
		}
	}
	if _, kept := f.items[f.newestItem]; !some && kept {
		found(fmt.Sprintf("lacks all problems with status items, of which its reports have %d", len(f.items)))
	}
}
