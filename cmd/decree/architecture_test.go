package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mayImport says which of the module's packages each may import, its tests aside. Imports point one way, and siblings
// never import each other.
var mayImport = map[string][]string{
	"ddm":                          {},
	"cmd/decree/metric":            {"http/edge", "notifier", "storage", "storage/compositor", "storage/sqlstore"},
	"storage":                      {"ddm"},
	"storage/sqlstore":             {"ddm", "storage"},
	"storage/sqlite":               {"storage/sqlstore"},
	"storage/mysql":                {"storage/mysql/dsn", "storage/sqlstore"},
	"storage/mysql/dsn":            {},
	"storage/mysql/mysqltest":      {},
	"storage/storagetest":          {"ddm", "storage", "storage/sqlstore"},
	"storage/compositor":           {"ddm", "storage"},
	"storage/background":           {},
	"storage/summarizer":           {"storage", "storage/background"},
	"storage/checker":              {"ddm", "storage"},
	"storage/census":               {"storage", "storage/background"},
	"storage/watcher":              {"storage", "storage/background"},
	"storage/importer":             {"ddm", "storage"},
	"storage/importer/kmfddm":      {"storage/importer", "storage/mysql/dsn"},
	"storage/importer/remote":      {"storage/importer"},
	"http/trace":                   {},
	"http/edge":                    {"ddm", "storage", "http/trace"},
	"http/api":                     {"ddm", "storage", "http/edge"},
	"http/ddm":                     {"ddm", "storage", "http/edge"},
	"http/webhook":                 {"ddm", "storage", "http/edge"},
	"notifier":                     {"storage", "storage/background", "http/trace"},
	"notifier/transport":           {"notifier", "http/trace"},
	"notifier/eventlog":            {"notifier/transport", "storage", "storage/background", "http/trace"},
	"notifier/nanomdm":             {"notifier", "notifier/transport"},
	"notifier/micromdm":            {"notifier", "notifier/transport"},
	"notifier/nanomdm/nanomdmtest": {},
	"tools/notices":                {},
	"tools/testdb":                 {},
	"cmd/decree": {
		"ddm", "http/api", "http/ddm", "http/edge", "http/webhook", "cmd/decree/metric", "notifier", "notifier/eventlog", "notifier/micromdm", "notifier/nanomdm",
		"storage", "storage/census", "storage/checker", "storage/compositor", "storage/importer", "storage/importer/kmfddm", "storage/importer/remote",
		"storage/mysql", "storage/sqlite", "storage/sqlstore", "storage/summarizer", "storage/watcher",
	},
}

func TestImports(t *testing.T) {
	t.Parallel()
	const module = "github.com/decree-ddm/decree/"
	output, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	require.NoError(t, err)
	seen := 0
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; seen++ {
		var listed struct {
			ImportPath string
			Imports    []string
		}
		err := decoder.Decode(&listed)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		name := strings.TrimPrefix(listed.ImportPath, module)
		allowed, known := mayImport[name]
		require.True(t, known, "%s has no place in the architecture yet", name)
		for _, path := range listed.Imports {
			if imported, ours := strings.CutPrefix(path, module); ours {
				require.Contains(t, allowed, imported, "%s must not import %s", name, imported)
			}
		}
	}
	require.Equal(t, len(mayImport), seen)
}
