package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// quickstartPatience is how long the whole story may take: it starts about a hundred programs.
const quickstartPatience = 8 * patience

// quickstartStep is a block of commands in the quickstart, and what the quickstart says that they print.
type quickstartStep struct {
	line     int
	commands string
	output   string
	shown    bool // the output is in the quickstart
}

// quickstartSteps finds the ```sh blocks of a document. The ```text or ```json block behind one is its output.
func quickstartSteps(t *testing.T, document string) []quickstartStep {
	t.Helper()
	var steps []quickstartStep
	kind, begin, last := "", 0, ""
	var block strings.Builder
	number := 0
	for line := range strings.Lines(document) {
		number++
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && kind == "":
			require.NotEmpty(t, fence, "line %d: a block must say what it is", number)
			kind, begin = fence, number
			block.Reset()
		case isFence:
			switch kind {
			case "sh":
				steps = append(steps, quickstartStep{line: begin, commands: block.String()})
			case "text", "json":
				require.Equal(t, "sh", last, "line %d: output stands behind the commands that print it", begin)
				steps[len(steps)-1].output, steps[len(steps)-1].shown = block.String(), true
			}
			kind, last = "", kind
		case kind != "":
			block.WriteString(line)
		}
	}
	require.Empty(t, kind, "line %d: a block without an end", begin)
	return steps
}

// outputPattern is the pattern for an output as it is shown: "…" stands for anything in a line, or where it is alone in
// its line for any lines.
func outputPattern(shown string) *regexp.Regexp {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for line := range strings.Lines(shown) {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		parts := strings.Split(line, "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern.WriteString(strings.Join(parts, `.*?`))
	}
	pattern.WriteString(`\z`)
	return regexp.MustCompile(pattern.String())
}

// bash is one bash that runs blocks of commands.
type bash struct {
	t         *testing.T
	directory string
	stdin     io.Writer
	output    *bufio.Reader
	blocks    int
}

func startBash(t *testing.T, directory string, environ []string) *bash {
	t.Helper()
	// Its end is waited for when the test's own context has ended already.
	ctx, cancel := context.WithTimeout(context.Background(), quickstartPatience)
	read, write, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, "bash", "--noprofile", "--norc")
	cmd.Dir, cmd.Env = directory, environ
	cmd.Stdout, cmd.Stderr = write, write // one pipe, so that all is in the order in which it was written
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, write.Close())
	t.Cleanup(func() {
		defer cancel()
		_ = stdin.Close() // bash may have ended
		require.NoError(t, cmd.Wait())
		require.NoError(t, read.Close())
	})
	return &bash{t: t, directory: directory, stdin: stdin, output: bufio.NewReader(read)}
}

// run runs a block, and returns what it printed and the exit code of its last command.
func (b *bash) run(commands string) (output, code string) {
	b.t.Helper()
	b.blocks++
	path := filepath.Join(b.directory, fmt.Sprintf(".block-%d.sh", b.blocks))
	require.NoError(b.t, os.WriteFile(path, []byte(commands), 0o600))
	mark := fmt.Sprintf("end of block %d:", b.blocks)
	_, err := fmt.Fprintf(b.stdin, "source %s </dev/null; echo %q $?\n", path, mark)
	require.NoError(b.t, err)
	var text strings.Builder
	for {
		line, err := b.output.ReadString('\n')
		require.NoError(b.t, err, "bash ended; %s", text.String())
		if before, code, found := strings.Cut(line, mark); found {
			text.WriteString(before)
			return text.String(), strings.TrimSpace(code)
		}
		text.WriteString(line)
	}
}

// TestQuickstart runs the commands of the quickstart as they stand, with a device behind NanoMDM that does its part, and
// compares what they print with what the quickstart says.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/quickstart.md")
	require.NoError(t, err)
	steps := quickstartSteps(t, string(document))
	require.NotEmpty(t, steps)
	id := regexp.MustCompile(`(?m)^ID=(\S+)$`).FindSubmatch(document)
	require.NotNil(t, id, "the quickstart says which enrollment it is about")

	ctx, cancel := context.WithTimeout(t.Context(), quickstartPatience)
	defer cancel()
	nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	server := beside(t, nano, append(databases()[0].flags(t), "-notify-delay", "1ms"))
	device := nano.NewDeviceWithID(t, string(id[1]))
	require.NoError(t, device.Enroll(ctx))
	device.Run(ctx)

	shell := newShell(t, server.url).with("API_KEY", "")
	require.NoError(t, os.Symlink(toolsDirectory(t), filepath.Join(shell.directory, "tools")))
	shell.write(".decree-api-key", testKey)
	bash := startBash(t, shell.directory, shell.environ())
	for _, step := range steps {
		output, code := bash.run(step.commands)
		if !outputPattern(step.output).MatchString(output) {
			require.Equal(t, step.output, output, "the commands in line %d of the quickstart:\n%s", step.line, step.commands)
		}
		if !step.shown {
			require.Equal(t, "0", code, "the commands in line %d of the quickstart:\n%s", step.line, step.commands)
		}
		server.settleDevice(ctx, device)
	}
}

