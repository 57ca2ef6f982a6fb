package ddm

import (
	"cmp"
	"slices"
	"strings"
)

// mention is what a report says at one path of StatusItems, by when it said
// it: the first thing in a report is 1, the next one 2.
type mention struct {
	path string
	// began is when something last began that takes the place of all that was
	// said before at the path and below it, and said when anything was last
	// said at the path itself.
	began, said int
	// list is the list of declarations at the path, if there is one.
	list *declarationList
}

// settle drops what something later in the report has taken the place of: all
// that was said of a key that is repeated, and what was said of the same path
// by another key. Few reports have anything of that kind.
func (r *statusReader) settle() {
	if !r.repeats {
		return
	}
	stands := make(map[string]int, len(r.order)) // from when on what is said counts
	var above []*mention                         // those that the present one is below
	for _, m := range r.mentions() {
		for len(above) > 0 && !isBelow(m.path, above[len(above)-1].path) {
			above = above[:len(above)-1]
		}
		if len(above) > 0 {
			m.began = max(m.began, above[len(above)-1].began)
		}
		above = append(above, m)
		from := max(m.began, m.said)
		stands[m.path] = from
		if m.list != nil && m.list.order < from {
			m.list.declarations, m.list.errors = nil, nil
		}
	}
	if r.declared.order < stands[PathDeclarations] {
		r.declared = declaredLists{}
	}
	kept := r.report.Values[:0]
	for i, value := range r.report.Values {
		if r.order[i] >= stands[value.Path] {
			kept = append(kept, value)
		}
	}
	r.report.Values = kept
	if len(kept) == 0 {
		r.report.Values = nil
	}
}

// mentions returns all that the report says, each path before what is below it.
func (r *statusReader) mentions() []*mention {
	byPath := make(map[string]*mention, len(r.order)+len(r.began))
	at := func(path string, order int) *mention {
		m := byPath[path]
		if m == nil {
			m = &mention{path: path}
			byPath[path] = m
		}
		m.said = max(m.said, order)
		return m
	}
	for i := range r.report.Values {
		at(r.report.Values[i].Path, r.order[i])
	}
	for path, began := range r.began {
		at(path, 0).began = began
	}
	for _, list := range r.declared.lists {
		at(PathDeclarations+"."+list.class.statusListName(), list.order).list = list
	}
	mentions := make([]*mention, 0, len(byPath))
	for _, m := range byPath {
		mentions = append(mentions, m)
	}
	slices.SortFunc(mentions, func(a, b *mention) int { return comparePaths(a.path, b.path) })
	return mentions
}

// isBelow reports whether a path is that of something inside of what another
// one is the path of.
func isBelow(path, other string) bool {
	return len(path) > len(other) && path[len(other)] == '.' && path[:len(other)] == other
}

// comparePaths compares paths so that what is below a path follows it.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == b[i]:
		case a[i] == '.':
			return -1
		case b[i] == '.':
			return 1
		default:
			return cmp.Compare(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}

// begin notes that what the report has said until now at the present path and
// below it doesn't count.
func (r *statusReader) begin() {
	r.began[string(r.itemPath)] = r.next()
}

// next returns when the next thing in the report comes.
func (r *statusReader) next() int {
	r.last++
	return r.last
}

// descend goes from an object inside StatusItems, which has keys, to a member.
func (r *statusReader) descend(keys *keySet, key []byte) {
	name := decodeString(key)
	r.itemPath = appendPath(r.itemPath, name)
	repeated := !keys.add(key)
	if repeated {
		r.begin()
	}
	// Keys that differ lead to the same path only where they have a dot.
	r.repeats = r.repeats || repeated || strings.Contains(name, ".")
}
