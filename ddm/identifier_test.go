package ddm

import (
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var base, _ = url.Parse("http://host/ddm/")

// overURL returns what arrives of an identifier that a device asks for, and
// false if nothing does. It does what NanoMDM does with an endpoint.
func overURL(id string) (string, bool) {
	reference, err := url.Parse("declaration/configuration/" + id)
	if err != nil {
		return "", false
	}
	// What goes over the wire is text, which the server parses again.
	resolved, err := url.Parse(base.ResolveReference(reference).String())
	if err != nil || resolved.RawQuery != "" || resolved.ForceQuery || resolved.Fragment != "" || resolved.Host != "host" {
		return "", false
	}
	return strings.CutPrefix(resolved.Path, "/ddm/declaration/configuration/")
}

func TestValidateIdentifier(t *testing.T) {
	for _, id := range []string{
		"a", "com.example.thing", "a/b/c", "a b", "a:b", "a:b/c", ":", "é", "日本語", "😀", `a\b`, "...", "a/.../b", "a/.b", "a/b.",
		"*", "a;b=c&d", "a,b", "~!@$^&*()_+-=[]{}|;:'\"<>", "a\u2028b", "\ufffd", strings.Repeat("x", 255), strings.Repeat("é", 127),
	} {
		require.Nil(t, ValidateIdentifier("Identifier", id), id)
		got, ok := overURL(id)
		require.True(t, ok, id)
		require.Equal(t, id, got)
	}
	for _, id := range []string{
		"", "a?", "?", "a#b", "a%20b", "%", "%zz", ".", "..", "a/..", "../a", "a/./b", "a/../b", "/", "/a", "a/", "a//b",
		"a\x00", "a\nb", "a\x7fb", "a\u0085b", "a\u009f", " a", "a ", "\u00a0a", "a\u3000", "a\u2028", "a\xff", "\xed\xa0\x80",
		strings.Repeat("x", 256), strings.Repeat("é", 128),
	} {
		problem := ValidateIdentifier("Some.Field", id)
		require.NotNil(t, problem, "%q", id)
		require.Equal(t, "Some.Field", problem.Field)
		require.NotEmpty(t, problem.Message)
	}
}

// TestIdentifierOverURL checks that whatever identifier is accepted can be
// fetched.
func TestIdentifierOverURL(t *testing.T) {
	characters := rapid.OneOf(
		rapid.SampledFrom([]rune("ab./:\\?#%25 *@!$&'()+,;=[]{}|^`~<>\"é😀\u00a0\u2028\ufeff\ufffd\x00\x1f\x7f\u0085")),
		rapid.Rune(),
		rapid.RuneFrom(nil, unicode.ASCII_Hex_Digit),
	)
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringOfN(characters, -1, 20, 255).Draw(t, "identifier")
		if ValidateIdentifier("", id) != nil {
			t.Skip("refused")
		}
		got, ok := overURL(id)
		require.True(t, ok)
		require.Equal(t, id, got)
	})
}

func FuzzValidateIdentifier(f *testing.F) {
	for _, seed := range []string{"a", "a:b/c d", "a/../b", "a%2fb", "é\\", "*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if ValidateIdentifier("", id) != nil {
			return
		}
		got, ok := overURL(id)
		require.True(t, ok)
		require.Equal(t, id, got)
	})
}

func TestValidateName(t *testing.T) {
	for _, name := range []string{"a", "Set one", "a/b?c#d%", "...", "é", strings.Repeat("x", 255)} {
		require.Nil(t, ValidateName("set", name), name)
	}
	for _, name := range []string{"", ".", "..", " a", "a\t", "a\x00b", "a\u0080", "\xff", strings.Repeat("x", 256)} {
		require.NotNil(t, ValidateName("set", name), "%q", name)
	}
}

func TestValidateEnrollmentID(t *testing.T) {
	for _, id := range []string{"A1B2", "DEVICE-UDID:USER-GUID", "a b", "é/?%", strings.Repeat("x", 255)} {
		require.Nil(t, ValidateEnrollmentID("id", id), id)
	}
	for _, id := range []string{"", ".", "..", "a,b", ",", " a", "a\n", "a\u2003", "a\x7fb", "\xff", strings.Repeat("x", 256)} {
		require.NotNil(t, ValidateEnrollmentID("id", id), "%q", id)
	}
	require.Equal(t, &Problem{"id", "must not be longer than 255 octets, has 300"}, ValidateEnrollmentID("id", strings.Repeat("x", 300)))
}
