package ddm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// value is a JSON value that can be written in many ways.
type value struct {
	scalar   string // the text of anything but strings, lists and objects
	str      []rune // a string; lone surrogates are escaped
	isString bool
	list     []*value
	isList   bool
	keys     [][]rune
	members  []*value
}

// genValue generates values nested up to depth levels.
func genValue(depth int) *rapid.Generator[*value] {
	runes := rapid.SliceOfN(rapid.OneOf(
		rapid.SampledFrom(append([]rune("ab\"\\/\n\t\x00\x1f\x7f<>&é😀\u2028\ufffd "), 0xd800, 0xdfff)),
		rapid.Rune(),
	), 0, 4)
	scalar := rapid.Custom(func(t *rapid.T) *value {
		return &value{scalar: rapid.OneOf(
			rapid.SampledFrom([]string{"true", "false", "null", "0", "-0", "0.10", "0.1", "1e400", "1E400", "9007199254740993"}),
			rapid.StringMatching(`-?(0|[1-9][0-9]{0,4})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?`),
		).Draw(t, "scalar")}
	})
	str := rapid.Custom(func(t *rapid.T) *value {
		return &value{isString: true, str: runes.Draw(t, "string")}
	})
	if depth == 0 {
		return rapid.OneOf(scalar, str)
	}
	list := rapid.Custom(func(t *rapid.T) *value {
		return &value{isList: true, list: rapid.SliceOfN(genValue(depth-1), 0, 4).Draw(t, "list")}
	})
	return rapid.OneOf(scalar, str, list, genObject(depth))
}

// genObject generates objects without repeated keys.
func genObject(depth int) *rapid.Generator[*value] {
	return rapid.Custom(func(t *rapid.T) *value {
		object := &value{}
		key := genValue(0).Filter(func(v *value) bool { return v.isString })
		for range rapid.IntRange(0, 5).Draw(t, "members") {
			name := key.Draw(t, "key").str
			if slices.ContainsFunc(object.keys, func(other []rune) bool { return plain(other) == plain(name) }) {
				continue
			}
			object.keys = append(object.keys, name)
			object.members = append(object.members, genValue(depth-1).Draw(t, "member"))
		}
		return object
	})
}

// plain writes a string with as few escapes as possible.
func plain(runes []rune) string {
	var text []byte
	for _, r := range runes {
		text = appendRune(text, r)
	}
	return string(text)
}

// writer writes values; with a source of choices it varies what doesn't matter.
type writer struct {
	strings.Builder
	t *rapid.T
}

func (w *writer) choose(label string, n int) int {
	if w.t == nil {
		return 0
	}
	return rapid.IntRange(0, n-1).Draw(w.t, label)
}

func (w *writer) space() {
	w.WriteString([]string{"", " ", "\n\t", "\r "}[w.choose("space", 4)])
}

