package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// runCommand runs a command of decree as main does.
func runCommand(t *testing.T, environ []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errors bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = run(ctx, args, environ, &out, &errors)
	return out.String(), errors.String(), err
}

// TestHealthCommand checks what decree health says of servers in each state.
func TestHealthCommand(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, flags...)
		address := strings.TrimPrefix(s.url, "http://")
		for _, story := range []struct {
			name    string
			environ []string
			args    []string
		}{
			{"by the server's own variable", []string{"DECREE_LISTEN=" + address}, nil},
			{"every address", []string{"DECREE_LISTEN=" + address[strings.LastIndex(address, ":"):]}, nil},
			{"by flag", []string{"DECREE_LISTEN=:1"}, []string{"-listen", address}},
			{"another URL", []string{"DECREE_LISTEN=:1"}, []string{"-health-url", s.url + "/livez"}},
			{"another URL by its variable", []string{"DECREE_HEALTH_URL=" + s.url + "/version"}, nil},
		} {
			stdout, stderr, err := runCommand(t, story.environ, append([]string{"health"}, story.args...)...)
			require.NoError(t, err, story.name)
			require.Equal(t, "ok\n", stdout, story.name)
			require.Empty(t, stderr, story.name)
		}

		_, err := s.database.Exec(`DROP TABLE goose_db_version`)
		require.NoError(t, err)
		stdout, _, err := runCommand(t, nil, "health", "-listen", address)
		require.ErrorContains(t, err, "503")
		require.ErrorContains(t, err, "schema")
		require.Empty(t, stdout)
		_, _, err = runCommand(t, nil, "health", "-health-url", s.url+"/livez")
		require.NoError(t, err, "the process is there")

		s.stop()
		_, _, err = runCommand(t, nil, "health", "-listen", address)
		require.ErrorContains(t, err, "refused")
	})
}

// TestHealthCommandFails checks that what keeps decree health from asking is told.
func TestHealthCommandFails(t *testing.T) {
	t.Parallel()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	for _, story := range []struct {
		name     string
		environ  []string
		args     []string
		mentions []string
	}{
		{"an unknown flag", nil, []string{"health", "-frobnicate"}, []string{"frobnicate", "-health-url", "DECREE_HEALTH_URL"}},
		{"an argument", nil, []string{"health", "now"}, []string{`"now"`}},
		{"an unknown command", nil, []string{"frobnicate"}, []string{`"frobnicate"`, "decree -help"}},
		{"no URL", nil, []string{"health", "-health-url", "http://%zz"}, []string{"-health-url"}},
		{"no address", nil, []string{"health", "-listen", "nowhere"}, []string{"-listen", "nowhere", "-health-url"}},
		{"no port", []string{"DECREE_LISTEN=127.0.0.1:0"}, []string{"health"}, []string{"-listen", "-health-url"}},
		{"something else", nil, []string{"health", "-health-url", emptyServer(t)}, []string{"404"}},
		{"silence", nil, []string{"health", "-health-url", silent.URL}, []string{"deadline"}},
	} {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			stdout, stderr, err := runCommand(t, story.environ, story.args...)
			require.Error(t, err)
			require.Empty(t, stdout)
			require.Less(t, time.Since(begin), healthTimeout+10*time.Second)
			for _, text := range story.mentions {
				require.Contains(t, err.Error()+stderr, text)
			}
		})
	}
}

// emptyServer returns the URL of a server that has nothing at any path.
func emptyServer(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	return server.URL
}

func TestLocalAddress(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		":9002": "127.0.0.1:9002", "0.0.0.0:80": "127.0.0.1:80", "[::]:80": "127.0.0.1:80", "[::1]:80": "[::1]:80",
		"10.0.0.1:80": "10.0.0.1:80", "decree.example.com:80": "decree.example.com:80", ":http": "127.0.0.1:80",
		":0": "", "": "", "9002": "", ":no-such-service": "",
	} {
		got, err := localAddress(t.Context(), listen)
		require.Equal(t, want, got, listen)
		require.Equal(t, want == "", err != nil, listen)
	}
}

// TestHealthWithoutProxy checks that no proxy is asked, which would answer for a server that does not work.
func TestHealthWithoutProxy(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(proxy.Close)
	cmd := exec.Command(buildDecree(t), "health", "-listen", "decree.invalid:9002")
	cmd.Env = append(os.Environ(), "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=")
	probe := startProcess(t, cmd)
	<-probe.ended
	require.Equal(t, 1, cmd.ProcessState.ExitCode(), probe.stdout.String())
	require.Contains(t, probe.stderr.String(), "decree.invalid")
}
