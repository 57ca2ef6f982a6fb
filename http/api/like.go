package api

import "slices"

// pattern is a LIKE pattern of SQL: % stands for any text, _ for one character, and a backslash takes the meaning
// from what follows it. It is matched here and not in the database, whose LIKE differs in case and escapes.
type pattern struct {
	tokens []token
	// fewest is how many characters the shortest text that matches has.
	fewest int
}

type token struct {
	kind      tokenKind
	character rune
}

type tokenKind int

const (
	oneCharacter tokenKind = iota // that of the token
	anyCharacter
	anyText
)

func parsePattern(text string) pattern {
	var p pattern
	escaped := false
	for _, c := range text {
		next := token{oneCharacter, c}
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
			continue
		case c == '%':
			next = token{kind: anyText}
		case c == '_':
			next = token{kind: anyCharacter}
		}
		p.add(next)
	}
	if escaped {
		p.add(token{oneCharacter, '\\'})
	}
	return p
}

func (p *pattern) add(next token) {
	if next.kind != anyText {
		p.fewest++
	} else if last := len(p.tokens) - 1; last >= 0 && p.tokens[last].kind == anyText {
		return
	}
	p.tokens = append(p.tokens, next)
}

// matches reports whether the pattern matches the whole text. It only ever goes back to the last %, since an earlier
// one can gain nothing by taking more: the time is at most the product of the two lengths, whatever the pattern, and
// a pattern that is much longer than the text is not looked at.
func (p pattern) matches(text string) bool {
	characters := []rune(text)
	if len(characters) < p.fewest {
		return false
	}
	at, position := 0, 0
	back, backPosition := -1, 0 // after the last %, and where in the text it was tried last
	for position < len(characters) {
		switch {
		case at < len(p.tokens) && p.tokens[at].kind == anyText:
			at++
			back, backPosition = at, position
		case at < len(p.tokens) && p.tokens[at].takes(characters[position]):
			at++
			position++
		case back >= 0:
			backPosition++
			at, position = back, backPosition
		default:
			return false
		}
	}
	return !slices.ContainsFunc(p.tokens[at:], func(t token) bool { return t.kind != anyText })
}

// takes reports whether a token that is not % stands for a character.
func (t token) takes(character rune) bool {
	return t.kind == anyCharacter || t.character == character
}
