package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// shellBlocks are the commands in a document, in its order.
func shellBlocks(text string) (blocks []string) {
	for _, match := range regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// TestDocumentedCommands runs the curl commands of the pages about MDM servers and about what goes wrong, in their order,
// against a Decree beside a NanoMDM with a device. None may be answered with an error.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	needProgram(t, "bash")
	needProgram(t, "curl")
	for _, page := range []string{"troubleshooting.md", "nanomdm.md", "micromdm.md"} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
			s := withEvents(t, nano, databases()[0].flags(t))
			device := nano.NewDevice(t)
			require.NoError(t, device.Enroll(ctx))
			device.Run(ctx)
			s.putTest("com.example.test", "Hi")
			s.putDeclaration("com.example.activation", "com.apple.activation.simple",
				`{"StandardConfigurations":["com.example.test"]}`)
			s.addToSet("base", "com.example.activation")
			s.assign(device.ID(), "base")
			s.waitInSync(device.ID())

			// MicroMDM's version and push, which is all that the pages ask it for.
			micro := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				user, key, _ := r.BasicAuth()
				if r.URL.Path != "/version" && (r.URL.Path != "/push/"+device.ID() || user != "micromdm" || key != "micro") {
					w.WriteHeader(http.StatusNotFound)
				}
			}))
			t.Cleanup(micro.Close)
			environ := append(os.Environ(),
				"URL="+s.url, "AUTH=decree:"+testKey, "ID="+device.ID(), "DECLARATION=com.example.test",
				"NANOMDM="+nano.URL(), "NANOMDM_AUTH=nanomdm:"+nano.APIKey(),
				"MICROMDM="+micro.URL, "MICROMDM_AUTH=micromdm:micro",
			)
			ran := 0
			for _, block := range shellBlocks(readDocument(t, page)) {
				if strings.HasPrefix(block, "URL=") || !strings.Contains(block, "curl ") {
					continue // the reader's own values, and what is not about a running server
				}
				cmd := exec.Command("bash", "-euo", "pipefail", "-c", `curl() { command curl --silent --show-error --fail "$@"; }`+"\n"+block)
				cmd.Env, cmd.Dir = environ, t.TempDir()
				output, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s\n%s", block, output)
				ran++
			}
			require.Greater(t, ran, 1)
			s.waitInSync(device.ID())
			if page != "micromdm.md" {
				require.Contains(t, device.Declarations(), "com.example.test", "what the page tells to do has helped")
			}
		})
	}
}

// moduleDirectory is where the sources of a module are.
func moduleDirectory(t *testing.T, module, format string) string {
	t.Helper()
	output, err := exec.Command("go", "list", "-m", "-f", format, module).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(output))
}

const nanoMDMModule = "github.com/micromdm/nanomdm"

