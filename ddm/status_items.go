package ddm

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strconv"
)

const (
	// PathStatusItems is what the paths of status items begin with.
	PathStatusItems = ".StatusItems"
	// PathErrors is the path of the elements of a report's Errors.
	PathErrors = ".Errors"

	// PathDeclarations is the path of the item that says what becomes of declarations.
	PathDeclarations = PathStatusItems + ".management.declarations"
)

// dictionaryItems are the paths of Apple's status items that are dictionaries.
// Apple: status/*.yaml.
var dictionaryItems = []string{
	PathStatusItems + ".management.client-capabilities",
	PathStatusItems + ".softwareupdate.failure-reason",
	PathStatusItems + ".softwareupdate.install-reason",
	PathStatusItems + ".softwareupdate.pending-version",
	PathStatusItems + ".test.dictionary-value",
}

// DictionaryItem returns the path of the status item of Apple's that a path is
// inside of, if that is a dictionary. A report that has such an item has all of
// it: a key that isn't there is there no more, such as the reason of a failure
// that is over.
func DictionaryItem(path string) (item string, ok bool) {
	for _, item := range dictionaryItems {
		if isBelow(path, item) {
			return item, true
		}
	}
	return "", false
}

// maxStatusValues bounds how many values, declarations and errors one report
// can have. Each takes many times the memory of the two octets that it can
// take in the report.
const maxStatusValues = 1 << 17

// statusReader reads a status report. Its methods are called with the scanner
// at a value, and pass it.
type statusReader struct {
	*scanner
	report *StatusReport
	// itemPath is the path of the value inside StatusItems.
	itemPath []byte
	// values has the index of each path in the report's values, and order when
	// each of these came.
	values map[string]int
	order  []int
	// began is when the last one of a repeated key, or of what can only be
	// there once, began, by path. Of two of them the last one counts.
	began map[string]int
	// last is when the last thing came, and repeats says that some of them may
	// have the same path, or one below another's that is a value.
	last     int
	repeats  bool
	declared declaredLists
	// count is how many values, declarations and errors there were.
	count int

	fullReport, fullItems bool // FullReport, by where it is
	oddItems, oddErrors   byte // what these begin with, where it is no object or list and not null
	errors                []StatusError
	problems              problemList
}

// topLevel takes a top-level member of the report.
func (r *statusReader) topLevel(key []byte) error {
	switch decodeString(key) {
	case "StatusItems":
		r.forgetItems()
		if r.oddItems = odd(r.peek(), '{'); r.peek() != '{' {
			return r.skip()
		}
		r.itemPath = append(r.itemPath[:0], PathStatusItems...)
		var keys keySet
		return r.object(func(key []byte) error {
			if decodeString(key) == "FullReport" {
				return r.boolean(&r.fullItems)
			}
			return r.item(&keys, key)
		})
	case "Errors":
		r.errors = nil
		if r.oddErrors = odd(r.peek(), '['); r.peek() != '[' {
			return r.skip()
		}
		return r.array(func(int) error {
			text, err := r.raw()
			if err != nil {
				return err
			}
			r.errors = append(r.errors, StatusError{Path: PathErrors, Error: text})
			return r.counted()
		})
	case "FullReport":
		return r.boolean(&r.fullReport)
	default:
		return r.skip()
	}
}

// odd returns what a member of the report begins with if that is neither what
// it should begin with nor null, which says as much as no member.
func odd(begins, wanted byte) byte {
	if begins == wanted || begins == 'n' {
		return 0
	}
	return begins
}

// forgetItems forgets what was in StatusItems: there is another one.
func (r *statusReader) forgetItems() {
	r.report.Values, r.order, r.declared, r.fullItems = nil, nil, declaredLists{}, false
	r.values, r.began = map[string]int{}, map[string]int{}
}

// finish puts together the report from what was read.
func (r *statusReader) finish() error {
	if r.oddItems != 0 {
		r.problems.add("StatusItems", "must be an object, not %s", kindOf(r.oddItems))
	}
	if r.oddErrors != 0 {
		r.problems.add("Errors", "must be a list, not %s", kindOf(r.oddErrors))
	}
	if err := r.problems.err(); err != nil {
		return err
	}
	r.settle()
	r.report.FullReport = r.fullReport || r.fullItems
	r.report.HasDeclarations = r.declared.order > 0
	r.report.Declarations, r.report.Errors = r.declared.all()
	r.report.Errors = append(r.report.Errors, r.errors...)
	return nil
}

// boolean takes the value of FullReport, wherever it is.
func (r *statusReader) boolean(into *bool) error {
	text, err := r.raw()
	*into = string(text) == "true"
	return err
}

// counted counts a value and fails when there are too many.
func (r *statusReader) counted() error {
	if r.count++; r.count > maxStatusValues {
		return r.fail("more than %d values", maxStatusValues)
	}
	return nil
}

// maxParentOctets is how long the path of an object can be whose members get
// paths of their own: theirs then begin with it, also when they are shortened.
const maxParentOctets = maxNameOctets - longNameOctets - len(".")

