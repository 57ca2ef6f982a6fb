package sqlstore

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHappeningDetail checks that what is told of a happening is bounded, however much there is to say.
func TestHappeningDetail(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("<x>", maxDetailOctets)
	for _, test := range []struct {
		detail map[string]any
		want   string
	}{
		{nil, `{}`},
		{map[string]any{}, `{}`},
		{map[string]any{"type": "Device"}, `{"type":"Device"}`},
		{map[string]any{"text": long[:2000]}, ""},
		{map[string]any{"type": "Device", "text": long}, `{"type":"Device","shortened":true}`},
		{map[string]any{"type": "Device", "list": []string{long}}, `{"type":"Device","shortened":true}`},
	} {
		text, err := happeningDetail(test.detail)
		require.NoError(t, err)
		require.True(t, json.Valid([]byte(text)))
		require.LessOrEqual(t, len(text), maxDetailOctets)
		if test.want != "" {
			require.JSONEq(t, test.want, text)
		}
	}
}
