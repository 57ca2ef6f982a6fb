package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// notTools are the files among the tools that are no tools for admins: what tools share, and what builds and checks
// Decree.
var notTools = []string{"client.sh", "client.py", "check.sh", "image.sh", "release.sh", "require.sh", "run.sh", "vulnerabilities.sh"}

// Exit codes of the tools.
const (
	toolRefused     = 1
	toolMisused     = 2
	toolUnreachable = 3
)

func toolsDirectory(t *testing.T) string {
	t.Helper()
	directory, err := filepath.Abs("../../tools")
	require.NoError(t, err)
	return directory
}

// allTools lists the tools that there are.
func allTools(t *testing.T) []string {
	t.Helper()
	var tools []string
	for _, pattern := range []string{"*.sh", "*.py"} {
		paths, err := filepath.Glob(filepath.Join(toolsDirectory(t), pattern))
		require.NoError(t, err)
		for _, path := range paths {
			if name := filepath.Base(path); !slices.Contains(notTools, name) {
				tools = append(tools, name)
			}
		}
	}
	require.NotEmpty(t, tools)
	return tools
}

// adminShell is where tools are run: a directory of its own and an environment.
type adminShell struct {
	t           *testing.T
	directory   string
	tools       string
	environment map[string]string
}

func newShell(t *testing.T, url string) *adminShell {
	t.Helper()
	for _, program := range []string{"bash", "curl", "python3"} {
		needProgram(t, program)
	}
	return &adminShell{t, t.TempDir(), toolsDirectory(t), map[string]string{"BASE_URL": url, "API_KEY": testKey}}
}

// with is the shell with another value of a variable; an empty one unsets it.
func (s *adminShell) with(name, value string) *adminShell {
	other := *s
	other.environment = map[string]string{name: value}
	for n, v := range s.environment {
		if n != name {
			other.environment[n] = v
		}
	}
	return &other
}

// environ is the environment of the test, with nothing of the tools' but what the shell says. Names must not depend on
// the locale.
func (s *adminShell) environ() []string {
	environ := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return name == "BASE_URL" || name == "CURL_OPTS" || strings.HasPrefix(name, "API_") || strings.HasPrefix(name, "DECREE_")
	})
	environ = append(environ, "LC_ALL=C")
	for name, value := range s.environment {
		if value != "" {
			environ = append(environ, name+"="+value)
		}
	}
	return environ
}

// toolResult is what came of a tool.
type toolResult struct {
	stdout, stderr string
	code           int
}

