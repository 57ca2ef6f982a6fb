package ddm

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// maxDepth is how deep objects and lists may be nested. Apple's deepest
// payloads have fewer than ten levels.
const maxDepth = 64

// scanner reads JSON text once, from front to back, strictly by RFC 8259. It
// builds no tree: who calls it descends with object and array, and takes the
// text of what it doesn't descend into with raw. All its errors are
// *InvalidError.
type scanner struct {
	data []byte
	pos  int
	// spaces counts the octets of insignificant white space passed so far.
	spaces int
	// path has a segment for each object and list that pos is inside of.
	path []segment
	// repeated, when set, is called at each key that its object has already.
	// Without it repeated keys aren't looked for.
	repeated func()
}

// segment is a step of the path to a value: a key, still quoted, or, when that
// is nil, an index.
type segment struct {
	key   []byte
	index int
}

// newScanner returns a scanner at the object that data consists of. Its error
// says that data is empty, begins with a byte order mark, isn't UTF-8 or isn't
// an object.
func newScanner(data []byte) (*scanner, error) {
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		return nil, invalid("", "the JSON text must not begin with a byte order mark")
	}
	s := &scanner{data: data, path: make([]segment, 0, 8)}
	if !utf8.Valid(data) {
		for rest := data; len(rest) > 0; {
			r, size := utf8.DecodeRune(rest)
			if r == utf8.RuneError && size == 1 {
				s.pos = len(data) - len(rest)
				break
			}
			rest = rest[size:]
		}
		return nil, s.fail("invalid UTF-8")
	}
	s.space()
	if s.pos == len(data) {
		return nil, invalid("", "the JSON text must not be empty")
	}
	if s.peek() != '{' {
		start := s.pos
		if err := s.skip(); err != nil {
			return nil, err
		}
		return nil, invalid("", "the JSON text must be an object, not %s", kindOf(data[start]))
	}
	return s, nil
}

// document passes the object that the whole text consists of, calling member
// as object does.
func (s *scanner) document(member func(key []byte) error) error {
	if err := s.object(member); err != nil {
		return err
	}
	s.space()
	if s.pos < len(s.data) {
		return s.unexpected("the end, since the object is complete")
	}
	return nil
}

// fail returns an error about the text at pos.
func (s *scanner) fail(format string, args ...any) error {
	before := s.data[:s.pos]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return invalid(s.where(), "line %d, column %d: %s", line, column, fmt.Sprintf(format, args...))
}

// unexpected returns an error which says that something else than the text at
// pos was expected.
func (s *scanner) unexpected(expected string) error {
	if s.pos >= len(s.data) {
		return s.fail("unexpected end of JSON, expected %s", expected)
	}
	r, _ := utf8.DecodeRune(s.data[s.pos:])
	return s.fail("unexpected %s, expected %s", strconv.QuoteRune(r), expected)
}

// where returns the dotted path of the value at pos. Long keys are cut: they
// come from strangers and end in messages.
func (s *scanner) where() string {
	const maxKey = 64
	var path []byte
	for _, segment := range s.path {
		switch {
		case segment.key != nil:
			if len(path) > 0 {
				path = append(path, '.')
			}
			key := decodeString(segment.key)
			if len(key) > maxKey {
				key = cutString(key, maxKey) + "…"
			}
			path = append(path, key...)
		case segment.index >= 0:
			path = append(path, '[')
			path = strconv.AppendInt(path, int64(segment.index), 10)
			path = append(path, ']')
		}
	}
	return string(path)
}

// space passes insignificant white space.
func (s *scanner) space() {
	start := s.pos
	for s.pos < len(s.data) && isSpace(s.data[s.pos]) {
		s.pos++
	}
	s.spaces += s.pos - start
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\n' || c == '\t' || c == '\r'
}

