package api

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, text string
		matches       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"a", "", false},
		{"a", "a", true},
		{"a", "A", false},
		{"a", "ab", false},
		{"%", "", true},
		{"%", "anything", true},
		{"%%", "a", true},
		{"_", "", false},
		{"_", "a", true},
		{"_", "é", true},
		{"_", "😀", true},
		{"_", "ab", false},
		{"__", "ab", true},
		{"a%", "a", true},
		{"a%", "ba", false},
		{"%a", "ba", true},
		{"%a", "ab", false},
		{"%a%", "bab", true},
		{"a%b%c", "a-b-b-c", true},
		{"a%b%c", "a-c-b", false},
		{"%ab", "aab", true},
		{"%aab%", "aaaab", true},
		{"%_", "", false},
		{"_%_", "ab", true},
		{"_%_", "a", false},
		{`\%`, "%", true},
		{`\%`, "a", false},
		{`\_`, "_", true},
		{`\_`, "a", false},
		{`\\`, `\`, true},
		{`\a`, "a", true},
		{`\`, `\`, true},
		{`a\`, `a\`, true},
		{`a\`, "a", false},
		{`\%%`, "%abc", true},
		{`%\%`, "abc%", true},
		{".*", ".x", false},
		{"[a]", "a", false},
		{".StatusItems.device.%", ".StatusItems.device.model", true},
		{".StatusItems.device.%", ".StatusItems.devices", false},
	} {
		require.Equal(t, test.matches, parsePattern(test.pattern).matches(test.text), test)
	}
}

// TestPatternsLikeARegularExpression compares with an engine that is known to be right.
func TestPatternsLikeARegularExpression(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		like := rapid.StringOfN(rapid.SampledFrom([]rune(`ab%%_\é`)), 0, 12, -1).Draw(t, "pattern")
		text := rapid.StringOfN(rapid.SampledFrom([]rune(`aab%_\é`)), 0, 12, -1).Draw(t, "text")
		expression := strings.Builder{}
		escaped := false
		for _, c := range like {
			switch {
			case escaped:
				escaped = false
				expression.WriteString(regexp.QuoteMeta(string(c)))
			case c == '\\':
				escaped = true
			case c == '%':
				expression.WriteString(".*")
			case c == '_':
				expression.WriteString(".")
			default:
				expression.WriteString(regexp.QuoteMeta(string(c)))
			}
		}
		if escaped {
			expression.WriteString(`\\`)
		}
		want := regexp.MustCompile(`(?s)\A` + expression.String() + `\z`).MatchString(text)
		if got := parsePattern(like).matches(text); got != want {
			t.Fatalf("%q matches %q: %v, want %v", like, text, got, want)
		}
	})
}

func TestPatternsTakeNoLongerThanTheyMust(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("a", 255)
	start := time.Now()
	for _, like := range []string{
		strings.Repeat("%a", 127) + "b",
		strings.Repeat("a%", 127) + "b",
		strings.Repeat("%_", 200) + "b",
		strings.Repeat("%", 1<<20) + "b",
		strings.Repeat("a", 1<<20),
		"%" + strings.Repeat("a", 200) + "b",
	} {
		p := parsePattern(like)
		for range 100 {
			require.False(t, p.matches(text))
		}
	}
	require.Less(t, time.Since(start), 5*time.Second)
}
