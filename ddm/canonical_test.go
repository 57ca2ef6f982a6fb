package ddm

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCanonical(t *testing.T) {
	tests := []struct{ payload, want string }{
		{`{}`, `{}`},
		{` { } `, `{}`},
		{`{"b":1,"a":{"d":[ ],"c":[ {"f":1 , "e":2} , { } ]}}`, `{"a":{"c":[{"e":2,"f":1},{}],"d":[]},"b":1}`},
		{`{"\u0041":"\u0042\/\n\u007f\u00e9\ud83d\ude00\"\\"}`, `{"A":"B/\u000a` + "\u007f" + `é😀\"\\"}`},
		{`{"a":"\b\f\r\t\u0008\u000C\u000d\u0009\u0000"}`, `{"a":"\u0008\u000c\u000d\u0009\u0008\u000c\u000d\u0009\u0000"}`},
		{`{"a":0.10,"b":1E5,"c":-0,"d":9007199254740993}`, `{"a":0.10,"b":1E5,"c":-0,"d":9007199254740993}`},
		{`{"a":"\uD800","b":"\udc00\ud800x"}`, `{"a":"\ud800","b":"\udc00\ud800x"}`},
		{`{"ab":1,"a":2,"a!":3}`, `{"a!":3,"a":2,"ab":1}`},
		{`{"a":1} x`, `{"a":1} x`},
		{``, ``},
	}
	for _, test := range tests {
		require.Equal(t, test.want, string(canonical([]byte(test.payload))), test.payload)
	}
}

func TestContentHash(t *testing.T) {
	base := parse(t, withPayload(`{"a":0.10,"b":["A",{"c":null,"d":"\ud800"}]}`)).ContentHash()
	require.Equal(t, base, parse(t, withPayload(` { "b" : [ "\u0041" , {"d":"\uD800","c":null} ], "\u0061": 0.10 } `)).ContentHash())
	for _, payload := range []string{
		`{"a":0.1,"b":["A",{"c":null,"d":"\ud800"}]}`,
		`{"a":0.10,"b":["a",{"c":null,"d":"\ud800"}]}`,
		`{"a":0.10,"b":[{"c":null,"d":"\ud800"},"A"]}`,
		`{"a":0.10,"b":["A",{"c":null,"d":"\ud801"}]}`,
		`{"a":0.10,"b":["A",{"c":null,"d":"\ufffd"}]}`,
		`{"a":0.10,"b":["A",{"c":null,"d":"\\ud800"}]}`,
		`{"a":0.10,"b":["A",{"c":"null","d":"\ud800"}]}`,
		`{"a":0.10,"b":["A",{"d":"\ud800"}]}`,
		`{"a":"0.10","b":["A",{"c":null,"d":"\ud800"}]}`,
		`{}`,
	} {
		require.NotEqual(t, base, parse(t, withPayload(payload)).ContentHash(), payload)
	}

	declaration := parse(t, withPayload(`{}`))
	hash := declaration.ContentHash()
	declaration.ServerToken, declaration.Class = "x", "y"
	require.Equal(t, hash, declaration.ContentHash(), "only content counts")
	declaration.Identifier = "b"
	require.NotEqual(t, hash, declaration.ContentHash())
	declaration.Identifier, declaration.Type = "a", "com.apple.configuration.management.tes"
	require.NotEqual(t, hash, declaration.ContentHash())
}
