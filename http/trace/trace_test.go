package trace

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	id     = "4bf92f3577b34da6a3ce929d0e0e4736"
	parent = "00f067aa0ba902b7"
	zeros  = "00000000000000000000000000000000"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for value, flags := range map[string]byte{
		"00-" + id + "-" + parent + "-00":                 0,
		"00-" + id + "-" + parent + "-01":                 1,
		"00-" + id + "-" + parent + "-03":                 3,
		"00-" + id + "-" + parent + "-ff":                 3,
		"cc-" + id + "-" + parent + "-01":                 1,
		"cc-" + id + "-" + parent + "-09-what-is-to-come": 1,
		"01-" + id + "-" + parent + "-01-":                1,
	} {
		got, ok := Parse(value)
		require.True(t, ok, value)
		require.Equal(t, Trace{id: id, flags: flags}, got, value)
	}
	for _, value := range []string{
		"", "-", "00", id,
		"00-" + id + "-" + parent,
		"00-" + id + "-" + parent + "-",
		"00-" + id + "-" + parent + "-0",
		"00-" + id + "-" + parent + "-0g",
		"00-" + id + "-" + parent + "-01-",
		"00-" + id + "-" + parent + "-01-more",
		"00-" + id + "-" + parent + "-01 ",
		"00-" + id + "-" + parent + "-011",
		"ff-" + id + "-" + parent + "-01",
		"FE-" + id + "-" + parent + "-01",
		"0g-" + id + "-" + parent + "-01",
		"0-" + id + "-" + parent + "-01",
		"cc-" + id + "-" + parent + "-01.more",
		"00-" + zeros + "-" + parent + "-01",
		"00-" + id + "-" + zeros[:16] + "-01",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-" + parent + "-01",
		"00-" + id + "-00F067AA0BA902B7-01",
		"00-" + id[:31] + "-" + parent + "-011",
		"00_" + id + "-" + parent + "-01",
		"00-" + id + "_" + parent + "-01",
		"00-" + id + "-" + parent + "_01",
	} {
		_, ok := Parse(value)
		require.False(t, ok, value)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("00-" + id + "-" + parent + "-01")
	f.Add("cc-" + id + "-" + parent + "-01-more")
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := Parse(value)
		if !ok {
			require.Zero(t, got)
			return
		}
		again, ok := Parse(got.Parent())
		require.True(t, ok, value)
		require.Equal(t, got, again)
	})
}

func TestOf(t *testing.T) {
	t.Parallel()
	header := http.Header{}
	header.Set("traceparent", "00-"+id+"-"+parent+"-01")
	require.Equal(t, id, Of(header).ID())
	header.Add("traceparent", "00-"+id+"-"+parent+"-01")
	require.NotEqual(t, id, Of(header).ID(), "there are two")
	header.Set("traceparent", "nonsense")
	made := Of(header)
	require.Len(t, made.ID(), 32)
	require.NotEqual(t, made, Of(header))
}

func TestPass(t *testing.T) {
	t.Parallel()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1", nil)
	require.NoError(t, err)
	Pass(request)
	require.Empty(t, request.Header)

	came, ok := Parse("cc-" + id + "-" + parent + "-ff-more")
	require.True(t, ok)
	request = request.WithContext(With(t.Context(), came))
	Pass(request)
	first := request.Header.Get("traceparent")
	require.Regexp(t, "^00-"+id+"-[0-9a-f]{16}-03$", first)
	require.NotContains(t, first, parent, "this server has made the request, not the one before it")
	Pass(request)
	require.NotEqual(t, first, request.Header.Get("traceparent"))
}