func (w *writer) quoted(runes []rune) {
	w.WriteByte('"')
	for _, r := range runes {
		switch {
		case w.choose("escape", 3) == 0:
			w.WriteString(plain([]rune{r}))
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(w, `\u%04x\u%04X`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		case r == '/' || r == '"' || r == '\\':
			w.WriteString(`\` + string(r))
		case r == '\n':
			w.WriteString(`\n`)
		default:
			fmt.Fprintf(w, `\u%04X`, r)
		}
	}
	w.WriteByte('"')
}

func (w *writer) value(v *value) {
	switch {
	case v.scalar != "":
		w.WriteString(v.scalar)
	case v.isString:
		w.quoted(v.str)
	case v.isList:
		w.WriteByte('[')
		w.space()
		for i, element := range v.list {
			if i > 0 {
				w.WriteByte(',')
				w.space()
			}
			w.value(element)
			w.space()
		}
		w.WriteByte(']')
	default:
		order := make([]int, len(v.members))
		for i := range order {
			order[i] = i
		}
		if w.t != nil {
			order = rapid.Permutation(order).Draw(w.t, "order")
		}
		w.WriteByte('{')
		w.space()
		for i, member := range order {
			if i > 0 {
				w.WriteByte(',')
				w.space()
			}
			w.quoted(v.keys[member])
			w.space()
			w.WriteByte(':')
			w.space()
			w.value(v.members[member])
			w.space()
		}
		w.WriteByte('}')
	}
}

func text(v *value, t *rapid.T) string {
	w := &writer{t: t}
	w.value(v)
	return w.String()
}

// surrogatesMeet reports whether the value has a string in which two lone
// surrogates make a pair, and so are something else when escaped.
func surrogatesMeet(v *value) bool {
	meet := func(runes []rune) bool {
		for i := 1; i < len(runes); i++ {
			if runes[i-1] >= 0xd800 && runes[i-1] < 0xdc00 && runes[i] >= 0xdc00 && runes[i] < 0xe000 {
				return true
			}
		}
		return false
	}
	return meet(v.str) || slices.ContainsFunc(v.keys, meet) ||
		slices.ContainsFunc(v.list, surrogatesMeet) || slices.ContainsFunc(v.members, surrogatesMeet)
}

func genPayload() *rapid.Generator[*value] {
	return genObject(4).Filter(func(v *value) bool { return !surrogatesMeet(v) })
}

func TestCanonicalIgnoresSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := genPayload().Draw(t, "payload")
		want := parse(t, withPayload(text(payload, nil)))
		other := parse(t, withPayload(text(payload, t)))
		require.Equal(t, string(canonical(want.Payload)), string(canonical(other.Payload)))
		require.Equal(t, want.ContentHash(), other.ContentHash())

		form := canonical(want.Payload)
		require.True(t, json.Valid(form))
		require.Equal(t, string(form), string(canonical(form)), "the canonical form is its own")
	})
}

// change changes one scalar, key or length somewhere in the value.
func change(t *rapid.T, v *value) {
	switch {
	case v.isList && len(v.list) > 0 && rapid.Bool().Draw(t, "inside"):
		change(t, rapid.SampledFrom(v.list).Draw(t, "element"))
	case v.isList:
		v.list = append(v.list, &value{scalar: "null"})
	case v.isString:
		v.str = append(slices.Clone(v.str), 'x')
	case v.scalar != "":
		switch v.scalar {
		case "true", "false", "null":
			v.scalar = strconv.Quote(v.scalar)
		default:
			v.scalar += "0"
			if v.scalar == "00" || v.scalar == "-00" {
				v.scalar = strings.TrimSuffix(v.scalar, "0") + ".0"
			}
		}
	case len(v.members) > 0 && rapid.Bool().Draw(t, "inside"):
		change(t, rapid.SampledFrom(v.members).Draw(t, "member"))
	case len(v.members) > 0 && rapid.Bool().Draw(t, "remove"):
		v.keys, v.members = v.keys[1:], v.members[1:]
	default:
		v.keys = append(v.keys, []rune("a key that is new"))
		v.members = append(v.members, &value{scalar: "null"})
	}
}

func TestCanonicalSeesEveryChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := genPayload().Draw(t, "payload")
		before := parse(t, withPayload(text(payload, t)))
		change(t, payload)
		after := parse(t, withPayload(text(payload, t)))
		require.NotEqual(t, string(canonical(before.Payload)), string(canonical(after.Payload)))
		require.NotEqual(t, before.ContentHash(), after.ContentHash())
	})
}

func TestJSONRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		declaration := parse(t, withPayload(text(genPayload().Draw(t, "payload"), t)))
		declaration.ServerToken = ServerToken(declaration.ContentHash(), 3)
		served := declaration.JSON()
		require.True(t, json.Valid(served))
		again := parse(t, string(served))
		again.ServerToken = declaration.ServerToken
		require.Equal(t, declaration, again)
		require.Equal(t, string(served), string(again.JSON()))
	})
}
