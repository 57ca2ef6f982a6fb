package ddm

import (
	"fmt"
	"strings"
)

// validatePredicate returns what keeps an activation's predicate from being
// read, or nil. It finds what is empty, a quote that is not closed, and
// brackets that do not match; not every predicate that passes is one that
// devices understand. A bad one can wedge a device for good, so what is sure to
// be bad is refused. Apple: declarations/activations/simple.yaml, and the
// Predicate Programming Guide for the format.
func validatePredicate(field, predicate string) *Problem {
	if strings.TrimSpace(predicate) == "" {
		return &Problem{field, "must not be empty: leave it out for an activation that always applies"}
	}
	closing := map[byte]byte{'(': ')', '{': '}', '[': ']'}
	var open []byte
	for i := 0; i < len(predicate); i++ {
		switch c := predicate[i]; c {
		case '"', '\'':
			end := quoteEnd(predicate, i)
			if end < 0 {
				return &Problem{field, fmt.Sprintf("the quote %c at offset %d is not closed", c, i)}
			}
			i = end
		case '(', '{', '[':
			open = append(open, closing[c])
		case ')', '}', ']':
			if len(open) == 0 || open[len(open)-1] != c {
				return &Problem{field, fmt.Sprintf("%c at offset %d closes nothing", c, i)}
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return &Problem{field, fmt.Sprintf("%c is missing at the end", open[len(open)-1])}
	}
	return nil
}

// quoteEnd returns where the quote that begins at an index ends, or -1. A
// backslash escapes what is behind it.
func quoteEnd(text string, begin int) int {
	for i := begin + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case text[begin]:
			return i
		}
	}
	return -1
}
