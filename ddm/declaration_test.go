package ddm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parse returns a declaration that must be fine.
func parse(t require.TestingT, text string) *Declaration {
	declaration, _, err := ParseDeclaration([]byte(text))
	require.NoError(t, err)
	return declaration
}

// withPayload returns the text of a declaration around a payload.
func withPayload(payload string) string {
	return `{"Identifier":"a","Type":"com.apple.configuration.management.test","Payload":` + payload + `}`
}

func TestParseDeclaration(t *testing.T) {
	declaration, warnings, err := ParseDeclaration([]byte(` {
		"Type" : "com.apple.configuration.passcode.settings",
		"Identifier": "com.example/caf\u00e9 \ud83d\ude00:1",
		"ServerToken": {"any": "thing"},
		"Payload": { "b" : [ 1, 2 ] , "a": "x y\t\/" }
	}` + "\r\n"))
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, &Declaration{
		Identifier: "com.example/café 😀:1",
		Type:       "com.apple.configuration.passcode.settings",
		Class:      ClassConfiguration,
		Payload:    []byte(`{"b":[1,2],"a":"x y\t\/"}`),
	}, declaration)
}

func TestPayloadValuesSurvive(t *testing.T) {
	for _, payload := range []string{
		`{}`,
		`{"n":9007199254740993}`,
		`{"n":1e400}`,
		`{"n":0.10,"m":-0,"o":-0.0E-00,"p":123456789012345678901234567890}`,
		`{"z":1,"a":2,"m":{"z":[],"a":{}}}`,
		`{"s":"\u2028"}`,
		"{\"s\":\"\u2028\u2029\"}",
		`{"s":"😀 \ud83d\ude00 <b>&amp;"}`,
		`{"s":"\ud800","t":"\uDFFF\ud800"}`,
		`{"s":"  two  spaces { } : , [ ] \" \\ "}`,
		`{"":null,"t":true,"f":false}`,
	} {
		declaration := parse(t, withPayload(payload))
		require.Equal(t, payload, string(declaration.Payload))
		declaration.ServerToken = "token"
		text := declaration.JSON()
		require.Equal(t, `{"Identifier":"a","Type":"com.apple.configuration.management.test","ServerToken":"token","Payload":`+payload+`}`, string(text))
		require.True(t, json.Valid(text))
	}
}

