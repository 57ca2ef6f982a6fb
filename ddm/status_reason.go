package ddm

import "strings"

// unknownCode stands for the code of an error that has none.
const unknownCode = "unknown"

// ReasonCode returns the first code in a list of reasons, given as JSON text,
// that is one of an error, or else the first, or "unknown". Of a code longer
// than 255 octets the start is kept, with a hash. That an activation's
// predicate is false, or that nothing activates a declaration, is no error:
// such codes begin with Info. Apple: status/statusreason.yaml.
func ReasonCode(reasons []byte) (code string, isError bool) {
	s := &scanner{data: reasons}
	if s.space(); s.peek() != '[' {
		return unknownCode, false
	}
	code = unknownCode
	first := true
	err := s.array(func(int) error {
		one, err := s.reason()
		switch {
		case err != nil || one == "" || isError:
		case isErrorCode(one):
			code, isError = one, true
		case first:
			code, first = one, false
		}
		return err
	})
	if err != nil {
		return unknownCode, false
	}
	return boundedName(code), isError
}

func isErrorCode(code string) bool { return strings.HasPrefix(code, "Error.") }

// reason passes a reason and returns its code, or "". It is spelled "Code" in
// protocol/statusreport.yaml.
func (s *scanner) reason() (code string, err error) {
	if s.peek() != '{' {
		return "", s.skip()
	}
	err = s.object(func(key []byte) error {
		text, err := s.rawMember()
		if err != nil {
			return err
		}
		if name := decodeString(key); name == "code" || name == "Code" {
			code = stringOr(text, "")
		}
		return nil
	})
	return code, err
}
