package ddm

import (
	"bytes"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// str passes the string at pos and returns its text, quotes and escapes
// included.
func (s *scanner) str() ([]byte, error) {
	start := s.pos
	for s.pos++; s.pos < len(s.data); {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start:s.pos:s.pos], nil
		case c < ' ':
			return nil, s.fail("control character in a string, must be escaped")
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		default:
			s.pos++
		}
	}
	return nil, s.fail("unexpected end of JSON in a string")
}

// escape passes the escape sequence at pos.
func (s *scanner) escape() error {
	rest := s.data[s.pos:]
	if len(rest) >= 2 && strings.IndexByte(`"\/bfnrt`, rest[1]) >= 0 {
		s.pos += 2
		return nil
	}
	if codeUnit(rest) < 0 {
		return s.fail("invalid escape sequence in a string")
	}
	s.pos += 6
	return nil
}

// stringLength returns the length of the string at the start of text, quotes
// included. The text must have been scanned before.
func stringLength(text []byte) int {
	for i := 1; ; i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// codeUnit returns the UTF-16 code unit of the \uXXXX at the start of text, or
// -1 if there is none.
func codeUnit(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	var unit rune
	for _, c := range text[2:6] {
		switch {
		case isDigit(c):
			unit = unit<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			unit = unit<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			unit = unit<<4 | rune(c-'A'+10)
		default:
			return -1
		}
	}
	return unit
}

// nextRune decodes the first character of the inside of a scanned string and
// returns how many octets it takes there. A lone surrogate, which can only
// come from an escape, is returned as it is.
func nextRune(text []byte) (rune, int) {
	if text[0] != '\\' {
		return utf8.DecodeRune(text)
	}
	switch text[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		unit := codeUnit(text)
		if pair := utf16.DecodeRune(unit, codeUnit(text[6:])); pair != utf8.RuneError {
			return pair, 12
		}
		return unit, 6
	default:
		return rune(text[1]), 2
	}
}

// decodeString returns what a scanned string, given with its quotes, stands
// for. A lone surrogate, which no Go string can hold, becomes U+FFFD.
func decodeString(quoted []byte) string {
	inside := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inside, '\\') < 0 {
		return string(inside)
	}
	decoded := make([]byte, 0, len(inside))
	for len(inside) > 0 {
		r, size := nextRune(inside)
		decoded = utf8.AppendRune(decoded, r)
		inside = inside[size:]
	}
	return string(decoded)
}

// hasLoneSurrogate reports whether a scanned string, given with its quotes, has
// an escape such as \ud800 that is no half of a pair.
func hasLoneSurrogate(quoted []byte) bool {
	inside := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inside, '\\') < 0 {
		return false
	}
	for len(inside) > 0 {
		r, size := nextRune(inside)
		if utf16.IsSurrogate(r) {
			return true
		}
		inside = inside[size:]
	}
	return false
}

// appendString appends s as a JSON string that escapes nothing but what has to
// be. Octets that aren't UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s {
		dst = appendRune(dst, r)
	}
	return append(dst, '"')
}

// appendRune appends the shortest JSON text of r inside a string; for a lone
// surrogate that is an escape.
func appendRune(dst []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r < ' ' || utf16.IsSurrogate(r):
		return append(dst, '\\', 'u', hex[r>>12], hex[r>>8&0xf], hex[r>>4&0xf], hex[r&0xf])
	default:
		return utf8.AppendRune(dst, r)
	}
}

// cutString returns the first octets of s, at most length, without cutting a
// character in two.
func cutString(s string, length int) string {
	if len(s) <= length {
		return s
	}
	for length > 0 && !utf8.RuneStart(s[length]) {
		length--
	}
	return s[:length]
}
