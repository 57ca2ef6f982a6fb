package ddm

import (
	"bytes"
	"slices"
)

// canonical returns the canonical form of a payload: insignificant white space
// dropped, the members of objects sorted by the text of their keys, strings
// with no escapes but those that have to be, and number literals exactly as
// given, since 0.10 may mean something else than 0.1 to whoever reads it, and
// 9007199254740993 fits no float. (RFC 8785 rounds both.)
//
// Two payloads have the same canonical form exactly when they differ in nothing
// but white space, the order of members and the spelling of strings. What isn't
// JSON, and so was never accepted as a payload, is returned as it is.
func canonical(payload []byte) []byte {
	s := &scanner{data: payload}
	s.space()
	text, err := appendCanonical(make([]byte, 0, len(payload)), s)
	s.space()
	if err != nil || s.pos < len(payload) {
		return payload
	}
	return text
}

// appendCanonical appends the canonical form of the value at the scanner's
// position.
func appendCanonical(dst []byte, s *scanner) ([]byte, error) {
	switch s.peek() {
	case '{':
		return appendCanonicalObject(dst, s)
	case '[':
		dst = append(dst, '[')
		err := s.array(func(index int) (err error) {
			if index > 0 {
				dst = append(dst, ',')
			}
			dst, err = appendCanonical(dst, s)
			return err
		})
		return append(dst, ']'), err
	case '"':
		quoted, err := s.str()
		if err != nil {
			return dst, err
		}
		return appendCanonicalString(dst, quoted), nil
	default:
		start := s.pos
		err := s.skip()
		return append(dst, s.data[start:s.pos]...), err
	}
}

// appendCanonicalObject is appendCanonical for an object. It writes the members
// in the order given and sorts their texts afterwards, so that each text is
// scanned only once however deep it is nested.
func appendCanonicalObject(dst []byte, s *scanner) ([]byte, error) {
	type member struct{ start, value, end int }
	var members []member
	sorted := true
	keyOf := func(m member) []byte { return dst[m.start:m.value] }

	dst = append(dst, '{')
	first := len(dst)
	err := s.object(func(key []byte) (err error) {
		m := member{start: len(dst)}
		dst = appendCanonicalString(dst, key)
		m.value = len(dst)
		if count := len(members); count > 0 && bytes.Compare(keyOf(members[count-1]), keyOf(m)) > 0 {
			sorted = false
		}
		dst = append(dst, ':')
		dst, err = appendCanonical(dst, s)
		dst = append(dst, ',')
		m.end = len(dst)
		members = append(members, m)
		return err
	})
	if err != nil {
		return dst, err
	}
	if len(members) == 0 {
		return append(dst, '}'), nil
	}
	if !sorted {
		slices.SortStableFunc(members, func(a, b member) int { return bytes.Compare(keyOf(a), keyOf(b)) })
		given := bytes.Clone(dst[first:])
		dst = dst[:first]
		for _, m := range members {
			dst = append(dst, given[m.start-first:m.end-first]...)
		}
	}
	// The comma after the last member makes room for the brace.
	dst[len(dst)-1] = '}'
	return dst, nil
}

// appendCanonicalString appends the canonical form of a scanned string, given
// with its quotes.
func appendCanonicalString(dst, quoted []byte) []byte {
	inside := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inside, '\\') < 0 {
		return append(dst, quoted...)
	}
	dst = append(dst, '"')
	for len(inside) > 0 {
		r, size := nextRune(inside)
		dst = appendRune(dst, r)
		inside = inside[size:]
	}
	return append(dst, '"')
}

// keySet finds keys that an object has twice, however they are spelled. Most
// objects have a handful of keys, for which a list beats a map.
type keySet struct {
	few  [][]byte
	many map[string]struct{}
}

// add adds a key, given with its quotes. It reports false if the key was there.
func (set *keySet) add(quoted []byte) bool {
	const few = 16
	key := quoted
	if bytes.IndexByte(quoted, '\\') >= 0 {
		key = appendCanonicalString(nil, quoted)
	}
	if set.many == nil {
		for _, other := range set.few {
			if bytes.Equal(key, other) {
				return false
			}
		}
		if len(set.few) < few {
			set.few = append(set.few, key)
			return true
		}
		set.many = make(map[string]struct{}, 2*few)
		for _, other := range set.few {
			set.many[string(other)] = struct{}{}
		}
	}
	if _, ok := set.many[string(key)]; ok {
		return false
	}
	set.many[string(key)] = struct{}{}
	return true
}