func TestParseDeclarationRefuses(t *testing.T) {
	const wholeType = `"Type":"com.apple.configuration.management.test"`
	const rest = wholeType + `,"Payload":{}`
	tests := []struct {
		name, text, want string
	}{
		{"empty", "", "the JSON text must not be empty"},
		{"white space", " \n", "the JSON text must not be empty"},
		{"byte order mark", "\ufeff{}", "the JSON text must not begin with a byte order mark"},
		{"invalid UTF-8", "{\n \"a\":\"é\xff\"}", "line 2, column 8: invalid UTF-8"},
		{"UTF-8 surrogate", "{\"a\":\"\xed\xa0\x80\"}", "line 1, column 7: invalid UTF-8"},
		{"list", "[1, {}]", "the JSON text must be an object, not a list"},
		{"string", `"a"`, "the JSON text must be an object, not a string"},
		{"null", "null", "the JSON text must be an object, not null"},
		{"word", "hello", "line 1, column 1: unexpected 'h', expected a value"},
		{"everything missing", "{}", "Identifier: is missing; Type: is missing; Payload: is missing"},
		{"wrong case", `{"identifier":"a","TYPE":"b","payload":{}}`, `Identifier: is missing; "identifier" was found, but keys are case-sensitive; ` +
			`Type: is missing; "TYPE" was found, but keys are case-sensitive; Payload: is missing; "payload" was found, but keys are case-sensitive`},
		{"wrong kinds", `{"Identifier":1,"Type":null,"Payload":[]}`, "Identifier: must be a string, not a number; Type: must be a string, not null; Payload: must be an object, not a list"},
		{"kinds again", `{"Identifier":{},"Type":true,"Payload":"{}"}`, "Identifier: must be a string, not an object; Type: must be a string, not a boolean; Payload: must be an object, not a string"},
		{"empty strings", `{"Identifier":"","Type":"","Payload":null}`, "Identifier: must not be empty; Type: must not be empty; Payload: must be an object, not null"},
		{"reserved", `{"Identifier":"com.github.decree-ddm.shard",` + rest + `}`, "Identifier: com.github.decree-ddm.shard is reserved: the server makes this declaration itself"},
		{"lone surrogates", `{"Identifier":"a\ud800","Type":"\udc00","Payload":{}}`, "Identifier: must not contain a lone surrogate; Type: must not contain a lone surrogate"},
		{"type", `{"Identifier":"a","Type":"com.apple.profile.x","Payload":{}}`, "Type: must look like com.apple.CLASS.NAME where CLASS is activation, asset, configuration or management"},
		{"space in type", `{"Identifier":"a","Type":"com.apple.asset.a b","Payload":{}}`, "Type: must not contain white space"},
		{"control character in type", `{"Identifier":"a","Type":"com.apple.asset.a\u0085b","Payload":{}}`, "Type: must not contain control characters"},
		{"long type", `{"Identifier":"a","Type":"com.apple.asset.` + strings.Repeat("x", 240) + `","Payload":{}}`, "Type: must not be longer than 255 octets, has 256"},
		{"duplicate", `{"Identifier":"a","Identifier":"a",` + rest + `}`, "Identifier: key appears twice"},
		{"duplicate unknown", `{"x":1,"x":1,"Identifier":"a",` + rest + `}`, "x: key appears twice"},
		{"duplicate in payload", withPayload(`{"a":[{},{"b":{"c":1,"\u0063":2}}]}`), "Payload.a[1].b.c: key appears twice"},
		{"three times, and another", withPayload(`{"a":1,"a":2,"a":3,"b":{"\ud83d\ude00":1,"😀":1}}`), "Payload.a: key appears twice; Payload.a: key appears twice; Payload.b.😀: key appears twice"},
		{"duplicate lone surrogate", withPayload(`{"\ud800":1,"\uD800":1}`), "Payload.\ufffd: key appears twice"},
		{"duplicate of many", withPayload(`{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1,"l":1,"m":1,"n":1,"o":1,"p":1,"q":1,"r":1,"q":1,"a":1}`), "Payload.q: key appears twice; Payload.a: key appears twice"},
		{"duplicate and syntax", withPayload(`{"a":1,"a":[}`), "Payload.a: key appears twice; Payload.a[0]: line 1, column 90: unexpected '}', expected a value"},
		{"trailing garbage", withPayload(`{}`) + " x", "line 1, column 82: unexpected 'x', expected the end, since the object is complete"},
		{"second object", withPayload(`{}`) + "{}", "line 1, column 81: unexpected '{', expected the end, since the object is complete"},
		{"unfinished", `{"Identifier":"a"`, "Identifier: line 1, column 18: unexpected end of JSON, expected a comma or a closing brace"},
		{"line and column", "{\n\t\"Identifier\": \"ä\", \"x\": tru }", "x: line 2, column 26: unexpected 't', expected a value"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			declaration, warnings, err := ParseDeclaration([]byte(test.text))
			require.Nil(t, declaration)
			require.Empty(t, warnings)
			var invalid *InvalidError
			require.ErrorAs(t, err, &invalid)
			require.Equal(t, test.want, err.Error())
		})
	}
}