// run runs a tool.
func (s *adminShell) run(stdin, tool string, args ...string) toolResult {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(s.tools, tool), args...)
	cmd.Dir, cmd.Env = s.directory, s.environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(s.t, err, "%s %q", tool, args)
	}
	return toolResult{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// prints runs a tool that must do well, and checks what it prints.
func (s *adminShell) prints(want, tool string, args ...string) {
	s.t.Helper()
	result := s.run("", tool, args...)
	require.Equal(s.t, toolResult{stdout: want}, result, "%s %q", tool, args)
}

// fails runs a tool that must not do well, and checks the exit code and a part of what it says.
func (s *adminShell) fails(code int, message, tool string, args ...string) {
	s.t.Helper()
	result := s.run("", tool, args...)
	require.Equal(s.t, code, result.code, "%s %q: %+v", tool, args, result)
	require.Contains(s.t, result.stderr, message, "%s %q", tool, args)
	require.Contains(s.t, result.stderr, tool, "says which tool it is")
	require.NotContains(s.t, result.stderr, "Traceback")
}

// write writes a file below the shell's directory.
func (s *adminShell) write(path, text string) {
	s.t.Helper()
	path = filepath.Join(s.directory, path)
	require.NoError(s.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(s.t, os.WriteFile(path, []byte(text), 0o600))
}

// startForTools starts a Decree, and a shell to use it from.
func startForTools(t *testing.T, flags ...string) (*server, *adminShell) {
	t.Helper()
	s := startDecree(t, append(databases()[0].flags(t), flags...)...)
	return s, newShell(t, s.url)
}

const (
	changed   = "Response HTTP Code: 204\n"
	unchanged = "Response HTTP Code: 304\n"
)

// useOf are arguments for each tool with which it does its work on a server that has nothing, or is refused. That a tool
// is here has it tested in all the ways in which tools are tested alike.
var useOf = map[string][]string{
	"api-declaration-delete.sh":         {"test.a"},
	"api-declaration-get.sh":            {"test.a"},
	"api-declaration-put.sh":            {"-"},
	"api-declaration-sets-get.sh":       {"test.a"},
	"api-declaration-touch.sh":          {"test.a"},
	"api-declarations-get.sh":           {},
	"api-enrollment-sets-delete-all.sh": {"DEVICE"},
	"api-enrollment-sets-delete.sh":     {"DEVICE", "base"},
	"api-enrollment-sets-get.sh":        {"DEVICE"},
	"api-enrollment-sets-put.sh":        {"DEVICE", "base"},
	"api-set-declarations-delete.sh":    {"base", "test.a"},
	"api-set-declarations-get.sh":       {"base"},
	"api-set-declarations-put.sh":       {"base", "test.a"},
	"api-status-declaration-get.sh":     {"DEVICE"},
	"api-status-errors-get.sh":          {"DEVICE"},
	"api-status-report-get-last.sh":     {"DEVICE"},
	"api-status-values-get.sh":          {"DEVICE"},
	"changes-get.sh":                    {},
	"ddm-declaration-items.sh":          {"DEVICE"},
	"ddm-declaration.sh":                {"DEVICE", "configuration/test.a"},
	"ddm-tokens.sh":                     {"DEVICE"},
	"declaration-rollback.sh":           {"test.a", "token"},
	"declaration-versions-get.sh":       {"test.a"},
	"enrollment-sync.sh":                {"DEVICE"},
	"enrollments-get.sh":                {},
	"ideclr.py":                         {"test", "Hello"},
	"software-update.py":                {"--upload", "26.1", "2040-01-15T18:00:00"},
	"syncdir.py":                        {"."},
}

// TestToolsAreDocumented checks that each tool there is has help, a place in docs/tools.md, and arguments to test it with.
func TestToolsAreDocumented(t *testing.T) {
	t.Parallel()
	shell := newShell(t, "")
	document, err := os.ReadFile("../../docs/tools.md")
	require.NoError(t, err)
	for _, tool := range allTools(t) {
		t.Run(tool, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, useOf, tool)
			require.Contains(t, string(document), "`"+tool, "docs/tools.md")
			for _, flag := range []string{"--help", "-h"} {
				result := shell.run("", tool, flag)
				require.Equal(t, 0, result.code, "%+v", result)
				require.Empty(t, result.stderr)
				require.Contains(t, result.stdout, tool)
				require.Contains(t, result.stdout, "Exit codes: 0 done")
			}
		})
	}
	require.Len(t, allTools(t), len(useOf), "there are no others in the table")
}

// TestToolsFail checks what all tools have in common when something is wrong.
func TestToolsFail(t *testing.T) {
	t.Parallel()
	_, shell := startForTools(t)
	shell.write("a.json", declarationJSON("test.a", "com.apple.configuration.management.test", `{"Echo":"a"}`))
	nobody := "http://" + freeAddress(t)
	for tool, args := range useOf {
		t.Run(tool, func(t *testing.T) {
			t.Parallel()
			shell := *shell
			shell.t = t
			if tool != "enrollments-get.sh" && tool != "changes-get.sh" { // which take any number
				shell.fails(toolMisused, tool, tool, append(slices.Clone(args), "more", "and more", "--than=enough")...)
			}
			if len(args) > 0 {
				shell.fails(toolMisused, tool, tool, args[:len(args)-1]...)
			}
			if tool == "ideclr.py" { // which does not talk to a server
				return
			}
			down := shell.with("BASE_URL", nobody)
			down.fails(toolUnreachable, "no answer", tool, args...)
			require.Empty(t, down.run("", tool, args...).stdout)
			if strings.HasPrefix(tool, "ddm-") { // which need no key
				return
			}
			keyless := shell.with("API_KEY", "")
			keyless.fails(toolMisused, "API_KEY is not set", tool, args...)
			require.Empty(t, keyless.run("", tool, args...).stdout)
			shell.with("API_KEY", "wrong").fails(toolRefused, "the API key is missing or wrong", tool, args...)
		})
	}
}