// nanoMDMFlags are the flags of the NanoMDM that the tests run against, with their variables.
func nanoMDMFlags(t *testing.T) map[string]string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(moduleDirectory(t, nanoMDMModule, "{{.Dir}}"), "cmd", "nanomdm", "main.go"))
	require.NoError(t, err)
	flags := map[string]string{}
	for _, match := range regexp.MustCompile(`flag\.(?:String|Bool|Int|Var)\([^"\n]*"([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
		flags[match[1]] = "NANOMDM_" + strings.ToUpper(strings.ReplaceAll(match[1], "-", "_"))
	}
	require.Contains(t, flags, "dm")
	require.Contains(t, flags, "storage")
	return flags
}

// TestDocumentedFlags checks that every flag and variable of Decree and NanoMDM that the documents and the files for
// deployment name is one.
func TestDocumentedFlags(t *testing.T) {
	t.Parallel()
	decreeFlags, variables := map[string]bool{}, map[string]bool{}
	add := func(flags map[string]flagInformation) {
		for name, information := range flags {
			decreeFlags[name], variables[information.variable] = true, true
		}
	}
	add(serverFlags())
	for _, command := range commands {
		add(commandFlags(t, command.name))
	}
	for _, name := range secretFlags {
		variables[variableOf(name)+fileSuffix] = true
	}
	nanoFlags := nanoMDMFlags(t)
	for _, variable := range nanoFlags {
		variables[variable] = true
	}

	variable := regexp.MustCompile(`\b(?:DECREE|NANOMDM)_[A-Z_]*[A-Z]\b`)
	begins := regexp.MustCompile(`(?m)(?:^|[ /=])(decree|nanomdm)((?: [a-z]+)?(?: +(?:\\\n *)?-[a-z][^|\x60\n]*)+)`)
	name := regexp.MustCompile(`(?:^| )--?([a-z][a-z-]*)`)
	var files []string
	for _, pattern := range []string{"../../docs/*.md", "../../docs/deploy/*", "../../Dockerfile", "../../README.md", "../../SECURITY.md"} {
		matches, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, matches, pattern)
		files = append(files, matches...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, found := range variable.FindAllString(string(text), -1) {
			// The user name and password of NanoMDM's API for curl, and what is of the tests and scripts.
			if found != "NANOMDM_AUTH" && !strings.HasPrefix(found, "DECREE_TEST_") {
				require.True(t, variables[found], "%s: %s is no variable of a flag", file, found)
			}
		}
		for _, line := range begins.FindAllStringSubmatch(string(text), -1) {
			for _, used := range name.FindAllStringSubmatch(line[2], -1) {
				_, ofNanoMDM := nanoFlags[used[1]]
				known := line[1] == "decree" && (decreeFlags[used[1]] || used[1] == "help") || line[1] == "nanomdm" && ofNanoMDM
				require.True(t, known, "%s: %s has no flag -%s: %s", file, line[1], used[1], line[0])
			}
		}
	}
}

// TestLinks checks that what the documents link to in the repository is there, headings too.
func TestLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:\s]*)(?:#([^)\s]*))?\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchors := func(file string) (anchors []string) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range heading.FindAllStringSubmatch(string(text), -1) {
			anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(match[1]), "")
			anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
		}
		return anchors
	}
	var files []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md"} {
		matches, err := filepath.Glob(pattern)
		require.NoError(t, err)
		files = append(files, matches...)
	}
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range link.FindAllStringSubmatch(string(text), -1) {
			target := file
			if match[1] != "" {
				target = filepath.Join(filepath.Dir(file), match[1])
			}
			_, err := os.Stat(target)
			require.NoError(t, err, "%s links to %s", file, match[1])
			if match[2] != "" {
				require.Contains(t, anchors(target), match[2], "%s links to %s", file, match[0])
			}
		}
	}
}

// TestHelpNamesCommands checks that every command is in the usage of the server.
func TestHelpNamesCommands(t *testing.T) {
	t.Parallel()
	var usage bytes.Buffer
	err := run(t.Context(), []string{"-help"}, nil, io.Discard, &usage)
	require.ErrorIs(t, err, flag.ErrHelp)
	for _, command := range commands {
		require.Contains(t, usage.String(), "  "+command.name)
		require.Contains(t, usage.String(), command.summary)
	}
}

// TestPackagesAreListed checks that the README says of every package what it is for.
func TestPackagesAreListed(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "## Packages")
	require.True(t, found)
	output, err := exec.Command("go", "list", "-f", "{{.ImportPath}}", "../../...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(output)) {
		_, path, found := strings.Cut(strings.TrimSpace(line), "/decree/")
		require.True(t, found, line)
		if strings.HasPrefix(path, "tools/") { // which are one row
			continue
		}
		listed := strings.Contains(table, "`"+path+"`") || strings.Contains(table, "`"+filepath.Base(path)+"`")
		require.True(t, listed, path)
	}
}

// TestWaitingCommands checks that nobody is told to ask a server that has just been started whether it works, and no more.
func TestWaitingCommands(t *testing.T) {
	t.Parallel()
	waits := 0
	for _, block := range shellBlocks(readDocument(t, "deploy/README.md")) {
		for line := range strings.Lines(block) {
			switch {
			case strings.Contains(line, "decree health"):
				require.Regexp(t, `^for .*; do .*decree health && break; sleep 1; done$`, strings.TrimSpace(line))
				waits++
			case strings.Contains(line, "docker compose up"):
				require.Contains(t, line, " --wait")
				waits++
			}
		}
	}
	require.Equal(t, 3, waits)
}