// item takes a member of an object inside StatusItems: a leaf, or an object to
// descend into.
func (r *statusReader) item(keys *keySet, key []byte) error {
	parent := r.itemPath
	defer func() { r.itemPath = parent }()
	r.descend(keys, key)
	switch {
	case r.peek() == '{' && len(r.itemPath) <= maxParentOctets:
		if string(r.itemPath) == PathDeclarations {
			return r.declarations()
		}
		var members keySet
		empty := true
		err := r.object(func(key []byte) error {
			empty = false
			return r.item(&members, key)
		})
		// Apple's items all are in a family. One that is empty has none of them.
		if family := len(parent) == len(PathStatusItems) && !bytes.ContainsRune(r.itemPath[1+len(parent):], '.'); family ||
			err != nil || !empty {
			return err
		}
		return r.scalar([]byte("{}"))
	case r.peek() == '[':
		return r.list()
	default:
		text, err := r.raw()
		if err != nil {
			return err
		}
		return r.scalar(text)
	}
}

// scalar adds a leaf that isn't a list.
func (r *statusReader) scalar(text []byte) error {
	r.add(StatusValue{Elements: []StatusElement{{Value: text}}}, r.next())
	return r.counted()
}

// add adds a value at the present path, or replaces what is there already.
func (r *statusReader) add(value StatusValue, order int) {
	if i, ok := r.values[string(r.itemPath)]; ok {
		value.Path = r.report.Values[i].Path
		r.report.Values[i], r.order[i] = value, order
		return
	}
	value.Path = string(r.itemPath)
	r.values[value.Path] = len(r.report.Values)
	r.report.Values = append(r.report.Values, value)
	r.order = append(r.order, order)
}

// list takes a list that isn't about declarations.
func (r *statusReader) list() error {
	value := StatusValue{List: true}
	var strange []int // elements without a key
	err := r.array(func(i int) error {
		start, spaces := r.pos, r.spaces
		var element StatusElement
		keyed := false
		var err error
		if r.peek() == '{' {
			keyed, err = r.keyedObject(&element)
		} else {
			err = r.skip()
		}
		if err != nil {
			return err
		}
		if keyed {
			value.Keyed = true
		} else {
			element.Removed = false
			strange = append(strange, i)
		}
		element.Value = r.since(start, spaces)
		value.Elements = append(value.Elements, element)
		return r.counted()
	})
	if err != nil {
		return err
	}
	for _, i := range strange {
		value.Elements[i].Key = indexKey(i)
		if value.Keyed {
			value.Elements[i].Key = strangeKey + value.Elements[i].Key
		}
	}
	if value.Keyed {
		value.Elements = lastOfEach(value.Elements, func(e *StatusElement) string { return e.Key })
	}
	r.add(value, r.next())
	return r.counted()
}

// strangeKey begins the keys of elements that have none in a list of others that do.
const strangeKey = "~"

// keyedObject takes an object that is the element of a list and fills in what
// it says of itself. It reports false if it has no identifier.
func (r *statusReader) keyedObject(element *StatusElement) (keyed bool, err error) {
	err = r.object(func(key []byte) error {
		text, err := r.rawMember()
		if err != nil {
			return err
		}
		switch decodeString(key) {
		case "identifier":
			if keyed = text[0] == '"'; keyed {
				element.Key = boundedName(decodeString(text))
			}
		case "_removed":
			element.Removed = string(text) == "true"
		}
		return nil
	})
	return keyed, err
}

// ElementKey returns the key by which an element of a list of status items is merged, given its JSON text, if it has one.
func ElementKey(element []byte) (key string, keyed bool) {
	s, err := newScanner(element)
	if err != nil {
		return "", false
	}
	var e StatusElement
	keyed, err = (&statusReader{scanner: s}).keyedObject(&e)
	return e.Key, keyed && err == nil
}

// lastOfEach keeps the last of the elements with the same key, at the place of
// the first.
func lastOfEach[E any, K comparable](elements []E, keyOf func(*E) K) []E {
	if len(elements) < 2 {
		return elements
	}
	places := make(map[K]int, len(elements))
	kept := elements[:0]
	for i := range elements {
		key := keyOf(&elements[i])
		if place, ok := places[key]; ok {
			kept[place] = elements[i]
			continue
		}
		places[key] = len(kept)
		kept = append(kept, elements[i])
	}
	return slices.Clip(kept)
}

// indexKey returns the key of an element that has only its index.
func indexKey(index int) string {
	// The width holds maxStatusValues.
	const zeros = "0000000"
	digits := strconv.Itoa(index)
	return zeros[min(len(digits), len(zeros)):] + digits
}

// appendPath returns the path of a member. It may write behind the end of the
// parent's path, but never changes the parent's path itself.
func appendPath(parent []byte, key string) []byte {
	if len(parent)+1+len(key) > maxNameOctets {
		path := bytes.Join([][]byte{parent, []byte(key)}, []byte("."))
		return []byte(boundedName(string(path)))
	}
	return append(append(parent, '.'), key...)
}

// longNameOctets is how long what stands at the end of a shortened name is.
const longNameOctets = len("~0123456789abcdef")

// boundedName returns name if it has at most 255 octets, and else its start
// with a hash of the whole. Without a bound a report with a single long key
// could make gigabytes of paths.
func boundedName(name string) string {
	if len(name) <= maxNameOctets {
		return name
	}
	h := newFieldHash(purposeLongName)
	h.field([]byte(name))
	suffix := "~" + hex.EncodeToString(h.Sum(nil)[:longNameOctets/2])
	return cutString(name, maxNameOctets-len(suffix)) + suffix
}