// names are hard for those who put names into URLs.
var names = []string{
	"test.a", "a/b", "a b", "ä/ö ü", "a&b=c+d", "a;b'c\"d", "日本",
	"a\\b{1,2}[3]", "~tilde-_.", "*", "$(false)`false`", "-n", "...",
}

// TestTools uses every tool that KMFDDM has too, with names of all kinds.
func TestTools(t *testing.T) {
	t.Parallel()
	server, shell := startForTools(t)
	shell.prints("[]\n", "api-declarations-get.sh")
	for _, name := range names {
		quoted := quote(t, name)
		list := "[" + quoted + "]\n"
		declaration := declarationJSON(name, "com.apple.configuration.management.test", `{"Echo":"a"}`)

		require.Equal(t, toolResult{stdout: changed}, shell.run(declaration, "api-declaration-put.sh", "-"), name)
		shell.write("a declaration.json", declaration)
		shell.prints(unchanged, "api-declaration-put.sh", "a declaration.json")
		shell.prints(list, "api-declarations-get.sh")
		first := shell.run("", "api-declaration-get.sh", name).stdout
		require.Contains(t, first, `{"Identifier":`+quoted+`,"Type":"com.apple.configuration.management.test","ServerToken":"`)
		shell.prints(changed, "api-declaration-touch.sh", name)
		second := shell.run("", "api-declaration-get.sh", name).stdout
		require.NotEqual(t, first, second)
		version := func(declaration string) (v struct{ ServerToken string }) {
			require.NoError(t, json.Unmarshal([]byte(declaration), &v))
			return v
		}
		shell.prints(first, "declaration-versions-get.sh", name, version(first).ServerToken)
		require.Contains(t, shell.run("", "declaration-versions-get.sh", name).stdout,
			`[{"server_token":"`+version(second).ServerToken+`","type":"com.apple.configuration.management.test","current":true`)
		shell.prints(unchanged, "declaration-rollback.sh", name, version(first).ServerToken)
		shell.fails(toolRefused, "no version", "declaration-rollback.sh", name, name)

		shell.prints(changed, "api-set-declarations-put.sh", name, name)
		shell.prints(unchanged, "api-set-declarations-put.sh", name, name)
		shell.prints(list, "api-set-declarations-get.sh", name)
		shell.prints(list, "api-declaration-sets-get.sh", name)
		shell.prints(changed, "api-enrollment-sets-put.sh", "one", name)

		id := strings.ReplaceAll(name, ",", ";") // which ids must not have
		shell.prints(changed, "api-enrollment-sets-put.sh", id, name)
		shell.prints(unchanged, "api-enrollment-sets-put.sh", id, name)
		shell.prints(list, "api-enrollment-sets-get.sh", id)

		require.Contains(t, shell.run("", "ddm-tokens.sh", id).stdout, server.token("one"))
		items := shell.run("", "ddm-declaration-items.sh", id).stdout
		require.Contains(t, items, server.token("one"))
		require.Contains(t, items, `"Configurations":[{"Identifier":`+quoted)
		shell.prints(second, "ddm-declaration.sh", id, "configuration/"+name)

		shell.prints(changed, "enrollment-sync.sh", id)
		require.Contains(t, shell.run("", "enrollments-get.sh", "set="+name).stdout, `"id":`+quote(t, id))
		require.Contains(t, shell.run("", "enrollments-get.sh", id).stdout, `{"id":`+quote(t, id))

		for _, tool := range []string{"declaration", "errors", "values"} {
			shell.prints("{"+quote(t, id)+`:[],"two":[]}`+"\n", "api-status-"+tool+"-get.sh", id+",two")
		}
		shell.fails(toolRefused, "there is no such status report", "api-status-report-get-last.sh", id)

		shell.fails(toolRefused, "is in use", "api-declaration-delete.sh", name)
		shell.prints(changed, "api-enrollment-sets-delete.sh", id, name)
		shell.prints(unchanged, "api-enrollment-sets-delete.sh", id, name)
		shell.prints("[]\n", "api-enrollment-sets-get.sh", id)
		shell.prints(changed, "api-set-declarations-delete.sh", name, name)
		shell.prints(unchanged, "api-set-declarations-delete.sh", name, name)
		shell.prints(changed, "api-declaration-delete.sh", name)
		shell.prints(unchanged, "api-declaration-delete.sh", name)
		shell.prints(changed, "declaration-rollback.sh", name, version(first).ServerToken)
		require.Contains(t, shell.run("", "changes-get.sh", "declaration="+name, "limit=1").stdout,
			`"key":"api","action":"declaration.rollback","declaration":`+quoted)
		shell.prints(changed, "api-declaration-delete.sh", name)
		deletions := shell.run("", "changes-get.sh", "declaration="+name, "action=declaration.delete", "key=api").stdout
		require.Equal(t, 2, strings.Count(deletions, `"action":"declaration.delete","declaration":`+quoted), deletions)
		shell.prints(changed, "api-enrollment-sets-put.sh", id, "two")
		shell.prints(changed, "api-enrollment-sets-delete-all.sh", id)
		shell.prints(unchanged, "api-enrollment-sets-delete-all.sh", id)
	}
}

