package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// notTools are the files among the tools that are no tools for admins: what tools share, and what builds and checks
// Decree.
var notTools = []string{"client.sh", "client.py", "check.sh", "image.sh", "release.sh", "require.sh", "run.sh"}

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
	"ddm-declaration-items.sh":          {"DEVICE"},
	"ddm-declaration.sh":                {"DEVICE", "configuration/test.a"},
	"ddm-tokens.sh":                     {"DEVICE"},
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
			if tool != "enrollments-get.sh" { // which takes any number
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

// TestToolsEnrollmentFilters checks that enrollments-get.sh knows every filter that the API has, and that its help and the
// documentation name it.
func TestToolsEnrollmentFilters(t *testing.T) {
	t.Parallel()
	var asked recorded
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.add("%s", r.URL)
		_, _ = w.Write([]byte("[]"))
	}))
	t.Cleanup(stub.Close)
	shell := newShell(t, stub.URL)
	const tool = "enrollments-get.sh"
	help := shell.run("", tool, "--help").stdout
	document, err := openapi3.NewLoader().LoadFromFile("../../docs/openapi.yaml")
	require.NoError(t, err)
	parameters := document.Paths.Value("/v1/enrollments").Get.Parameters
	require.Greater(t, len(parameters), 10)
	for _, parameter := range parameters {
		name := parameter.Value.Name
		shell.prints("[]\n", tool, name+"=a")
		want := "/v1/enrollments?limit=1000&" + name + "=a"
		if name == "limit" {
			want = "/v1/enrollments?limit=a"
		}
		require.Equal(t, []string{want}, asked.take())
		require.Contains(t, help, name+"=")
		require.Regexp(t, "`"+name+"[`=]", readDocument(t, "tools.md"))
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

// TestToolsOnPlainTerminals checks that names which standard output cannot show keep nothing from being done.
func TestToolsOnPlainTerminals(t *testing.T) {
	t.Parallel()
	_, shell := startForTools(t)
	shell.write("d/a.json", declarationJSON("ä", "com.apple.configuration.management.test", `{"Echo":"a"}`))
	shell.write("d/set.ü.txt", "ä\n")
	ascii := shell.with("PYTHONIOENCODING", "ascii")
	ascii.prints(`declaration \xe4: changed`+"\n"+`set \xfc: added \xe4`+"\ndevices are told\n", "syncdir.py", "d")
	ascii.prints(`declaration \xe9: changed`+"\n"+`declaration \xe9.activation: changed`+"\n", "software-update.py", "-i", "é", "--upload", "26.1", "2040-01-15T18:00:00")
}

// TestToolsIdeclr checks that the server takes every declaration that ideclr.py prints.
func TestToolsIdeclr(t *testing.T) {
	t.Parallel()
	server, shell := startForTools(t)
	for _, made := range []struct {
		args          []string
		kind, payload string
	}{
		{[]string{"test", "Grüße"}, "configuration.management.test", `{"Echo":"Grüße"}`},
		{[]string{"test", "-r", "Failed", "Hi"}, "configuration.management.test", `{"Echo":"Hi","ReturnStatus":"Failed"}`},
		{[]string{"activation", "i.test"}, "activation.simple", `{"StandardConfigurations":["i.test"]}`},
		{
			[]string{"activation", "--predicate", "@property(ring) == 1", "i.test", "i.profile"}, "activation.simple",
			`{"StandardConfigurations":["i.test","i.profile"],"Predicate":"@property(ring) == 1"}`,
		},
		{[]string{"org-info", "Example"}, "management.organization-info", `{"Name":"Example"}`},
		{
			[]string{"org-info", "Example", "-e", "it@example.com", "-u", "https://example.com", "-t", "token"},
			"management.organization-info",
			`{"Name":"Example","Email":"it@example.com","URL":"https://example.com","Proof":{"IdentityToken":"token"}}`,
		},
		{[]string{"properties"}, "management.properties", `{}`},
		{
			[]string{"properties", "ring=1", "site=Zürich", `tags=["a"]`, "empty=", "equation=a=b", "half=0.5"}, "management.properties",
			`{"ring":1,"site":"Zürich","tags":["a"],"empty":"","equation":"a=b","half":0.5}`,
		},
		{ // what Python takes for JSON, and nobody else
			[]string{"properties", "a=NaN", "b=Infinity", "c=-Infinity", "d=1e999", "e=[NaN]", "f=" + strings.Repeat("[", 50000)},
			"management.properties",
			`{"a":"NaN","b":"Infinity","c":"-Infinity","d":"1e999","e":"[NaN]","f":"` + strings.Repeat("[", 50000) + `"}`,
		},
		{
			[]string{"subscription", "device.model.family", "test.item"}, "configuration.management.status-subscriptions",
			`{"StatusItems":[{"Name":"device.model.family"},{"Name":"test.item"}]}`,
		},
		{[]string{"profile", "https://example.com/p"}, "configuration.legacy", `{"ProfileURL":"https://example.com/p"}`},
		{
			[]string{"iprofile", "https://example.com/p", "A profile"}, "configuration.legacy.interactive",
			`{"ProfileURL":"https://example.com/p","VisibleName":"A profile"}`,
		},
		{
			[]string{"watch-enrollment", "https://example.com/w"}, "configuration.watch.enrollment",
			`{"EnrollmentProfileURL":"https://example.com/w"}`,
		},
	} {
		// The activations refer to what was not made yet.
		for _, identifier := range []string{"i.test", "i.profile"} {
			declaration := declarationJSON(identifier, "com.apple.configuration.management.test", `{}`)
			server.do(http.MethodPut, "/v1/declarations", declaration)
		}
		identifier := "made/" + made.args[0]
		printed := shell.run("", "ideclr.py", append([]string{"-i", identifier}, made.args...)...)
		require.Equal(t, 0, printed.code, "%+v", printed)
		require.Empty(t, printed.stderr)
		require.JSONEq(t, declarationJSON(identifier, "com.apple."+made.kind, made.payload), printed.stdout)
		result := shell.run(printed.stdout, "api-declaration-put.sh", "-")
		require.Equal(t, toolResult{stdout: changed}, result)
	}

	var first, second struct{ Identifier, ServerToken string }
	require.NoError(t, json.Unmarshal([]byte(shell.run("", "ideclr.py", "-t", "token", "test", "Hi").stdout), &first))
	require.NoError(t, json.Unmarshal([]byte(shell.run("", "ideclr.py", "test", "Hi").stdout), &second))
	require.Len(t, second.Identifier, 36)
	require.NotEqual(t, first.Identifier, second.Identifier)
	require.Equal(t, "token", first.ServerToken)
	require.Empty(t, second.ServerToken)

	shell.fails(toolMisused, "required: COMMAND", "ideclr.py")
	shell.fails(toolMisused, "invalid choice", "ideclr.py", "tset", "Hi")
	shell.fails(toolMisused, "is not KEY=VALUE", "ideclr.py", "properties", "ring")
	shell.fails(toolMisused, "ring is given twice", "ideclr.py", "properties", "ring=1", "ring=2")
	shell.fails(toolMisused, "cannot be written as JSON", "ideclr.py", "test", "\xff")
	shell.fails(toolMisused, "the identifier is empty", "ideclr.py", "-i", "", "test", "Hi")
	require.Contains(t, shell.run("", "ideclr.py", "profile", "http://example.com").stderr, "begins with https://")
	require.Contains(t, shell.run("", "ideclr.py", "-i", strings.Repeat("ä", 33), "test", "Hi").stderr, "64 octets")
}

// TestToolsSoftwareUpdate checks that what software-update.py makes is taken, printed or uploaded.
func TestToolsSoftwareUpdate(t *testing.T) {
	t.Parallel()
	server, shell := startForTools(t)
	const tool = "software-update.py"
	printed := shell.run("", tool, "26.1", "2040-01-15T18:00:00")
	require.Equal(t, 0, printed.code, "%+v", printed)
	decoder := json.NewDecoder(strings.NewReader(printed.stdout))
	for _, want := range []string{
		declarationJSON("software-update.26.1", "com.apple.configuration.softwareupdate.enforcement.specific",
			`{"TargetOSVersion":"26.1","TargetLocalDateTime":"2040-01-15T18:00:00"}`),
		declarationJSON("software-update.26.1.activation", "com.apple.activation.simple",
			`{"StandardConfigurations":["software-update.26.1"]}`),
	} {
		var declaration json.RawMessage
		require.NoError(t, decoder.Decode(&declaration))
		require.JSONEq(t, want, string(declaration))
		require.Equal(t, toolResult{stdout: changed}, shell.run(string(declaration), "api-declaration-put.sh", "-"))
	}
	shell.prints("nothing changed\n", tool, "--upload", "26.1", "2040-01-15T18:00:00")

	args := []string{
		"-i", "os update/ü", "-b", "25B78", "-d", "https://example.com/update", "-p", `@status(device.model.family) == "Mac"`,
		"--set", "all macs/ü", "26.1", "2040-01-15T18:00:00",
	}
	shell.prints("declaration os update/ü: changed\ndeclaration os update/ü.activation: changed\n"+
		"set all macs/ü: added os update/ü\nset all macs/ü: added os update/ü.activation\n", tool, args...)
	shell.prints("nothing changed\n", tool, args...)
	shell.prints(`["os update/ü","os update/ü.activation"]`+"\n", "api-set-declarations-get.sh", "all macs/ü")
	require.Contains(t, shell.run("", "api-declaration-get.sh", "os update/ü").stdout, `"Payload":{"TargetOSVersion":"26.1",`+
		`"TargetLocalDateTime":"2040-01-15T18:00:00","TargetBuildVersion":"25B78","DetailsURL":"https://example.com/update"}`)
	require.Contains(t, shell.run("", "api-declaration-get.sh", "os update/ü.activation").stdout, `"Predicate":"@status(`)
	server.assign("DEVICE", "all macs/ü")
	_, items := server.manifest("DEVICE")
	require.Len(t, items, 2)

	shell.prints("declaration os update/ü: changed\n", tool, append(slices.Clone(args[:len(args)-1]), "2040-01-16T18:00:00")...)

	for _, wrong := range []struct {
		message string
		args    []string
	}{
		{"is not a version", []string{"26", "2040-01-15T18:00:00"}},
		{"is not a version", []string{"Tahoe", "2040-01-15T18:00:00"}},
		{"without a time zone", []string{"26.1", "2040-01-15T18:00:00Z"}},
		{"without a time zone", []string{"26.1", "2040-01-15"}},
		{"without a time zone", []string{"26.1", "2040-02-30T18:00:00"}},
		{"is in the past", []string{"26.1", "2020-01-15T18:00:00"}},
		{"is not a build", []string{"-b", "26.1", "26.1", "2040-01-15T18:00:00"}},
		{"is not the URL", []string{"-d", "example.com", "26.1", "2040-01-15T18:00:00"}},
		{"name of the set is empty", []string{"--set", "", "26.1", "2040-01-15T18:00:00"}},
	} {
		shell.fails(toolMisused, wrong.message, tool, wrong.args...)
	}
	require.Equal(t, 0, shell.run("", tool, "--past", "26.1", "2020-01-15T18:00:00").code)

	// What counts is the clock where the tool is run.
	const local = "2006-01-02T15:04:05"
	passed := time.Now().UTC().Add(-time.Hour).Format(local)
	east, west := shell.with("TZ", "UTC"), shell.with("TZ", "WEST+11")
	east.fails(toolMisused, "is in the past", tool, "26.1", passed)
	require.Equal(t, 0, east.run("", tool, "--past", "26.1", passed).code)
	require.Equal(t, 0, east.run("", tool, "26.1", time.Now().UTC().Add(time.Hour).Format(local)).code)
	require.Equal(t, 0, west.run("", tool, "26.1", passed).code)
	// No device has an earlier time than the one 12 hours behind UTC.
	shell.with("TZ", "NOWHERE+20").fails(toolMisused, "is in the past", tool, "26.1",
		time.Now().UTC().Add(-13*time.Hour).Format(local))
	shell.fails(toolRefused, "Payload.Predicate", tool, "-p", "@property(x", "--set", "none", "26.2", "2040-01-15T18:00:00")
	shell.prints("[]\n", "api-set-declarations-get.sh", "none")
}

// TestToolsSyncdir checks that a directory comes to the server, and that devices are told of it once.
func TestToolsSyncdir(t *testing.T) {
	t.Parallel()
	nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	server := beside(t, nano, append(databases()[0].flags(t), "-notify-delay", "1ms"))
	shell := newShell(t, server.url)
	device := nano.NewDevice(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	require.NoError(t, device.Enroll(ctx))
	device.Run(ctx)
	server.assign(device.ID(), "base/ü")
	server.waitIdle(device.ID())
	told := len(nano.Enqueued())
	// tells checks that the device has got what it should have, and how often it was told.
	tells := func(times int) {
		t.Helper()
		server.waitIdle(device.ID())
		if times > 0 {
			require.NoError(t, device.WaitSync(ctx, server.token(device.ID())))
		}
		require.Len(t, nano.Enqueued(), told+times)
		told += times
	}
	const tool = "syncdir.py"
	test := func(identifier, echo string) string {
		return declarationJSON(identifier, "com.apple.configuration.management.test", fmt.Sprintf(`{"Echo":%q}`, echo))
	}

	// The activation comes first by its name, and refers to what comes after it.
	shell.write("d/1.json", declarationJSON("s.activation", "com.apple.activation.simple",
		`{"StandardConfigurations":["s.a","s.b"]}`))
	shell.write("d/2.json", test("s.a", "1"))
	shell.write("d/deeper/3.json", test("s.b", "1"))
	shell.write("d/deeper/README.txt", "not a set")
	shell.write("d/.git/config.json", "{")
	shell.write("d/set.other.txt", "s.a\n")
	shell.write("d/set.base.txt", "\ufeff# a comment\r\ns.a # and another\r\n\r\n  s.activation\r\n- s.c\r\n-s.b\r\n")
	shell.prints("declaration s.a: changed\ndeclaration s.b: changed\ndeclaration s.activation: changed\n"+
		"set base: added s.a\nset base: added s.activation\nset other: added s.a\ndevices are told\n", tool, "d")
	shell.prints("nothing changed\n", tool, "d")
	tells(0)

	// All that a device is to be told is in one command.
	server.assign(device.ID(), "base")
	tells(1)
	require.Len(t, device.Declarations(), 2)
	shell.write("d/2.json", test("s.a", "2"))
	shell.write("d/deeper/3.json", test("s.b", "2"))
	shell.write("d/set.base.txt", "s.b\ns.activation\n-s.a\n")
	shell.prints("declaration s.a: changed\ndeclaration s.b: changed\nset base: added s.b\nset base: removed s.a\n"+
		"devices are told\n", tool, "d")
	tells(1)
	require.Contains(t, device.Declarations(), "s.b")
	require.NotContains(t, device.Declarations(), "s.a")
	shell.prints("nothing changed\n", tool, "d")
	tells(0)
	shell.prints("devices are told\nnothing changed\n", tool, "--notify", "d")
	tells(1)

	// What is refused keeps nothing else from being done, and devices are told of that.
	shell.write("d/2.json", test("s.a?", "3"))
	shell.write("d/deeper/3.json", test("s.b", "3"))
	shell.write("d/set.base.txt", "s.none\ns.b\n")
	result := shell.run("", tool, "d")
	require.Equal(t, toolRefused, result.code)
	require.Equal(t, "declaration s.b: changed\ndevices are told\n", result.stdout)
	require.Contains(t, result.stderr, "d/2.json: HTTP 400: Identifier: must not contain")
	require.Contains(t, result.stderr, `d/set.base.txt: HTTP 404: there is no declaration "s.none"`)
	tells(1)

	// What cannot be used keeps all from being sent.
	shell.write("d/2.json", "{")
	shell.write("d/deeper/3.json", test("s.b", "4"))
	shell.write("d/deeper/4.json", test("s.b", "5"))
	shell.write("d/deeper/5.json", "[]")
	shell.write("d/deeper/6.json", `{"Identifier":"s.d"}`)
	shell.write("d/deeper/7.json", strings.Repeat("[", 100000))
	shell.write("d/deeper/8.json", test("s.d", strings.Repeat("a", 4<<20)))
	shell.write("d/deeper/9.json", "\ufeff"+test("s.bom", "a"))
	shell.write("d/deeper/10.json", "\xff\xfe{\x00}\x00")
	shell.write("d/deeper/11.json", "{\x00}\x00")
	shell.write("d/deeper/12.json", `{"Identifier":"s.nan","Type":"com.apple.configuration.management.test","Payload":{"A":NaN}}`)
	shell.write("d/deeper/13.json", test("", "a"))
	shell.write("d/deeper/14.json", declarationJSON("s.typeless", "", `{}`))
	shell.write("d/deeper/15.json", `{"Identifier":"\ud800","Type":"com.apple.configuration.management.test","Payload":{}}`)
	shell.write("d/deeper/set.base.txt", "-s.b\n")
	shell.write("d/set.bad.txt", "-\n")
	shell.write("d/set.latin1.txt", "\xe4\n")
	result = shell.run("", tool, "d")
	require.Equal(t, toolMisused, result.code)
	require.Empty(t, result.stdout)
	for _, problem := range []string{
		"d/2.json: Expecting property name", "d/deeper/4.json: has the same Identifier as d/deeper/3.json: s.b",
		"d/deeper/5.json: is not a JSON object", "d/deeper/6.json: is not a declaration: it has no Type", "d/deeper/7.json: ",
		"d/deeper/8.json: is larger than 4194304 bytes", "d/deeper/9.json: Unexpected UTF-8 BOM", "d/deeper/10.json: 'utf-8' codec",
		"d/deeper/11.json: Expecting", "d/deeper/12.json: NaN is not JSON", "d/deeper/13.json: is not a declaration: it has no Identifier",
		"d/deeper/14.json: is not a declaration: it has no Type", "d/deeper/15.json: 'utf-8' codec",
		"d/deeper/set.base.txt: set base: s.b is both added and removed", "d/set.bad.txt: has a line with nothing after the -",
		"d/set.latin1.txt: 'utf-8' codec", "syncdir.py: nothing was sent",
	} {
		require.Contains(t, result.stderr, problem)
	}
	require.NotContains(t, result.stderr, "Traceback")
	tells(0)
	shell.fails(toolMisused, "none is not a directory", tool, "none")
}

// TestToolsSyncdirUntold checks that who was not told can be told later.
func TestToolsSyncdirUntold(t *testing.T) {
	t.Parallel()
	var asked recorded
	working := false
	var mu sync.Mutex
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_ = r.ParseForm()
		asked.add("%s %s %s", r.Method, r.URL.Path, r.PostForm.Encode())
		switch {
		case working && r.Method == http.MethodPost:
			w.WriteHeader(http.StatusNoContent)
		case working:
			w.WriteHeader(http.StatusNotModified)
		case strings.HasSuffix(r.URL.Path, "/declarations"):
			w.WriteHeader(http.StatusNoContent)
		default:
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(stub.Close)
	shell := newShell(t, stub.URL)
	shell.write("d/a.json", declarationJSON("s/a ü", "com.apple.configuration.management.test", `{"Echo":"a"}`))
	shell.write("d/set.base.txt", "s/a ü\ns.b\n")
	result := shell.run("", "syncdir.py", "d")
	require.Equal(t, toolUnreachable, result.code, "%+v", result)
	require.Contains(t, result.stderr, "run this again with --notify")
	require.Equal(t, []string{
		"PUT /v1/declarations ", "PUT /v1/set-declarations/base ", "POST /v1/notify declaration=s%2Fa+%C3%BC&set=base",
	}, asked.take(), "it gave up, and tried to have devices told, also of what got no answer")

	mu.Lock()
	working = true
	mu.Unlock()
	shell.prints("devices are told\nnothing changed\n", "syncdir.py", "--notify", "d")
	require.Equal(t, []string{
		"PUT /v1/declarations ", "PUT /v1/set-declarations/base ", "PUT /v1/set-declarations/base ",
		"POST /v1/notify declaration=s%2Fa+%C3%BC&set=base",
	}, asked.take())
}

// TestToolsSyncdirStopped checks that devices are told when it is stopped between two changes.
func TestToolsSyncdirStopped(t *testing.T) {
	t.Parallel()
	for sent, code := range map[syscall.Signal]int{
		syscall.SIGTERM: 143, syscall.SIGHUP: 129, syscall.SIGINT: 130,
	} {
		t.Run(sent.String(), func(t *testing.T) {
			t.Parallel()
			if signal.Ignored(sent) {
				t.Skip("it is ignored here, as under nohup, and so it is by whatever the test starts")
			}
			var asked recorded
			reached, told := make(chan struct{}), make(chan struct{})
			var puts atomic.Int32
			stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				_, _ = io.Copy(io.Discard, r.Body) // so that it is seen who goes away
				asked.add("%s %s %s", r.Method, r.URL.Path, r.PostForm.Encode())
				if r.Method == http.MethodPost {
					defer close(told)
				} else if puts.Add(1) == 2 {
					close(reached)
					select { // it is stopped while it waits for the answer
					case <-told:
					case <-r.Context().Done():
					}
				}
				w.WriteHeader(http.StatusNoContent)
			}))
			t.Cleanup(stub.Close)
			shell := newShell(t, stub.URL)
			for _, name := range []string{"a", "b", "c"} {
				shell.write("d/"+name+".json", declarationJSON("s."+name, "com.apple.configuration.management.test", `{}`))
			}
			cmd := exec.Command(filepath.Join(shell.tools, "syncdir.py"), "d")
			cmd.Dir, cmd.Env = shell.directory, shell.environ()
			p := startProcess(t, cmd)
			select {
			case <-reached:
			case <-p.ended:
				require.Fail(t, "it ended too early", p.stderr.String())
			}
			require.NoError(t, cmd.Process.Signal(sent))
			<-p.ended
			require.Equal(t, code, cmd.ProcessState.ExitCode(), p.stderr.String())
			require.Contains(t, p.stderr.String(), "stopped by a signal")
			require.NotContains(t, p.stderr.String(), "Traceback")
			require.Equal(t, []string{
				"PUT /v1/declarations ", "PUT /v1/declarations ", "POST /v1/notify declaration=s.a&declaration=s.b",
			}, asked.take(), "the second may have been changed")
		})
	}
}
