package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// parseYAML reads a YAML document that is an object. It goes through the reader of API documents, which keeps keys that it
// does not know, since that is the one that the tests have.
func parseYAML(t *testing.T, name string) map[string]any {
	t.Helper()
	document, err := openapi3.NewLoader().LoadFromData([]byte(readDocument(t, name)))
	require.NoError(t, err)
	return document.Extensions
}

// settings are the lines NAME=VALUE of an environment file, comments left out.
func settings(t *testing.T, text string) map[string]string {
	t.Helper()
	settings := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		require.True(t, found, line)
		settings[name] = value
	}
	return settings
}

var reference = regexp.MustCompile(`\$\{([A-Z_]+)(:[?-][^}]*)?\}`)

// TestCompose checks that the services are wired together: what each is told fits what the others are told, and Decree
// starts with it.
func TestCompose(t *testing.T) {
	t.Parallel()
	given := settings(t, readDocument(t, "deploy/env.example"))
	used := map[string]bool{}
	expand := func(text string) string {
		return reference.ReplaceAllStringFunc(text, func(found string) string {
			name := reference.FindStringSubmatch(found)[1]
			require.Contains(t, given, name, "env.example does not list it")
			used[name] = true
			if strings.HasSuffix(found, ":-}") {
				return given[name]
			}
			return "value-of-" + name
		})
	}
	services := parseYAML(t, "deploy/compose.yaml")["services"].(map[string]any)
	environment := func(service string) map[string]string {
		values := map[string]string{}
		for name, value := range services[service].(map[string]any)["environment"].(map[string]any) {
			values[name] = expand(fmt.Sprint(value))
		}
		return values
	}
	decree, nanoMDM, mariaDB := environment("decree"), environment("nanomdm"), environment("mariadb")
	for name := range given {
		require.True(t, used[name], "%s is in env.example, and nothing uses it", name)
	}

	var environ []string
	for name, value := range decree {
		environ = append(environ, name+"="+value)
	}
	config, err := parseConfig(t.Context(), nil, environ, io.Discard)
	require.NoError(t, err)
	require.Equal(t, "http://nanomdm:9000/v1/enqueue/", config.enqueueURL)
	require.Equal(t, "http://decree"+config.listen.address+"/", nanoMDM["NANOMDM_DM"])
	require.Equal(t, "http://decree"+config.listen.address+"/webhook", nanoMDM["NANOMDM_WEBHOOK_URL"])
	require.Equal(t, config.enqueueKey, nanoMDM["NANOMDM_API"])
	require.Equal(t, config.webhookKey, nanoMDM["NANOMDM_WEBHOOK_HMAC_KEY"])
	require.Equal(t, config.dmVerifyKey, nanoMDM["NANOMDM_DM_SEND_HMAC_KEY"])
	require.Equal(t, config.dmSignKey, nanoMDM["NANOMDM_DM_RECV_HMAC_KEY"])
	require.Equal(t, mariaDB["MARIADB_USER"]+":"+mariaDB["MARIADB_PASSWORD"]+"@tcp(mariadb:3306)/"+mariaDB["MARIADB_DATABASE"],
		config.storageDSN)

	flags := map[string]bool{}
	for _, variable := range nanoMDMFlags(t) {
		flags[variable] = true
	}
	for name := range nanoMDM {
		require.True(t, flags[name], "%s is no variable of NanoMDM", name)
	}
	require.Equal(t, "ghcr.io/micromdm/nanomdm:"+strings.TrimPrefix(moduleDirectory(t, nanoMDMModule, "{{.Version}}"), "v"),
		services["nanomdm"].(map[string]any)["image"], "the NanoMDM that the tests run against")
	for name, service := range services {
		for _, port := range anyList(service.(map[string]any)["ports"]) {
			require.True(t, strings.HasPrefix(port.(string), "127.0.0.1:"), "%s is open to the network: %v", name, port)
		}
	}
}

func anyList(value any) []any {
	list, _ := value.([]any)
	return list
}

// TestUnit checks the systemd unit: by systemd where it is installed, and that the server starts with the settings that
// the example begins.
func TestUnit(t *testing.T) {
	t.Parallel()
	unit := readDocument(t, "deploy/decree.service")
	var environ []string
	for _, match := range regexp.MustCompile(`(?m)^Environment=(.*)$`).FindAllStringSubmatch(unit, -1) {
		environ = append(environ, match[1])
	}
	require.NotEmpty(t, environ)
	example := readDocument(t, "deploy/decree.env.example")
	_, err := parseConfig(t.Context(), nil, environ, io.Discard)
	require.ErrorContains(t, err, "API key", "nobody gets a key that others know")
	for name, value := range settings(t, strings.ReplaceAll(example, "\n#DECREE_", "\nDECREE_")) {
		if value == "" {
			value = "value of " + name
		}
		environ = append(environ, name+"="+value)
	}
	_, err = parseConfig(t.Context(), nil, environ, io.Discard)
	require.NoError(t, err)

	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed: systemd has not read the unit")
	}
	// It wants the program to be there.
	file := filepath.Join(t.TempDir(), "decree.service")
	unit = strings.ReplaceAll(unit, "ExecStart=/usr/local/bin/decree\n", "ExecStart="+buildDecree(t)+"\n")
	require.NoError(t, os.WriteFile(file, []byte(unit), 0o600))
	output, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput()
	require.NoError(t, err, "%s", output)
	for line := range strings.Lines(string(output)) {
		require.NotContains(t, line, "decree.service", "systemd does not like the unit")
	}
}

