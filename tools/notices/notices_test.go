package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNotices checks that the file in the repository is what would be written now, and has what must not be missing.
func TestNotices(t *testing.T) {
	t.Parallel()
	written := filepath.Join(t.TempDir(), "NOTICE")
	require.NoError(t, run(written))
	got, err := os.ReadFile(written)
	require.NoError(t, err)
	kept, err := os.ReadFile("../../docs/NOTICE")
	require.NoError(t, err)
	require.Equal(t, string(kept), string(got), "run make generate")
	for _, text := range []string{
		"the standard library of Go: LICENSE", "modernc.org/sqlite v", "github.com/go-sql-driver/mysql v", "Mozilla Public License",
	} {
		require.Contains(t, string(got), text)
	}
	for _, module := range []string{
		"github.com/stretchr/testify", "github.com/rogpeppe/go-internal", "honnef.co/go/tools", "golang.org/x/tools",
		"golang.org/x/vuln", "github.com/securego/gosec/v2",
	} {
		require.NotContains(t, string(got), "\n"+module+" v", "what is only for tests and checks is not linked")
	}
}

// TestModuleWithoutLicence checks that nothing is linked in silently.
func TestModuleWithoutLicence(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	var output bytes.Buffer
	err := write(&output, []module{{Path: "example.com/m", Version: "v1.0.0", Dir: directory}})
	require.ErrorContains(t, err, "example.com/m v1.0.0")
	require.NoError(t, os.WriteFile(filepath.Join(directory, "COPYING"), []byte("Free. \r\n"), 0o600))
	require.NoError(t, write(&output, []module{{Path: "example.com/m", Version: "v1.0.0", Dir: directory}}))
	require.Contains(t, output.String(), "example.com/m v1.0.0: COPYING\n\nFree.\n")
}

// TestPlatforms checks that the platforms are those that are released.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../release.sh")
	require.NoError(t, err)
	require.Contains(t, string(script), "${PLATFORMS:-"+strings.Join(platforms, " ")+"}")
}