// settleDevice waits until a device has what it should have and has reported.
func (s *server) settleDevice(ctx context.Context, device *nanomdmtest.Device) {
	s.t.Helper()
	s.waitFanouts()
	if code, _ := s.do(http.MethodGet, "/v1/enrollments/"+device.ID(), ""); code == http.StatusNotFound {
		return
	}
	s.waitIdle(device.ID())
	if len(device.Commands()) == 0 {
		return
	}
	require.NoError(s.t, device.WaitSync(ctx, s.token(device.ID())))
	reportFalsePredicates(s.t, ctx, device)
}

// reportFalsePredicates reports what a Mac makes of activations that are for iPhones. The simulated device takes every
// predicate to be true.
func reportFalsePredicates(t testing.TB, ctx context.Context, device *nanomdmtest.Device) {
	t.Helper()
	type status map[string]any
	lists := map[string][]status{"activation": {}, "configuration": {}, "asset": {}, "management": {}}
	held := device.Declarations()
	inactive := map[string]string{} // and why
	for identifier, declaration := range held {
		var content struct {
			Payload struct {
				Predicate              string
				StandardConfigurations []string
			}
		}
		require.NoError(t, json.Unmarshal(declaration.JSON, &content))
		if strings.Contains(content.Payload.Predicate, `"iPhone"`) {
			inactive[identifier] = "Info.Predicate"
			for _, configuration := range content.Payload.StandardConfigurations {
				inactive[configuration] = "Info.NotReferencedByActivation"
			}
		}
	}
	if len(inactive) == 0 {
		return
	}
	for identifier, declaration := range held {
		reported := status{
			"identifier": identifier, "server-token": declaration.ServerToken,
			"active": declaration.Active, "valid": declaration.Valid,
		}
		if code, found := inactive[identifier]; found {
			reported["active"], reported["reasons"] = false, []status{{"code": code}}
		}
		lists[declaration.Class] = append(lists[declaration.Class], reported)
	}
	report, err := json.Marshal(status{"Errors": []status{}, "StatusItems": status{"management": status{"declarations": status{
		"activations": lists["activation"], "configurations": lists["configuration"], "assets": lists["asset"],
		"management": lists["management"],
	}}}})
	require.NoError(t, err)
	_, err = device.DeclarativeManagement(ctx, "status", report)
	require.NoError(t, err)
}

// TestQuickstartOutput checks that the comparison with the quickstart finds differences.
func TestQuickstartOutput(t *testing.T) {
	t.Parallel()
	const printed = "{\n    \"a\": \"1.(\",\n    \"b\": 2\n}\n"
	for _, shown := range []string{
		printed,
		"{\n    \"a\": \"…\",\n    \"b\": 2\n}\n", "{\n    …\n}\n", "{\n…\n    \"b\": 2\n}\n", "…\n", "{\n    \"a\": …\n…\n}\n",
	} {
		require.Regexp(t, outputPattern(shown), printed)
	}
	for _, shown := range []string{
		"", "{\n", "{\n    \"a\": \"1.(\",\n    \"b\": 3\n}\n", "{\n    \"a\": \"…\"\n}\n", printed + "more\n", "more\n" + printed,
		"{\n    \"a\": \"1_(\",\n    \"b\": 2\n}\n", "{…}\n",
	} {
		require.NotRegexp(t, outputPattern(shown), printed)
	}

	document := "# Title\n```console\nnot run\n```\n```sh\necho 1\necho 2\n```\nText\n```text\n1\n2\n```\n```sh\ntrue\n```\n"
	require.Equal(t, []quickstartStep{{5, "echo 1\necho 2\n", "1\n2\n", true}, {14, "true\n", "", false}},
		quickstartSteps(t, document))

	needProgram(t, "bash")
	bash := startBash(t, t.TempDir(), os.Environ())
	output, code := bash.run("value=1\nprintf $value\nfalse\n")
	require.Equal(t, []string{"1", "1"}, []string{output, code})
	output, code = bash.run("echo $value\ncat\necho wrong >&2\n")
	require.Equal(t, []string{"1\nwrong\n", "0"}, []string{output, code})
}
