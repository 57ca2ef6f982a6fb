package ddm

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func FuzzParseDeclaration(f *testing.F) {
	for _, seed := range []string{
		withPayload(`{}`),
		withPayload(`{"b":[1,2.50,1e400,-0],"a":{"\ud800":"\ud83d\ude00\u0041"}}`),
		`{"Identifier":"a/b","Type":"com.apple.activation.simple","ServerToken":1,"Payload":{"StandardConfigurations":["a","b"],"Predicate":"x"}}`,
		` {"identifier":"a", "Type":1, "Payload":[{}]} x`,
		"\ufeff{}", `{"a":1,"\u0061":2}`, strings.Repeat(`{"a":[`, 40),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		declaration, _, err := ParseDeclaration(data)
		if err != nil {
			var invalid *InvalidError
			require.ErrorAs(t, err, &invalid)
			require.NotEmpty(t, invalid.Problems)
			require.True(t, utf8.ValidString(err.Error()))
			return
		}
		require.True(t, json.Valid(data))
		require.True(t, json.Valid(declaration.Payload))
		require.True(t, json.Valid(canonical(declaration.Payload)))
		got, ok := overURL(declaration.Identifier)
		require.True(t, ok)
		require.Equal(t, declaration.Identifier, got)

		served := declaration.JSON()
		require.True(t, json.Valid(served))
		again, warnings, err := ParseDeclaration(served)
		require.NoError(t, err)
		require.LessOrEqual(t, len(warnings), 1, "only the identifier can be warned about")
		require.Equal(t, declaration, again)
		require.Equal(t, declaration.ContentHash(), again.ContentHash())
		require.Equal(t, declaration.References(), again.References())

		// The standard library agrees on what the payload means.
		var want, form any
		if json.Unmarshal(declaration.Payload, &want) == nil {
			require.NoError(t, json.Unmarshal(canonical(declaration.Payload), &form))
			require.Equal(t, want, form)
		}
	})
}

func FuzzParseStatusReport(f *testing.F) {
	for _, seed := range []string{
		fullReport, strangeReport, `{}`, `{"StatusItems":{"a":[{"identifier":"x"},{"identifier":"x","_removed":true}]}}`,
		`{"Errors":[1],"StatusItems":{"a.b":{},"a":{"b":null}}}`, `[`, strings.Repeat(`{"StatusItems":`, 70),
		`{"StatusItems":{"a":{"b":1},"a":2,"a.b":{},"\u0061":{"c":[],"c":3}},"StatusItems":{"FullReport":true,"FullReport":0}}`,
		`{"StatusItems":{"management":{"declarations":{"assets":[{"identifier":"a"}],"assets":5}},"management.declarations":{}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		report, err := ParseStatusReport(data)
		if err != nil {
			var invalid *InvalidError
			require.ErrorAs(t, err, &invalid)
			require.NotEmpty(t, invalid.Problems)
			require.True(t, utf8.ValidString(err.Error()))
			return
		}
		require.True(t, json.Valid(data))
		checkReport(t, report)

		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, data))
		again, err := ParseStatusReport(compact.Bytes())
		require.NoError(t, err)
		require.Equal(t, report, again)
	})
}

// checkReport checks what holds for every report.
func checkReport(t *testing.T, report *StatusReport) {
	compact := func(text []byte) {
		var buffer bytes.Buffer
		require.NoError(t, json.Compact(&buffer, text))
		require.Equal(t, buffer.String(), string(text))
	}
	paths := make(map[string]bool)
	for _, value := range report.Values {
		require.True(t, strings.HasPrefix(value.Path, ".StatusItems."))
		require.LessOrEqual(t, len(value.Path), 255)
		require.True(t, utf8.ValidString(value.Path))
		require.False(t, paths[value.Path])
		paths[value.Path] = true
		require.True(t, value.List || !value.Keyed)
		if !value.List {
			require.Len(t, value.Elements, 1)
			require.Empty(t, value.Elements[0].Key)
		}
		keys := make(map[string]bool)
		for _, element := range value.Elements {
			compact(element.Value)
			require.LessOrEqual(t, len(element.Key), 255)
			require.True(t, value.Keyed || !element.Removed)
			require.False(t, keys[element.Key])
			keys[element.Key] = true
		}
	}
	items := make(map[Item]bool)
	for _, declaration := range report.Declarations {
		require.True(t, report.HasDeclarations)
		require.NotEmpty(t, declaration.Identifier)
		_, ok := ParseClass(string(declaration.Class))
		require.True(t, ok)
		if declaration.Reasons != nil {
			compact(declaration.Reasons)
		}
		require.False(t, items[declaration.item()])
		items[declaration.item()] = true
	}
	for _, statusError := range report.Errors {
		compact(statusError.Error)
	}
}
