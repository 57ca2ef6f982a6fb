package storagetest

import (
	"fmt"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

var declarationTests = []test{
	{"DeclarationLifecycle", declarationLifecycle},
	{"DeclarationTouch", declarationTouch},
	{"PayloadsAreExact", payloadsAreExact},
	{"PayloadOfFourMebibytes", payloadOfFourMebibytes},
	{"References", references},
	{"ReferencesFollowChanges", referencesFollowChanges},
	{"DeclarationInUse", declarationInUse},
	{"ManyReferences", manyReferences},
}

func declarationLifecycle(w *world) {
	_, err := w.store.Declaration(w.ctx, "d")
	require.ErrorIs(w, err, storage.ErrNotFound)
	require.False(w, w.deleteDeclaration("d"))

	first := withPayload("d", `{"A":1,"B":{"C":"x","D":[1,2]}}`)
	require.True(w, w.put(first))
	stored := w.declaration("d")
	require.Equal(w, "d", stored.Identifier)
	require.Equal(w, typeConfiguration, stored.Type)
	require.Equal(w, ddm.ClassConfiguration, stored.Class)
	require.Equal(w, string(first.Payload), string(stored.Payload))
	require.Equal(w, ddm.ServerToken(first.ContentHash(), 0), stored.ServerToken)

	for _, same := range []string{
		`{"A":1,"B":{"C":"x","D":[1,2]}}`, `{"B":{"D":[1,2],"C":"\u0078"},"A":1}`, ` { "A" : 1, "B": {"C":"x","D":[1, 2]} } `,
	} {
		require.False(w, w.put(withPayload("d", same)), same)
	}
	require.Equal(w, stored, w.declaration("d"), "what is the same changes nothing, not even the order of keys")

	for _, other := range []string{
		`{"A":1,"B":{"C":"x","D":[2,1]}}`, `{"A":1.0,"B":{"C":"x","D":[1,2]}}`, `{"A":1,"B":{"C":"X","D":[1,2]}}`,
	} {
		require.True(w, w.put(withPayload("d", other)), other)
		require.NotEqual(w, stored.ServerToken, w.declaration("d").ServerToken)
		require.Equal(w, other, string(w.declaration("d").Payload))
	}

	require.True(w, w.put(first), "undo")
	require.Equal(w, stored, w.declaration("d"))

	otherType := *first
	otherType.Type, otherType.Class = "com.apple.asset.data", ddm.ClassAsset
	require.True(w, w.put(&otherType))
	require.Equal(w, ddm.ClassAsset, w.declaration("d").Class)
	require.NotEqual(w, stored.ServerToken, w.declaration("d").ServerToken)

	require.True(w, w.deleteDeclaration("d"))
	require.False(w, w.deleteDeclaration("d"))
	_, err = w.store.Declaration(w.ctx, "d")
	require.ErrorIs(w, err, storage.ErrNotFound)
	require.True(w, w.put(first), "recreated")
	require.Equal(w, stored, w.declaration("d"))
}

func declarationTouch(w *world) {
	require.ErrorIs(w, w.store.TouchDeclaration(w.ctx, "d", change), storage.ErrNotFound)

	first, second := configuration("d", "first"), configuration("d", "second")
	w.put(first)
	tokens := map[string]bool{w.declaration("d").ServerToken: true}
	for range 3 {
		w.touch("d")
		touched := w.declaration("d")
		require.False(w, tokens[touched.ServerToken])
		require.Equal(w, string(first.Payload), string(touched.Payload))
		tokens[touched.ServerToken] = true
	}
	touched := w.declaration("d")
	require.False(w, w.put(first))
	require.Equal(w, touched, w.declaration("d"))

	require.True(w, w.put(second))
	require.False(w, tokens[w.declaration("d").ServerToken])
	require.True(w, w.put(first))
	require.Equal(w, touched, w.declaration("d"), "undo does not take the touches back")
}

func payloadsAreExact(w *world) {
	for i, payload := range []string{
		`{}`,
		`{"Integer":9007199254740993,"Large":123456789012345678901234567890,"Negative":-0}`,
		`{"Real":1.0,"Exponent":1E400,"Small":1e-400,"Long":0.10000000000000000000000000000000001}`,
		`{"Escapes":"\u0041\/\b\f\n\r\t\"\\\u0000\u001f","Surrogates":"\ud83d\ude00","Upper":"\u00E9"}`,
		`{"Emoji":"😀👩‍👩‍👧","Accents":"é é","Wide":"中文","Separators":"` + "\u2028\u2029\u007f\u0085\ufeff" + `"}`,
		`{"SQL":"'; DROP TABLE declarations; -- \\' \\\\ % _ ? :a @b $1 ` + "`" + `"}`,
		`{"Z":1,"A":{"b":null,"a":[true,false,null,[],{}]},"":""}`,
		`{"Trailing ":"   ","Text":"ends with spaces   "}`,
	} {
		identifier := fmt.Sprintf("d%d", i)
		parsed, _, err := ddm.ParseDeclaration(fmt.Appendf(nil, `{"Identifier":%q,"Type":%q,"Payload":%s}`,
			identifier, typeConfiguration, payload))
		require.NoError(w, err)
		require.Equal(w, payload, string(parsed.Payload))
		require.True(w, w.put(parsed))
		stored := w.declaration(identifier)
		require.Equal(w, payload, string(stored.Payload))
		require.Equal(w, parsed.ContentHash(), stored.ContentHash())
		version, err := w.store.DeclarationVersion(w.ctx, identifier, stored.ServerToken)
		require.NoError(w, err)
		require.Equal(w, stored, version)
		require.False(w, w.put(parsed))
	}
}

func payloadOfFourMebibytes(w *world) {
	// Everything that a statement has to escape, which makes it larger.
	text := strings.Repeat(`\"'\\😀é 0123456789`+"\u2028", 4<<20/32)
	large := withPayload("large", `{"Text":"`+text+strings.Repeat("x", max(0, 4<<20-len(text)))+`"}`)
	require.Greater(w, len(large.Payload), 4<<20)
	require.True(w, w.put(large))
	require.True(w, string(large.Payload) == string(w.declaration("large").Payload), "the payload has changed")
	require.False(w, w.put(large))
	w.touch("large")
	require.True(w, string(large.Payload) == string(w.declaration("large").Payload), "the payload has changed")
}

func references(w *world) {
	w.put(configuration("b", "here"))
	_, err := w.store.PutDeclaration(w.ctx, activation("a", "z", "b", "A", "é", "c"), change)
	var missing *storage.MissingReferencesError
	require.ErrorAs(w, err, &missing)
	require.Equal(w, "a", missing.Identifier)
	require.Equal(w, []string{"A", "c", "z", "é"}, missing.Missing)
	require.ErrorContains(w, err, `declaration "a" refers to declarations that do not exist: A, c, z, é`)
	_, err = w.store.Declaration(w.ctx, "a")
	require.ErrorIs(w, err, storage.ErrNotFound, "nothing was stored")

	for _, identifier := range missing.Missing {
		w.put(configuration(identifier, "here"))
	}
	require.True(w, w.put(activation("a", "z", "b", "A", "é", "c")))
	require.False(w, w.put(activation("a", "z", "b", "A", "é", "c")))

	_, err = w.store.PutDeclaration(w.ctx, activation("a", "b", "gone"), change)
	require.ErrorAs(w, err, &missing)
	require.Equal(w, []string{"gone"}, missing.Missing)
	require.Equal(w, []string{"A", "b", "c", "z", "é"}, w.declaration("a").References(), "nothing was changed")
	require.Equal(w, 5, w.count(`SELECT COUNT(*) FROM declaration_references`))
}

func referencesFollowChanges(w *world) {
	w.put(configuration("b", "x"))
	w.put(configuration("c", "x"))
	w.put(activation("a", "b"))
	inUse := func(identifier string) *storage.InUseError {
		_, err := w.store.DeleteDeclaration(w.ctx, identifier, change)
		var inUse *storage.InUseError
		require.ErrorAs(w, err, &inUse)
		return inUse
	}
	require.Equal(w, []string{"a"}, inUse("b").Declarations)

	w.put(activation("a", "c"))
	require.Equal(w, []string{"a"}, inUse("c").Declarations)
	require.True(w, w.deleteDeclaration("b"), "it is no longer referred to")

	w.put(withPayload("a", `{}`)) // no activation any more
	require.True(w, w.deleteDeclaration("c"))
	require.True(w, w.deleteDeclaration("a"))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM declaration_references`))

	w.put(configuration("c", "x"))
	w.put(activation("a", "c"))
	require.True(w, w.deleteDeclaration("a"))
	require.True(w, w.deleteDeclaration("c"), "what referred to it is gone")

	w.put(activation("a"))
	w.put(activation("a", "a"))
	require.True(w, w.deleteDeclaration("a"), "that it refers to itself keeps nobody from deleting it")
	require.Zero(w, w.count(`SELECT COUNT(*) FROM declaration_references`))
}

func declarationInUse(w *world) {
	w.put(configuration("d", "x"))
	for _, identifier := range []string{"z", "B", "a"} {
		w.put(activation(identifier, "d"))
	}
	for _, set := range []string{"two", "One", "three"} {
		w.add(set, "d")
	}
	_, err := w.store.DeleteDeclaration(w.ctx, "d", change)
	var inUse *storage.InUseError
	require.ErrorAs(w, err, &inUse)
	require.Equal(w, &storage.InUseError{
		Identifier: "d", Sets: []string{"One", "three", "two"}, Declarations: []string{"B", "a", "z"},
	}, inUse)
	require.ErrorContains(w, err, "held by sets: One, three, two; referred to by declarations: B, a, z")

	for _, set := range inUse.Sets {
		w.remove(set, "d")
	}
	_, err = w.store.DeleteDeclaration(w.ctx, "d", change)
	require.ErrorAs(w, err, &inUse)
	require.Empty(w, inUse.Sets)

	for i := range 105 {
		w.add(fmt.Sprintf("set%03d", i), "d")
	}
	_, err = w.store.DeleteDeclaration(w.ctx, "d", change)
	require.ErrorAs(w, err, &inUse)
	require.Len(w, inUse.Sets, 100)
	require.Equal(w, "set000", inUse.Sets[0])
	require.Equal(w, "set099", inUse.Sets[99])
}

func manyReferences(w *world) {
	var identifiers []string
	for i := range 450 {
		identifiers = append(identifiers, fmt.Sprintf("d%03d", i))
	}
	_, err := w.store.PutDeclaration(w.ctx, activation("a", identifiers...), change)
	var missing *storage.MissingReferencesError
	require.ErrorAs(w, err, &missing)
	require.Equal(w, identifiers, missing.Missing)

	// The rows of these are made at once; putting each takes its time.
	insert := `INSERT INTO declarations
		(identifier, type, class, server_token, content_hash, touches, created_at, changed_at) VALUES `
	for i, identifier := range identifiers {
		if i > 0 {
			insert += ","
		}
		insert += fmt.Sprintf("('%s', 'type', 'configuration', 'token', 'hash', 0, 0, 0)", identifier) // #nosec G202 -- names of its own
	}
	_, err = w.database.SQL.ExecContext(w.ctx, insert)
	require.NoError(w, err)
	require.True(w, w.put(activation("a", identifiers...)))
	require.Equal(w, 450, w.count(`SELECT COUNT(*) FROM declaration_references WHERE identifier = 'a'`))
	require.True(w, w.put(activation("a", identifiers[449])))
	require.Equal(w, 1, w.count(`SELECT COUNT(*) FROM declaration_references WHERE identifier = 'a'`))
}
