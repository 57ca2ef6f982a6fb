package sqlstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
)

// TestGoneIsWhatIsKnown checks what goes for a report's sake: never more than is known, though a path can be below two
// hundred others.
func TestGoneIsWhatIsKnown(t *testing.T) {
	t.Parallel()
	report := &ddm.StatusReport{HasDeclarations: true}
	for i := range 20_000 {
		report.Values = append(report.Values, ddm.StatusValue{Path: fmt.Sprintf(".StatusItems.%d%s", i, strings.Repeat(".", 200))})
	}
	for _, path := range []string{"b.c", "e", "softwareupdate.failure-reason.count"} {
		report.Values = append(report.Values, ddm.StatusValue{Path: ".StatusItems." + path})
	}
	known := []string{}
	for _, path := range []string{
		"7", "7-", "7..", "8" + strings.Repeat(".", 250), "9" + strings.Repeat(".", 200), "b", "b-", "b.c", "b.c.d", "b.cd", "b.d", "e", "e.f.g", "ef",
		"management.declarations.others", "management.declarations-", "softwareupdate.failure-reason.reason", "softwareupdate.install-state",
	} {
		known = append(known, ".StatusItems."+path)
	}
	slices.Sort(known)
	gone := []string{}
	f := &fold{report: report, known: &knownValues{paths: known}}
	for _, path := range f.gone() {
		gone = append(gone, strings.TrimPrefix(path, ".StatusItems."))
	}
	require.ElementsMatch(t, []string{
		"7", "7..", "8" + strings.Repeat(".", 250), "9" + strings.Repeat(".", 200), "b", "b.c", "b.c.d", "e", "e.f.g",
		"management.declarations.others", "softwareupdate.failure-reason.reason",
	}, gone)
}