func TestParseDeclarationSyntax(t *testing.T) {
	for _, payload := range []string{
		``, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{a:1}`, `{'a':1}`, `{"a" 1}`, `{"a":1 "b":2}`,
		`{"a":[}`, `{"a":[1,]}`, `{"a":[1 2]}`, `{"a":[,]}`, `{"a":]}`, `{"a":(}`,
		`{"a":01}`, `{"a":+1}`, `{"a":.5}`, `{"a":1.}`, `{"a":1e}`, `{"a":1e+}`, `{"a":-}`, `{"a":0x1}`, `{"a":NaN}`, `{"a":Infinity}`, `{"a":--1}`,
		`{"a":True}`, `{"a":nul}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`, `{"a":"\`, `{"a":"`, "{\"a\":\"\n\"}", "{\"a\":\"\x00\"}", "{\"\t\":1}",
		"{\"a\":\u00a01}", `{"a":1}/**/`, `{"a":1}}`,
	} {
		_, _, err := ParseDeclaration([]byte(withPayload(payload)))
		var invalid *InvalidError
		require.ErrorAs(t, err, &invalid, payload)
		require.False(t, json.Valid([]byte(withPayload(payload))), payload)
	}
}

func TestParseDeclarationDepth(t *testing.T) {
	nested := func(levels int) string {
		// The declaration and its payload are two of the levels.
		return withPayload(`{"a":` + strings.Repeat("[", levels-2) + strings.Repeat("]", levels-2) + `}`)
	}
	parse(t, nested(64))
	_, _, err := ParseDeclaration([]byte(nested(65)))
	require.ErrorContains(t, err, "nested deeper than 64 levels")
	require.ErrorContains(t, err, "Payload.a[0][0]")
	_, _, err = ParseDeclaration([]byte(strings.Repeat(`{"a":`, 4<<20)))
	require.ErrorContains(t, err, "nested deeper than 64 levels")
	_, _, err = ParseDeclaration([]byte(strings.Repeat(`[`, 4<<20)))
	require.ErrorContains(t, err, "nested deeper than 64 levels")
}

func TestParseDeclarationWarnings(t *testing.T) {
	id := strings.Repeat("é", 32)
	_, warnings, err := ParseDeclaration([]byte(`{"Identifier":"` + id + `","Type":"com.apple.asset.data","Payload":{},"payload":{},"Server\u0054oken":1}`))
	require.NoError(t, err)
	require.Equal(t, []string{"payload: unknown key, ignored"}, warnings)

	_, warnings, err = ParseDeclaration([]byte(`{"Identifier":"` + id + `x","Type":"com.apple.asset.data","Payload":{}}`))
	require.NoError(t, err)
	require.Equal(t, []string{"Identifier: has 65 octets, Apple allows 64"}, warnings)
}

func TestAnswersAreBounded(t *testing.T) {
	var members strings.Builder
	for i := range 10_000 {
		members.WriteString(`"` + strings.Repeat("k", i%300+1) + string(rune('a'+i/300)) + `":0,`)
	}
	_, warnings, err := ParseDeclaration([]byte(`{` + members.String() + `"Identifier":"a","Type":"com.apple.asset.data","Payload":{}}`))
	require.NoError(t, err)
	require.Len(t, warnings, maxProblems+1)
	require.Equal(t, "and 9968 more unknown keys, ignored", warnings[maxProblems])

	_, _, err = ParseDeclaration([]byte(withPayload(`{` + strings.Repeat(`"`+strings.Repeat("k", 1000)+`":0,`, 100) + `"a":0}`)))
	var invalid *InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Len(t, invalid.Problems, maxProblems+1)
	require.Equal(t, Problem{Message: "and 67 more problems"}, invalid.Problems[maxProblems])
	require.Less(t, len(err.Error()), 10_000)

	_, _, err = ParseDeclaration([]byte(`{"Identifier":"a","Type":"com.apple.activation.simple","Payload":{"StandardConfigurations":[` + strings.Repeat("0,", 99) + `0]}}`))
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, Problem{Message: "and 68 more problems"}, invalid.Problems[maxProblems])
}

func TestReferences(t *testing.T) {
	activation := func(payload string) string {
		return `{"Identifier":"a","Type":"com.apple.activation.simple","Payload":` + payload + `}`
	}
	require.Equal(t, []string{"A/b", "b", "é"}, parse(t, activation(`{"StandardConfigurations":["b","\u00e9","A/b","b"],"Predicate":"x"}`)).References())
	require.Empty(t, parse(t, activation(`{"StandardConfigurations":[]}`)).References())
	require.Empty(t, parse(t, activation(`{}`)).References())
	require.Empty(t, parse(t, withPayload(`{"StandardConfigurations":[1]}`)).References())

	tests := []struct{ payload, want string }{
		{`{"StandardConfigurations":{}}`, "Payload.StandardConfigurations: must be a list of identifiers, not an object"},
		{`{"StandardConfigurations":null}`, "Payload.StandardConfigurations: must be a list of identifiers, not null"},
		{`{"StandardConfigurations":["a",1,"",["b"],"a%","\ud800"]}`, "Payload.StandardConfigurations[1]: must be a string, not a number; " +
			"Payload.StandardConfigurations[2]: must not be empty; Payload.StandardConfigurations[3]: must be a string, not a list; " +
			"Payload.StandardConfigurations[4]: must not contain '%': devices fetch a declaration by a URL that holds its identifier; " +
			"Payload.StandardConfigurations[5]: must not contain a lone surrogate"},
	}
	for _, test := range tests {
		_, _, err := ParseDeclaration([]byte(activation(test.payload)))
		require.EqualError(t, err, test.want)
	}
}

func TestClassOfType(t *testing.T) {
	for declarationType, want := range map[string]Class{
		"com.apple.activation.simple":               ClassActivation,
		"com.apple.asset.credential.userpassword":   ClassAsset,
		"com.apple.configuration.passcode.settings": ClassConfiguration,
		"com.apple.management.properties":           ClassManagement,
		"org.example.configuration.é":               ClassConfiguration,
	} {
		class, err := ClassOfType(declarationType)
		require.NoError(t, err)
		require.Equal(t, want, class)
	}
	for _, declarationType := range []string{
		"", "com", "com.apple", "com.apple.asset", "com.apple.asset.", "com.apple.asset..x", ".apple.asset.x", "com..asset.x",
		"com.apple.Asset.x", "com.apple.assets.x", "com.apple.x.asset", "asset", "com.apple..x",
	} {
		_, err := ClassOfType(declarationType)
		require.Error(t, err, declarationType)
	}
	for _, class := range Classes() {
		parsed, ok := ParseClass(string(class))
		require.True(t, ok)
		require.Equal(t, class, parsed)
	}
	_, ok := ParseClass("Asset")
	require.False(t, ok)
}
