package main

import (
	"flag"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// flagInformation is what there is to say of a flag besides its meaning.
type flagInformation struct{ variable, value string }

// plain writes a default as documents do.
func plain(value string) string {
	if duration, err := time.ParseDuration(value); err == nil && duration > 0 {
		value = strings.TrimSuffix(strings.TrimSuffix(duration.String(), "0s"), "0m")
	}
	return value
}

// serverFlags are the flags of the server.
func serverFlags() map[string]flagInformation {
	flags := map[string]flagInformation{}
	new(config).flagSet(io.Discard).VisitAll(func(f *flag.Flag) {
		flags[f.Name] = flagInformation{variableOf(f.Name), plain(f.DefValue)}
	})
	flags["version"] = flagInformation{} // as a variable it would keep the server from starting
	// This default depends on the storage.
	flags["storage-dsn"] = flagInformation{variableOf("storage-dsn"), "decree.db"}
	return flags
}

var (
	usageLine    = regexp.MustCompile(`(?m)^  -(\S+)(?: (\S+))?\n(.*)$`)
	usageDefault = regexp.MustCompile(`\(default "?([^")]*)"?\)$`)
)

// commandFlags are the flags of a command, as its usage tells them.
func commandFlags(t *testing.T, name string) map[string]flagInformation {
	t.Helper()
	_, usage, err := runCommand(t, nil, name, "-help")
	require.ErrorIs(t, err, flag.ErrHelp)
	flags := map[string]flagInformation{}
	for _, line := range usageLine.FindAllStringSubmatch(usage, -1) {
		information := flagInformation{variable: variableOf(line[1])}
		require.Contains(t, line[3], "["+information.variable+"]", "%s -%s", name, line[1])
		if match := usageDefault.FindStringSubmatch(line[3]); match != nil {
			information.value = plain(match[1])
		} else if line[2] == "" {
			information.value = "false"
		}
		flags[line[1]] = information
	}
	require.NotEmpty(t, flags, usage)
	return flags
}

func readDocument(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + name)
	require.NoError(t, err)
	return string(text)
}

// section is the text under a heading, up to the next of its level or a higher one.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut("\n"+text, "\n"+heading+"\n")
	require.True(t, found, "there is no %q", heading)
	level := len(heading) - len(strings.TrimLeft(heading, "#"))
	if end := regexp.MustCompile(`(?m)^#{1,` + string(rune('0'+level)) + `} `).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// tableRows are the cells of the tables in a text, heads left out.
func tableRows(text string) (rows [][]string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

// documentedFlags are the flags in the tables of a text.
func documentedFlags(t *testing.T, text string) map[string]flagInformation {
	t.Helper()
	flags := map[string]flagInformation{}
	for _, row := range tableRows(text) {
		if name, isFlag := strings.CutPrefix(strings.Trim(row[0], "`"), "-"); isFlag {
			require.Len(t, row, 4, name)
			require.NotEmpty(t, row[3], name)
			flags[name] = flagInformation{strings.Trim(row[1], "`"), strings.Trim(row[2], "`")}
		}
	}
	return flags
}

// TestOperationsHasEveryFlag checks that the operations guide has every flag with its variable and default, and no other.
func TestOperationsHasEveryFlag(t *testing.T) {
	t.Parallel()
	text := readDocument(t, "operations.md")
	require.Equal(t, serverFlags(), documentedFlags(t, section(t, text, "## Flags and environment")))
	for _, command := range commands {
		documented := documentedFlags(t, section(t, text, "### decree "+command.name))
		require.Equal(t, commandFlags(t, command.name), documented, command.name)
	}
}

// TestOperationsHasEveryEndpoint checks that the operations guide has every endpoint, and no other, and that each is there.
func TestOperationsHasEveryEndpoint(t *testing.T) {
	t.Parallel()
	document, err := openapi3.NewLoader().LoadFromFile("../../docs/openapi.yaml")
	require.NoError(t, err)
	served := []string{"POST /webhook"} // which is the MDM's, and not described there
	for path, item := range document.Paths.Map() {
		for method := range item.Operations() {
			served = append(served, method+" "+path)
		}
	}
	var documented []string
	for _, row := range tableRows(section(t, readDocument(t, "operations.md"), "## Endpoints")) {
		for method := range strings.SplitSeq(row[1], ", ") {
			documented = append(documented, strings.Trim(method, "`")+" "+strings.Trim(row[0], "`"))
		}
	}
	require.ElementsMatch(t, served, documented)

	s := startDecree(t, databases()[0].flags(t)...)
	for _, endpoint := range documented {
		method, path, _ := strings.Cut(endpoint, " ")
		path = regexp.MustCompile(`\{[a-z]+\}`).ReplaceAllString(path, "x")
		code, text := s.do(method, path, "")
		require.NotEqual(t, http.StatusMethodNotAllowed, code, endpoint)
		require.NotContains(t, string(text), "there is nothing at this path", endpoint)
	}
}