// quote is a string as the API writes it.
func quote(t *testing.T, text string) string {
	t.Helper()
	var quoted bytes.Buffer
	encoder := json.NewEncoder(&quoted)
	encoder.SetEscapeHTML(false)
	require.NoError(t, encoder.Encode(text))
	return strings.TrimSuffix(quoted.String(), "\n")
}

// TestToolsStatus checks the tools for what a device reports, and that to look leaves no trace.
func TestToolsStatus(t *testing.T) {
	t.Parallel()
	server, shell := startForTools(t)
	server.putTest("test.a", "a")
	server.addToSet("base", "test.a")
	server.assign("DEVICE", "base")
	for _, tool := range []string{"ddm-tokens.sh", "ddm-declaration-items.sh", "ddm-declaration.sh"} {
		require.Equal(t, 0, shell.run("", tool, useOf[tool]...).code)
	}
	require.NotContains(t, shell.run("", "enrollments-get.sh", "DEVICE").stdout, "last_seen")
	require.Empty(t, server.enrollment("DEVICE").FetchedToken)

	_, items := server.manifest("DEVICE")
	report := fmt.Sprintf(`{"StatusItems":{"device":{"model":{"family":"Mac"}},"management":{"declarations":{"configurations":[
		{"identifier":"test.a","server-token":%q,"active":false,"valid":"invalid","reasons":[{"code":"Error.No"}]}]}}},"Errors":[]}`,
		items[0].ServerToken)
	code, _ := server.device("DEVICE", http.MethodPut, "/status", report)
	require.Equal(t, http.StatusOK, code)

	shell.prints(report+"\n", "api-status-report-get-last.sh", "DEVICE")
	require.Contains(t, shell.run("", "api-status-declaration-get.sh", "DEVICE").stdout,
		`"identifier":"test.a","active":false,"valid":"invalid"`)
	require.Contains(t, shell.run("", "api-status-errors-get.sh", "DEVICE").stdout, `"code":"Error.No"`)
	values := shell.run("", "api-status-values-get.sh", "DEVICE").stdout
	require.Contains(t, values, `"path":".StatusItems.device.model.family","value":"Mac"`)
	require.Equal(t, values, shell.run("", "api-status-values-get.sh", "DEVICE", "").stdout)
	require.Equal(t, values, shell.run("", "api-status-values-get.sh", "DEVICE", ".StatusItems.device.%").stdout)
	shell.prints(`{"DEVICE":[]}`+"\n", "api-status-values-get.sh", "DEVICE", ".StatusItems.model.%")
}

