package checker

import (
	"maps"
	"slices"
	"strings"

	"github.com/decree-ddm/decree/ddm"
)

// fold is what reports come to by the rules of storage, written for being read and not for being fast: all that is known is
// in memory. It keeps off what storage leaves out for its size.
type fold struct {
	// full is the last full report, and declared the last one that speaks of declarations; 0 where there is none.
	full, declared int64

	values              map[string]map[string]string // elements by path and key
	items               map[string]string            // the codes of what is wrong with status items
	newestItem          string                       // the last one of which there was an error
	declarations        map[declarationKey]declarationContent
	tooMuch             bool
	tooManyDeclarations bool
}

const pathManagement = ddm.PathStatusItems + ".management"

type declarationKey struct{ identifier, serverToken string }

type declarationContent struct {
	class, valid, reasons string
	active                bool
}

// What is beyond these may have been left out when it was stored.
const (
	maxValues       = 20_000
	maxValueBytes   = 1 << 20
	maxBytes        = 16 << 20
	maxDeclarations = 20_000
	maxReasonBytes  = 1 << 20
	maxValidOctets  = 64
)

func (f *fold) foldDeclarations(report *ddm.StatusReport) {
	f.declarations = map[declarationKey]declarationContent{}
	for _, d := range report.Declarations {
		if len(d.Reasons) > maxReasonBytes || len(d.Valid) > maxValidOctets || len(f.declarations) == maxDeclarations {
			f.tooManyDeclarations = true
			return
		}
		f.declarations[declarationKey{d.Identifier, d.ServerToken}] = declarationContent{
			string(d.Class), d.Valid, string(d.Reasons), d.Active,
		}
	}
}

// foldValues takes the values of a report. What was known at the path of each, above it and below it goes, except for the
// elements of a list that is merged.
func (f *fold) foldValues(report *ddm.StatusReport) {
	if report.FullReport {
		clear(f.values)
	}
	known := slices.Sorted(maps.Keys(f.values))
	kept := map[string]map[string]string{}
	for i := range report.Values {
		// A list that says nothing says of a list that is merged that nothing has changed.
		v := &report.Values[i]
		if (v.Keyed || v.List && len(v.Elements) == 0) && keyed(f.values[v.Path]) {
			kept[v.Path] = f.values[v.Path]
		}
	}
	paths := make([]string, 0, len(report.Values)+1)
	for i := range report.Values {
		paths = append(paths, report.Values[i].Path)
		if item, ok := ddm.DictionaryItem(report.Values[i].Path); ok {
			paths = append(paths, item)
		}
	}
	if report.HasDeclarations {
		paths = append(paths, ddm.PathDeclarations)
	}
	for _, path := range paths {
		for end := range path {
			if path[end] == '.' {
				delete(f.values, path[:end])
			}
		}
		delete(f.values, path)
		below := path + "."
		for at, _ := slices.BinarySearch(known, below); at < len(known) && strings.HasPrefix(known[at], below); at++ {
			delete(f.values, known[at])
		}
	}
	maps.Copy(f.values, kept)
	for i := range report.Values {
		f.writeValue(&report.Values[i])
	}
	count, octets := 0, 0
	for _, elements := range f.values {
		count += len(elements)
		for _, value := range elements {
			octets += len(value)
		}
	}
	f.tooMuch = f.tooMuch || count > maxValues || len(report.Values) > maxValues || octets > maxBytes
}

func (f *fold) writeValue(v *ddm.StatusValue) {
	for _, e := range v.Elements {
		if e.Removed {
			delete(f.values[v.Path], e.Key)
			continue
		}
		f.tooMuch = f.tooMuch || len(e.Value) > maxValueBytes
		if f.values[v.Path] == nil {
			f.values[v.Path] = map[string]string{}
		}
		f.values[v.Path][e.Key] = string(e.Value)
	}
	if len(f.values[v.Path]) == 0 {
		delete(f.values, v.Path)
	}
}

// keyed reports whether elements are of a list that is merged.
func keyed(elements map[string]string) bool {
	for key, value := range elements {
		if element, keyed := ddm.ElementKey([]byte(value)); keyed && element == key {
			return true
		}
	}
	return false
}

// foldItems takes the status items that could not be reported: each is a problem until it is reported.
func (f *fold) foldItems(report *ddm.StatusReport, itemError func(*ddm.StatusError) (item, code string, ok bool)) {
	for item := range f.items {
		if report.FullReport || reports(report, item) {
			delete(f.items, item)
		}
	}
	for i := range report.Errors {
		if item, code, ok := itemError(&report.Errors[i]); ok {
			f.items[item] = code // the last error of an item counts
			f.newestItem = item
		}
	}
}

func reports(report *ddm.StatusReport, item string) bool {
	path := ddm.PathStatusItems + "." + item
	if declarations := ddm.PathDeclarations + "."; report.HasDeclarations &&
		(path == pathManagement || strings.HasPrefix(path+".", declarations)) {
		return true
	}
	for i := range report.Values {
		if p := report.Values[i].Path; p == path || strings.HasPrefix(p, path+".") {
			return true
		}
	}
	return false
}