// peek returns the octet at pos, or 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// take passes c and reports true if it is next.
func (s *scanner) take(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// enter passes the opening bracket of an object or a list.
func (s *scanner) enter() error {
	if len(s.path) == maxDepth {
		return s.fail("nested deeper than %d levels", maxDepth)
	}
	s.pos++
	s.path = append(s.path, segment{index: -1})
	s.space()
	return nil
}

// leave notes that the closing bracket was passed.
func (s *scanner) leave() {
	s.path = s.path[:len(s.path)-1]
}

// object passes the object at pos. It calls member for each member, with the
// key as given, in quotes, and pos at the value, which member has to pass.
// Without a member function values are skipped.
func (s *scanner) object(member func(key []byte) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.take('}') {
		s.leave()
		return nil
	}
	var keys keySet
	for {
		if s.peek() != '"' {
			return s.unexpected("a key in double quotes")
		}
		key, err := s.str()
		if err != nil {
			return err
		}
		s.path[len(s.path)-1].key = key
		if s.repeated != nil && !keys.add(key) {
			s.repeated()
		}
		s.space()
		if !s.take(':') {
			return s.unexpected("a colon")
		}
		s.space()
		if member == nil {
			err = s.skip()
		} else {
			err = member(key)
		}
		if err != nil {
			return err
		}
		s.space()
		if s.take('}') {
			s.leave()
			return nil
		}
		if !s.take(',') {
			return s.unexpected("a comma or a closing brace")
		}
		s.space()
	}
}

// array passes the list at pos. It calls element for each element, with pos at
// the value, which element has to pass. Without an element function values are
// skipped.
func (s *scanner) array(element func(index int) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.take(']') {
		s.leave()
		return nil
	}
	for index := 0; ; index++ {
		s.path[len(s.path)-1].index = index
		var err error
		if element == nil {
			err = s.skip()
		} else {
			err = element(index)
		}
		if err != nil {
			return err
		}
		s.space()
		if s.take(']') {
			s.leave()
			return nil
		}
		if !s.take(',') {
			return s.unexpected("a comma or a closing bracket")
		}
		s.space()
	}
}

// skip passes the value at pos, whatever it is.
func (s *scanner) skip() error {
	switch c := s.peek(); c {
	case '{':
		return s.object(nil)
	case '[':
		return s.array(nil)
	case '"':
		_, err := s.str()
		return err
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		if c == '-' || isDigit(c) {
			return s.number()
		}
		return s.unexpected("a value")
	}
}

// raw passes the value at pos and returns its text without insignificant white
// space. The text may alias the input.
func (s *scanner) raw() ([]byte, error) {
	start, spaces := s.pos, s.spaces
	if err := s.skip(); err != nil {
		return nil, err
	}
	return s.since(start, spaces), nil
}

// rawMember passes a value and returns its text as given, white space included,
// which is enough to look at scalars and costs no copy.
func (s *scanner) rawMember() ([]byte, error) {
	start := s.pos
	err := s.skip()
	return s.data[start:s.pos], err
}

// since returns the text from start to pos without insignificant white space;
// spaces is the count of white space at start. The text may alias the input.
func (s *scanner) since(start, spaces int) []byte {
	text := s.data[start:s.pos:s.pos]
	if s.spaces == spaces {
		return text
	}
	compact := make([]byte, 0, len(text)-(s.spaces-spaces))
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"':
			end := i + stringLength(text[i:])
			compact = append(compact, text[i:end]...)
			i = end
		case isSpace(c):
			i++
		default:
			compact = append(compact, c)
			i++
		}
	}
	return compact
}

// literal passes true, false or null.
func (s *scanner) literal(word string) error {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return s.unexpected("a value")
	}
	s.pos += len(word)
	return nil
}

// number passes the number at pos.
func (s *scanner) number() error {
	s.take('-')
	if !s.take('0') {
		if err := s.digits(); err != nil {
			return err
		}
	}
	if s.take('.') {
		if err := s.digits(); err != nil {
			return err
		}
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		return s.digits()
	}
	return nil
}

// digits passes one or more digits.
func (s *scanner) digits() error {
	start := s.pos
	for s.pos < len(s.data) && isDigit(s.data[s.pos]) {
		s.pos++
	}
	if s.pos == start {
		return s.unexpected("a digit")
	}
	return nil
}

func isDigit(c byte) bool {
	return c >= '0' && c <= '9'
}

// kindOf names the kind of the value that starts with c, for messages.
func kindOf(c byte) string {
	switch c {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