// TestToolsRefusals checks what the tools say of what cannot be done.
func TestToolsRefusals(t *testing.T) {
	t.Parallel()
	_, shell := startForTools(t)
	for _, tool := range []string{"api-declaration-get.sh", "api-declaration-touch.sh"} {
		shell.fails(toolRefused, `{"error":"there is no declaration \"test.none\""}`, tool, "test.none")
	}
	shell.fails(toolRefused, `there is no declaration \"test.none\"`, "api-set-declarations-put.sh", "base", "test.none")
	shell.fails(toolRefused, `there is no enrollment \"none\"`, "enrollment-sync.sh", "none")
	shell.fails(toolRefused, `there is no enrollment \"none\"`, "enrollments-get.sh", "none")
	shell.fails(toolRefused, "not found", "ddm-declaration.sh", "DEVICE", "configuration/test.none")
	shell.fails(toolRefused, "400", "api-enrollment-sets-put.sh", "..", "base")
	shell.fails(toolRefused, "comma", "api-enrollment-sets-put.sh", "a,b", "base")

	for body, message := range map[string]string{
		"": "must not be empty", `{"Identifier":`: "unexpected end", `{}`: "is missing",
	} {
		result := shell.run(body, "api-declaration-put.sh", "-")
		require.Equal(t, toolRefused, result.code)
		require.Equal(t, "Response HTTP Code: 400\n", result.stdout)
		require.Contains(t, result.stderr, message)
	}
	shell.fails(toolMisused, "no file to read at none.json", "api-declaration-put.sh", "none.json")
	shell.fails(toolMisused, "no file to read at .", "api-declaration-put.sh", ".")
	shell.fails(toolMisused, "argument 1 is empty", "api-enrollment-sets-delete-all.sh", "")
	shell.fails(toolMisused, "control character", "ddm-tokens.sh", "DEVICE\nX-Enrollment-Type: User")
	shell.fails(toolMisused, "is not CLASS/IDENTIFIER", "ddm-declaration.sh", "DEVICE", "test.a")
	shell.fails(toolRefused, `there is no enrollment \"insync=0\"`, "enrollments-get.sh", "insync=0")
	shell.fails(toolRefused, "enrolment", "changes-get.sh", "enrolment=DEVICE")
	shell.fails(toolMisused, "DEVICE is not of the form", "changes-get.sh", "DEVICE")
	shell.fails(toolRefused, "no earlier version", "declaration-versions-get.sh", "test.none")
	shell.fails(toolMisused, "insync=0 is not a filter", "enrollments-get.sh", "insync=0", "state=enrolled")
	shell.fails(toolRefused, "state", "enrollments-get.sh", "state=asleep")
}

// recorded is what a server of the test's own was asked.
type recorded struct {
	mu       sync.Mutex
	requests []string
}

func (r *recorded) add(format string, arguments ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, fmt.Sprintf(format, arguments...))
}

func (r *recorded) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests := r.requests
	r.requests = nil
	return requests
}

// TestToolsEnvironment checks where the tools send their requests, and with what.
func TestToolsEnvironment(t *testing.T) {
	t.Parallel()
	var asked recorded
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, key, _ := r.BasicAuth()
		asked.add("%s %s %s:%s %s", r.Method, r.URL, user, key, r.Header.Get("X-Test"))
		_, _ = w.Write([]byte("[]"))
	}))
	t.Cleanup(stub.Close)
	shell := newShell(t, stub.URL)
	sent := func(shell *adminShell, want, tool string, args ...string) {
		t.Helper()
		result := shell.run("", tool, args...)
		require.Equal(t, 0, result.code, "%+v", result)
		require.Equal(t, []string{want}, asked.take())
	}
	const list, update = "api-declarations-get.sh", "software-update.py"
	updateArgs := []string{"--upload", "26.1", "2040-01-15T18:00:00"}

	sent(shell, "GET /v1/declarations decree:"+testKey+" ", list)
	sent(shell.with("BASE_URL", stub.URL+"/"), "GET /v1/declarations decree:"+testKey+" ", list)
	sent(shell.with("API_USER", "kmfddm"), "GET /v1/declarations kmfddm:"+testKey+" ", list)
	sent(shell.with("API_KEY", `a "b" \c : $d`), `GET /v1/declarations decree:a "b" \c : $d `, list)
	sent(shell.with("CURL_OPTS", "-v\t--header X-Test:*\n"), "GET /v1/declarations decree:"+testKey+" *", list)

	// API_BASE_URL is the API; without BASE_URL, the server is found from it.
	both := shell.with("API_BASE_URL", stub.URL+"/proxy/v1/")
	sent(both, "GET /proxy/v1/declarations decree:"+testKey+" ", list)
	sent(both, "GET /tokens decree:"+testKey+" ", "ddm-tokens.sh", "DEVICE")
	sent(both.with("BASE_URL", ""), "GET /proxy/tokens decree:"+testKey+" ", "ddm-tokens.sh", "DEVICE")
	sent(shell.with("API_KEY", ""), "GET /tokens : ", "ddm-tokens.sh", "DEVICE")

	// The Python tools read the same environment, and their arguments win.
	for _, python := range []struct {
		shell *adminShell
		args  []string
		want  string
	}{
		{shell, nil, "/v1/declarations decree:" + testKey},
		{both.with("API_USER", "kmfddm"), nil, "/proxy/v1/declarations kmfddm:" + testKey},
		{both, []string{"--baseurl", stub.URL + "/"}, "/v1/declarations decree:" + testKey},
		{
			shell, []string{"--apibaseurl", stub.URL + "/other/v1", "--user", "me", "--key", "another"},
			"/other/v1/declarations me:another",
		},
	} {
		result := python.shell.run("", update, append(python.args, updateArgs...)...)
		require.Equal(t, 0, result.code, "%+v", result)
		require.Equal(t, []string{"PUT " + python.want + " ", "PUT " + python.want + " "}, asked.take())
	}

	// Neither key can be seen among the arguments of curl.
	curl, err := exec.LookPath("curl")
	require.NoError(t, err)
	shell.write("bin/curl", "#!/bin/sh\necho \"$@\" >&2\nexec "+curl+" \"$@\"\n")
	require.NoError(t, os.Chmod(filepath.Join(shell.directory, "bin", "curl"), 0o700))
	spied := shell.with("PATH", filepath.Join(shell.directory, "bin")+":"+os.Getenv("PATH")).
		with("DECREE_DM_VERIFY_HMAC_KEY", "another secret")
	for _, tool := range []string{list, "ddm-tokens.sh"} {
		result := spied.run("", tool, useOf[tool]...)
		require.Equal(t, 0, result.code, "%+v", result)
		require.Contains(t, result.stderr, "--config")
		require.NotContains(t, result.stderr, testKey)
		require.NotContains(t, result.stderr, "secret")
	}
}

