package api

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDeclarations(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("GET", "/v1/declarations").is(200).json(`[]`)
	s.do("GET", "/v1/declarations/D").fails(404, `no declaration "D"`)
	s.do("HEAD", "/v1/declarations/D").is(404).empty()
	s.given("b", "a", "B")
	s.do("GET", "/v1/declarations").is(200).json(`["B","a","b"]`)
	s.do("HEAD", "/v1/declarations").is(200).empty()

	type stored struct {
		Identifier, Type, ServerToken string
		Payload                       json.RawMessage
	}
	read := func() (d stored) {
		require.NoError(t, json.Unmarshal([]byte(s.do("GET", "/v1/declarations/a").is(200).body), &d))
		return d
	}
	first := read()
	require.Equal(t, "a", first.Identifier)
	require.Equal(t, "com.apple.configuration.test", first.Type)
	require.NotEmpty(t, first.ServerToken)
	require.JSONEq(t, `{"Echo":"a"}`, string(first.Payload))

	same := `{"ServerToken":"ignored", "Payload": {"Echo" : "a"},
		"Type":"com.apple.configuration.test","Identifier":"a"}`
	s.do("PUT", "/v1/declarations", body(same)).is(304).empty()
	require.Equal(t, first, read())
	s.do("PUT", "/v1/declarations", body(strings.Replace(same, `"a"}`, `"other"}`, 1))).is(204).empty()
	require.NotEqual(t, first.ServerToken, read().ServerToken)
	s.do("PUT", "/v1/declarations", body(same)).is(204).empty()
	require.Equal(t, first.ServerToken, read().ServerToken)

	s.do("POST", "/v1/declarations/a/touch").is(204).empty()
	require.NotEqual(t, first.ServerToken, read().ServerToken)
	require.JSONEq(t, string(first.Payload), string(read().Payload))
	require.Contains(t, s.do("POST", "/v1/declarations/a/touch?verbose=1").is(200).body, `"changed":true`)
	s.do("POST", "/v1/declarations/unknown/touch").fails(404, `no declaration "unknown"`)

	s.do("DELETE", "/v1/declarations/a").is(204).empty()
	s.do("DELETE", "/v1/declarations/a").is(304).empty()
	require.Contains(t, s.do("DELETE", "/v1/declarations/a?verbose=1").is(200).body, `"changed":false`)
	require.Contains(t, s.do("DELETE", "/v1/declarations/b", header("Accept", "application/json")).is(200).body,
		`"changed":true`)
}

func TestAPayloadComesBackAsItWasGiven(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const payload = `{"a":9007199254740993,"b":1e400,"c":0.10,"d":"\u2028","e":"😀","z":1,"y":2}`
	s.do("PUT", "/v1/declarations", body(
		`{"Identifier":"D","Type":"com.apple.configuration.test","Payload":`+payload+`}`)).is(204)
	// 1e400 is no number that the document's schemas could be checked with.
	got := s.undocumented("GET", "/v1/declarations/D").is(200)
	require.Contains(t, got.body, `"Payload":`+payload+`}`)
}

func TestIdentifiersWithSlashesSpacesAndOtherScripts(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, identifier := range []string{
		"com/example/D", "a b", "größe/日本", "touch", "a/touch", "a/touch/touch", "plus+and&=;", "a:b@c!$'()*,~",
		strings.Repeat("x", 255),
	} {
		t.Run(identifier, func(t *testing.T) {
			s := s.in(t)
			s.given(identifier)
			quoted, err := json.Marshal(identifier)
			require.NoError(t, err)
			for _, path := range []string{
				url.PathEscape(identifier), strings.ReplaceAll(url.PathEscape(identifier), "%2F", "/"),
			} {
				require.Contains(t, s.do("GET", "/v1/declarations/"+path).body, `"Identifier":"`+identifier+`"`)
				s.do("POST", "/v1/declarations/"+path+"/touch").is(204)
				set := "/v1/set-declarations/" + path
				s.do("PUT", set+"?declaration="+url.QueryEscape(identifier)).is(204)
				s.do("GET", set).is(200).json(`[` + string(quoted) + `]`)
				s.do("GET", "/v1/declaration-sets/"+path).is(200).json(`[` + string(quoted) + `]`)
				s.do("DELETE", set+"?declaration="+url.QueryEscape(identifier)).is(204)
			}
			s.do("DELETE", "/v1/declarations/"+url.PathEscape(identifier)).is(204)
		})
	}
}

func TestDeclarationsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const typed = `"Type":"com.apple.configuration.test"`
	for name, test := range map[string]struct {
		body string
		text string
	}{
		"empty":              {``, "JSON"},
		"no JSON":            {`{"Identifier":`, "JSON"},
		"no object":          {`[]`, "object"},
		"null":               {`null`, "object"},
		"two values":         {declaration("D") + `{}`, "expected the end"},
		"no identifier":      {`{` + typed + `,"Payload":{}}`, "Identifier"},
		"identifier no text": {`{"Identifier":1,` + typed + `,"Payload":{}}`, "Identifier"},
		"empty identifier":   {declaration(""), "Identifier"},
		"long identifier":    {declaration(strings.Repeat("x", 256)), "Identifier"},
		"question mark":      {declaration("a?b"), "Identifier"},
		"percent":            {declaration("a%b"), "Identifier"},
		"hash":               {declaration("a#b"), "Identifier"},
		"two slashes":        {declaration("a//b"), "Identifier"},
		"dots":               {declaration("a/../b"), "Identifier"},
		"space at the end":   {declaration("a "), "Identifier"},
		"control character":  {declaration(`a\u0007`), "Identifier"},
		"surrogate":          {declaration(`a\ud800`), "Identifier"},
		"reserved":           {declaration("com.github.decree-ddm.shard"), "reserved"},
		"no type":            {`{"Identifier":"D","Payload":{}}`, "Type"},
		"strange type":       {`{"Identifier":"D","Type":"test","Payload":{}}`, "Type"},
		"no payload":         {`{"Identifier":"D",` + typed + `}`, "Payload"},
		"payload a list":     {`{"Identifier":"D",` + typed + `,"Payload":[]}`, "Payload"},
		"key twice":          {`{"Identifier":"D",` + typed + `,"Payload":{"a":1,"a":2}}`, "Payload.a"},
		"no UTF-8":           {"{\"Identifier\":\"D\xff\"," + typed + `,"Payload":{}}`, "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			got := s.do("PUT", "/v1/declarations", body(test.body)).fails(400, test.text)
			require.NotEmpty(t, got.problem().Details)
		})
	}
	got := s.do("PUT", "/v1/declarations", body(`{"Payload":1}`)).fails(400, "Identifier", "Type", "Payload")
	require.Len(t, got.problem().Details, 3)
	s.do("PUT", "/v1/declarations?nonotify=%zz", body(declaration("D"))).fails(400, "query string")
	s.do("PUT", "/v1/declarations?nonotify=1&nonotify=0", body(declaration("D"))).fails(400, "nonotify")
	s.do("GET", "/v1/declarations").is(200).json(`[]`)
}

func TestDeclarationsWithWarnings(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	long := strings.Repeat("x", 65)
	got := s.do("PUT", "/v1/declarations?verbose=1", body(declaration(long))).is(200)
	require.Contains(t, got.body, `"changed":true`)
	require.Contains(t, got.body, `"warnings":["Identifier: has 65 octets`)
	s.do("PUT", "/v1/declarations", body(declaration(long))).is(304).empty()
}

func TestReferences(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	activation := `{"Identifier":"A","Type":"com.apple.activation.simple","Payload":{
		"StandardConfigurations":["C1","C2","C3"]}}`
	s.given("C2")
	got := s.do("PUT", "/v1/declarations", body(activation)).fails(422, `"A"`, "C1", "C3")
	require.Equal(t, []string{"C1", "C3"}, got.problem().Details)
	s.given("C1", "C3")
	s.do("PUT", "/v1/declarations", body(activation)).is(204)

	got = s.do("DELETE", "/v1/declarations/C1").fails(409, `"C1"`, "A")
	require.Equal(t, []string{"declaration A"}, got.problem().Details)
	s.do("PUT", "/v1/set-declarations/S?declaration=C1").is(204)
	got = s.do("DELETE", "/v1/declarations/C1?verbose=1").fails(409, `"C1"`, "S")
	require.Equal(t, []string{"set S", "declaration A"}, got.problem().Details)
	s.do("GET", "/v1/declarations/C1").is(200)
}

func TestTheSizeOfADeclaration(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	text := declaration("D")
	fits := text + strings.Repeat(" ", maxDeclarationBytes-len(text))
	s.do("PUT", "/v1/declarations", body(fits)).is(204)
	s.do("PUT", "/v1/declarations", chunked(fits)).is(304)
	s.do("PUT", "/v1/declarations", body(fits+" ")).fails(413, "4194304")
	s.do("PUT", "/v1/declarations", chunked(fits+" ")).fails(413, "4194304")
}