// readDockerfile returns the instructions of a Dockerfile, stage by stage, and checks that they are such as both have.
func readDockerfile(t *testing.T, path string) (stages [][]string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	continued := regexp.MustCompile(`\\\n\s*`).ReplaceAllString(string(text), " ")
	names := map[string]bool{}
	for line := range strings.Lines(continued) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		require.Contains(t, []string{"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"},
			fields[0])
		if fields[0] == "FROM" {
			stages = append(stages, nil)
			if len(fields) > 2 && fields[len(fields)-2] == "AS" {
				names[fields[len(fields)-1]] = true
			}
		}
		require.NotEmpty(t, stages, "%s is before any stage", line)
		stages[len(stages)-1] = append(stages[len(stages)-1], line)
		for _, field := range fields {
			if from, found := strings.CutPrefix(field, "--from="); found {
				require.True(t, names[from], line)
			}
		}
	}
	return stages
}

// prebuilt is the Dockerfile for files that are there already.
const prebuilt = "../../docs/deploy/Dockerfile"

// TestDockerfile checks what an engine would only tell where there is one.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	stages := readDockerfile(t, "../../Dockerfile")
	last := stages[len(stages)-1]
	for _, needed := range []string{
		"FROM scratch", "USER 65532:65532", "VOLUME /data", "ENV DECREE_STORAGE_DSN=/data/decree.db", "EXPOSE 9002",
		`ENTRYPOINT ["/decree"]`,
	} {
		require.Contains(t, last, needed)
	}
	require.Regexp(t, `HEALTHCHECK .* CMD \["/decree", "health"\]`, strings.Join(last, "\n"))

	// The other one makes the same of files that are there, with nothing that an old builder does not know.
	others := readDockerfile(t, prebuilt)
	require.Len(t, others, 1)
	same := strings.NewReplacer("--from=compiled ", "", "/image/", "").Replace(strings.Join(last, "\n"))
	require.Equal(t, same, strings.Join(others[0], "\n"))
	require.NotContains(t, same, "--from")
	require.NotContains(t, same, "--platform")
	require.NotContains(t, same, "$")

	// What the build copies from the checkout must not be left out of what the engine gets.
	ignore, err := os.ReadFile("../../.dockerignore")
	require.NoError(t, err)
	for _, needed := range []string{"LICENSE", "docs/NOTICE", "go.mod", "go.sum", "cmd"} {
		require.Contains(t, string(ignore), "\n!"+needed+"\n")
	}
	for _, name := range programDirectories(t) {
		require.Contains(t, string(ignore), "\n!"+name+"\n", "the program is built from it")
	}
}

// programDirectories are the directories at the top that packages of the program are in.
func programDirectories(t *testing.T) (directories []string) {
	t.Helper()
	const module = "github.com/decree-ddm/decree/"
	output, err := exec.Command("go", "list", "-deps", "./").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(output)) {
		if path, ours := strings.CutPrefix(strings.TrimSpace(line), module); ours {
			directory, _, _ := strings.Cut(path, "/")
			directories = append(directories, directory)
		}
	}
	require.NotEmpty(t, directories)
	return directories
}

// TestImageFiles checks what tools/image.sh puts into the image, which needs no engine.
func TestImageFiles(t *testing.T) {
	t.Parallel()
	needProgram(t, "bash")
	script, err := filepath.Abs("../../tools/image.sh")
	require.NoError(t, err)
	directory := filepath.Join(t.TempDir(), "image")
	authorities := filepath.Join(t.TempDir(), "authorities.pem")
	require.NoError(t, os.WriteFile(authorities, []byte("certificates\n"), 0o600))
	cmd := exec.Command("bash", script)
	cmd.Env = append(os.Environ(), "ENGINE=none", "VERSION="+builtVersion, "DIRECTORY="+directory, "CERTIFICATES="+authorities)
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	for file, mode := range map[string]os.FileMode{
		"decree": 0o755, "data": 0o755 | os.ModeDir, "etc/ssl/certs/ca-certificates.crt": 0o644, "licenses/LICENSE": 0o644,
		"licenses/NOTICE": 0o644,
	} {
		information, err := os.Stat(filepath.Join(directory, file))
		require.NoError(t, err)
		require.Equal(t, mode, information.Mode(), file)
	}
	requireImageFiles(t, directory)

	// What is in a directory already is somebody's.
	kept := filepath.Join(directory, "kept")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	for _, taken := range []string{directory, kept} {
		again := exec.Command("bash", script)
		again.Env = append(os.Environ(), "ENGINE=none", "DIRECTORY="+taken, "CERTIFICATES="+authorities)
		output, err := again.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(output), taken+" is not an empty directory")
		require.FileExists(t, kept)
	}
}

// requireImageFiles checks that everything is there that the Dockerfile copies.
func requireImageFiles(t *testing.T, directory string) {
	t.Helper()
	copied := 0
	for _, line := range readDockerfile(t, prebuilt)[0] {
		if fields := strings.Fields(line); fields[0] == "COPY" {
			_, err := os.Stat(filepath.Join(directory, fields[len(fields)-2]))
			require.NoError(t, err)
			copied++
		}
	}
	require.Equal(t, 4, copied)
	require.FileExists(t, filepath.Join(directory, "etc/ssl/certs/ca-certificates.crt"))
}