// TestToolsFromElsewhere checks that tools find what they share through a symlink and from any directory.
func TestToolsFromElsewhere(t *testing.T) {
	t.Parallel()
	_, shell := startForTools(t)
	directory := filepath.Join(shell.directory, "it's a directory")
	require.NoError(t, os.Mkdir(directory, 0o700))
	for _, tool := range []string{"api-declarations-get.sh", "software-update.py"} {
		link := filepath.Join(directory, "linked "+tool)
		require.NoError(t, os.Symlink(filepath.Join(shell.tools, tool), filepath.Join(directory, tool)))
		require.NoError(t, os.Symlink(tool, link))
	}
	shell.tools = directory
	shell.prints("[]\n", "linked api-declarations-get.sh")
	require.Contains(t, shell.run("", "linked software-update.py", "26.1", "2040-01-15T18:00:00").stdout, "TargetOSVersion")
	require.NoDirExists(t, filepath.Join(toolsDirectory(t), "__pycache__"))
}

// TestToolsSign checks the tools for device endpoints where requests must be signed.
func TestToolsSign(t *testing.T) {
	t.Parallel()
	_, shell := startForTools(t, "-dm-verify-hmac-key", "a sécret", "-dm-sign-hmac-key", "another")
	for tool, want := range map[string]int{
		"ddm-tokens.sh": 0, "ddm-declaration-items.sh": 0, "ddm-declaration.sh": toolRefused,
	} {
		args := useOf[tool]
		shell.fails(toolRefused, "unauthorized", tool, args...)
		shell.with("DECREE_DM_VERIFY_HMAC_KEY", "wrong").fails(toolRefused, "unauthorized", tool, args...)
		result := shell.with("DECREE_DM_VERIFY_HMAC_KEY", "a sécret").run("", tool, args...)
		require.Equal(t, want, result.code, "%+v", result)
		require.NotContains(t, result.stderr, "unauthorized")
	}
}

