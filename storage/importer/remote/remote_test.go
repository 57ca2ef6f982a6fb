package remote

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestImportAddress(t *testing.T) {
	t.Parallel()
	for address, wanted := range map[string]string{
		"http://h:1": "http://h:1", "http://h:1/": "http://h:1", "https://h/v1": "https://h", "https://h/v1/": "https://h",
		"https://h/prefix/": "https://h/prefix", "https://h/prefix/v1/?x=1#y": "https://h/prefix",
	} {
		c, err := newClient(address, "key")
		require.NoError(t, err, address)
		require.Equal(t, wanted, c.base.String())
	}
	for _, address := range []string{"", "h:1", "127.0.0.1:9002", "ftp://h", "http://", "http://%"} {
		_, err := newClient(address, "key")
		require.ErrorContains(t, err, "is not an address such as", address)
	}
}

func TestImportNextPage(t *testing.T) {
	t.Parallel()
	for header, wanted := range map[string]url.Values{
		"": nil, "garbage": nil, `<%zz>; rel="next"`: nil, `</v1/sets?after=a>; rel="prev"`: nil,
		`</v1/sets?after=a&limit=2>; rel="next"`:                         {"after": {"a"}, "limit": {"2"}},
		`<https://elsewhere/x?after=a%2C%20b>; rel="next"`:               {"after": {"a, b"}},
		`</v1/sets?after=0>; rel="prev", </v1/sets?after=2>; rel="next"`: {"after": {"2"}},
	} {
		require.Equal(t, wanted, nextPage([]string{header}), header)
	}
	require.Nil(t, nextPage(nil))
}
