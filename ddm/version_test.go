package ddm

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersionOrder(t *testing.T) {
	t.Parallel()
	ordered := []string{
		"0", "9.3.5", "9.10", "15", "15.0.1", "15.1", "15.1.1", "15.1b", "15.2", "15.9", "15.9.9", "15.10", "16", "26.0.1", "100",
		"99999999999999999999999",
	}
	for i, version := range ordered {
		for j, other := range ordered {
			switch {
			case i < j:
				require.Less(t, VersionOrder(version), VersionOrder(other), "%s and %s", version, other)
			case i == j:
				require.NotEmpty(t, VersionOrder(version))
			}
		}
	}
	for version, same := range map[string]string{"15": "15.0.0", " 15.1 ": "15.1", "015.01": "15.1", "1.2.3.4.5.6.7.8.9": "1.2.3.4.5.6.7.8"} {
		require.Equal(t, VersionOrder(same), VersionOrder(version))
	}
	for _, none := range []string{"", " ", "beta", ".1", "-1", "é"} {
		require.Empty(t, VersionOrder(none))
	}
}