// TestToolsEnrollmentPages checks that all pages are fetched, and only those that are wanted.
func TestToolsEnrollmentPages(t *testing.T) {
	t.Parallel()
	pages := map[string]struct{ body, next string }{
		"/proxy/v1/enrollments?limit=1000&set=a%20b":            {`[{"id":"1"},{"id":"2"}]`, "set=a+b&limit=1000&after=2"},
		"/proxy/v1/enrollments?set=a+b&limit=1000&after=2":      {`[]`, "set=a+b&limit=1000&after=%26%3E"},
		"/proxy/v1/enrollments?set=a+b&limit=1000&after=%26%3E": {`[{"id":"3"}]`, ""},
		"/proxy/v1/enrollments?limit=2":                         {`[{"id":"1"},{"id":"2"}]`, "limit=2&after=2"},
		"/proxy/v1/enrollments?limit=1000&after=1":              {`[{"id":"2"}]`, ""},
		"/proxy/v1/enrollments?limit=1000&in_sync=0":            {`[]`, ""},
		"/proxy/v1/enrollments?limit=1000&in_sync=1":            {`[{"id":"1"}]`, "missing"},
	}
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, found := pages[r.URL.String()]
		if !found {
			http.Error(w, `{"error":"no such page"}`, http.StatusNotFound)
			return
		}
		if page.next != "" {
			w.Header().Set("Link", "</v1/enrollments?"+page.next+`>; rel="next"`)
		}
		_, _ = w.Write([]byte(page.body + "\n"))
	}))
	t.Cleanup(stub.Close)
	shell := newShell(t, stub.URL+"/proxy")
	const tool = "enrollments-get.sh"
	shell.prints("[{\"id\":\"1\"},{\"id\":\"2\"},\n{\"id\":\"3\"}]\n", tool, "set=a b")
	shell.prints("[{\"id\":\"1\"},{\"id\":\"2\"}]\n", tool, "limit=2")
	shell.prints("[{\"id\":\"2\"}]\n", tool, "after=1")
	shell.prints("[]\n", tool, "in_sync=0")
	shell.fails(toolRefused, "no such page", tool, "in_sync=1")
}

// TestToolsFilters checks that the tools for lists know every filter that the API has, and that their help and the
// documentation name it.
func TestToolsFilters(t *testing.T) {
	t.Parallel()
	var asked recorded
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.add("%s", r.URL)
		_, _ = w.Write([]byte("[]"))
	}))
	t.Cleanup(stub.Close)
	shell := newShell(t, stub.URL)
	document, err := openapi3.NewLoader().LoadFromFile("../../docs/openapi.yaml")
	require.NoError(t, err)
	for tool, path := range map[string]string{"enrollments-get.sh": "/v1/enrollments", "changes-get.sh": "/v1/changes"} {
		help := shell.run("", tool, "--help").stdout
		parameters := document.Paths.Value(path).Get.Parameters
		require.Greater(t, len(parameters), 9)
		for _, parameter := range parameters {
			name := parameter.Value.Name
			shell.prints("[]\n", tool, name+"=a")
			want := path + "?limit=1000&" + name + "=a"
			if name == "limit" {
				want = path + "?limit=a"
			}
			require.Equal(t, []string{want}, asked.take())
			require.Contains(t, help, name+"=")
			require.Regexp(t, "`"+name+"[`=]", readDocument(t, "tools.md"))
		}
	}
}

// TestToolsByAnotherShell checks that shell scripts work for those who start them with sh.
func TestToolsByAnotherShell(t *testing.T) {
	t.Parallel()
	_, shell := startForTools(t)
	for _, other := range [][]string{{"sh"}, {"dash"}, {"bash", "--posix"}} {
		if _, err := exec.LookPath(other[0]); err != nil {
			continue // sh is everywhere
		}
		run := func(script string, args ...string) string {
			cmd := exec.Command(other[0], slices.Concat(other[1:], []string{filepath.Join(shell.tools, script)}, args)...)
			cmd.Dir, cmd.Env = shell.directory, shell.environ()
			output, err := cmd.CombinedOutput()
			require.NoError(t, err, "%q %s: %s", other, script, output)
			return string(output)
		}
		for _, tool := range allTools(t) {
			if strings.HasSuffix(tool, ".sh") {
				require.Contains(t, run(tool, "--help"), "Exit codes: 0 done")
			}
		}
		require.Equal(t, "[]\n", run("enrollments-get.sh"))
		require.Equal(t, "[]\n", run("api-enrollment-sets-get.sh", "an id, 'quoted'"))
		require.Empty(t, run("require.sh", "bash"))
	}
}
