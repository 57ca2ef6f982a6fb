package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
