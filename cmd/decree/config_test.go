package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFlags checks what is taken and what is refused, and that the refusal says what to do.
func TestFlags(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		args     []string
		environ  []string
		mentions []string // of the error; none: it is taken
	}{
		{"no key", nil, nil, []string{"-api KEY", "DECREE_API=KEY", "openssl rand"}},
		{"an empty key", []string{"-api", ""}, nil, []string{"-api KEY"}},
		{"a key", []string{"-api", "k"}, nil, nil},
		{"a key from the environment", nil, []string{"DECREE_API=k"}, nil},
		{"keys from a file", []string{"-api-keys", "f"}, nil, nil},
		{"no address", []string{"-api", "k", "-listen", ""}, nil, []string{"-listen is empty", ":9002"}},
		{"an empty variable for the address", []string{"-api", "k"}, []string{"DECREE_LISTEN="}, nil},
		{"a certificate", []string{"-api", "k", "-tls-cert", "c", "-tls-key", "k"}, nil, nil},
		{"a certificate without its key", []string{"-api", "k", "-tls-cert", "c"}, nil, []string{"-tls-cert", "-tls-key"}},
		{"a key without its certificate", []string{"-api", "k", "-tls-key", "c"}, nil, []string{"-tls-cert", "-tls-key"}},
		{"an unknown flag", []string{"-api", "k", "-frobnicate"}, nil, []string{"frobnicate"}},
		{"a flag without its value", []string{"-api"}, nil, []string{"-api"}},
		{"an argument", []string{"-api", "k", "serve"}, nil, []string{`"serve"`}},
		{"an unknown storage", []string{"-api", "k", "-storage", "mongo"}, nil, []string{`"mongo"`, "sqlite", "mysql"}},
		{"MySQL without a DSN", []string{"-api", "k", "-storage", "mysql"}, nil, []string{"-storage-dsn", "user:password@tcp("}},
		{"MySQL with one", []string{"-api", "k", "-storage", "mysql", "-storage-dsn", "u:p@tcp(h)/d"}, nil, nil},
		{"options", []string{"-api", "k", "-storage-options", "delete_errors=1,delete_status_reports=2"}, nil, nil},
		{"an unknown option", []string{"-api", "k", "-storage-options", "delete=1"}, nil, []string{"-storage-options", `"delete"`}},
		{"an option without number", []string{"-api", "k", "-storage-options", "delete_errors=x"}, nil, []string{`"delete_errors=x"`}},
		{"an option of nothing", []string{"-api", "k", "-storage-options", "delete_errors=0"}, nil, []string{`"delete_errors=0"`}},
		{"an empty option", []string{"-api", "k", "-storage-options", "delete_errors=1,"}, nil, []string{"-storage-options"}},
		{"an option from the environment", []string{"-api", "k"}, []string{"DECREE_STORAGE_OPTIONS=x"}, []string{"-storage-options"}},
		{"no key for NanoMDM", []string{"-api", "k", "-enqueue", "http://h/"}, nil, []string{"-enqueue-key"}},
		{"no URL of NanoMDM", []string{"-api", "k", "-enqueue-key", "x"}, nil, []string{"-enqueue"}},
		{"MicroMDM without its URL", []string{"-api", "k", "-micromdm"}, nil, []string{"-enqueue"}},
		{"an interval too short", []string{"-api", "k", "-notify-interval", "1s"}, nil, []string{"-notify-interval"}},
		{"an interval that is none", []string{"-api", "k", "-notify-interval", "6"}, nil, []string{"notify-interval"}},
		{"a delay below nothing", []string{"-api", "k", "-notify-delay", "-1s"}, nil, []string{"-notify-delay"}},
		{"no delay", []string{"-api", "k", "-notify-delay", "0"}, nil, nil},
		{"a rate below nothing", []string{"-api", "k", "-notify-rate", "-1"}, nil, []string{"-notify-rate"}},
		{"a batch of nobody", []string{"-api", "k", "-notify-batch", "0"}, nil, []string{"-notify-batch"}},
		{"a batch too large", []string{"-api", "k", "-notify-batch", "1001"}, nil, []string{"-notify-batch"}},
		{"no workers", []string{"-api", "k", "-notify-workers", "0"}, nil, []string{"-notify-workers"}},
		{"what leaving does", []string{"-api", "k", "-checkout-sets", "drop"}, nil, []string{`"drop"`, "keep", "remove"}},
		{"no such form of the log", []string{"-api", "k", "-log-format", "xml"}, nil, []string{`"xml"`, "text", "json"}},
		{"sets for all", []string{"-api", "k", "-enroll-sets", "base,more"}, nil, nil},
		{"sets by type", []string{"-api", "k", "-enroll-sets", "Device=base,User Enrollment (Device)=own"}, nil, nil},
		{"a set without name", []string{"-api", "k", "-enroll-sets", "base,"}, nil, []string{"-enroll-sets"}},
		{"a set of a type without name", []string{"-api", "k", "-enroll-sets", "=base"}, nil, []string{`"=base"`}},
		{"a set of no such type", []string{"-api", "k", "-enroll-sets", "Devise=base"}, nil, []string{`"Devise"`, "Device"}},
		{"events to a URL", []string{"-api", "k", "-event-url", "https://h/x?y=z", "-event-hmac-key", "x", "-keep-events", "1"}, nil, nil},
		{"no reports", []string{"-api", "k", "-keep-reports", "0"}, nil, []string{"-keep-reports"}},
		{"no errors", []string{"-api", "k", "-keep-errors", "-1"}, nil, []string{"-keep-errors"}},
		{"fewer versions than none", []string{"-api", "k", "-keep-versions", "-1"}, nil, []string{"-keep-versions"}},
		{"no changes", []string{"-api", "k", "-keep-changes", "0"}, nil, []string{"-keep-changes"}},
		{"no events", []string{"-api", "k", "-keep-events", "0"}, nil, []string{"-keep-events"}},
		{"events to a path", []string{"-api", "k", "-event-url", "/x"}, nil, []string{"-event-url", "https://"}},
		{"events to a host", []string{"-api", "k", "-event-url", "h:80"}, nil, []string{"-event-url", "https://"}},
		{"events to nobody", []string{"-api", "k", "-event-url", "http:///x"}, nil, []string{"-event-url"}},
		{"events by mail", []string{"-api", "k", "-event-url", "mailto:a@b"}, nil, []string{"-event-url"}},
		{"events to no URL", []string{"-api", "k", "-event-url", "http://h/%zz"}, nil, []string{"-event-url"}},
		{"a key for no events", []string{"-api", "k", "-event-hmac-key", "x"}, nil, []string{"-event-hmac-key", "-event-url"}},
		{"one key for all", []string{"-api", "k", "-webhook-hmac-key", "x", "-dm-verify-hmac-key", "x"}, nil,
			[]string{"-webhook-hmac-key", "-dm-verify-hmac-key"}},
		{"an origin", []string{"-api", "k", "-cors-origin", "https://console.example.com:8443"}, nil, nil},
		{"any origin", []string{"-api", "k", "-cors-origin", "*"}, nil, nil},
		{"an origin with a slash", []string{"-api", "k", "-cors-origin", "https://h/"}, nil, []string{"-cors-origin", `"https://h/"`}},
		{"an origin in capitals", []string{"-api", "k", "-cors-origin", "https://H"}, nil, []string{"-cors-origin", `"https://H"`}},
		{"an origin without scheme", []string{"-api", "k", "-cors-origin", "h.example.com"}, nil, []string{"-cors-origin", "https://"}},
		{"two origins", []string{"-api", "k", "-cors-origin", "https://a,https://b"}, nil, []string{"-cors-origin"}},
		{"no boolean", []string{"-api", "k", "-shard=maybe"}, nil, []string{"shard", "maybe"}},
		{"no boolean in the environment", []string{"-api", "k"}, []string{"DECREE_SHARD=maybe"}, []string{"-shard", `DECREE_SHARD="maybe"`}},
		{"no number in the environment", []string{"-api", "k"}, []string{"DECREE_KEEP_EVENTS=many", "DECREE_NOTIFY_DELAY=soon"},
			[]string{`DECREE_KEEP_EVENTS="many"`, `DECREE_NOTIFY_DELAY="soon"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var usage bytes.Buffer
			_, err := parseConfig(t.Context(), test.args, test.environ, &usage)
			if test.mentions == nil {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			for _, text := range test.mentions {
				require.Contains(t, err.Error()+usage.String(), text)
			}
		})
	}
}

// TestEnvironment checks that every flag can be given as an environment variable, and that the flag wins.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	defaults, err := parseConfig(t.Context(), []string{"-api", "k"}, nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, &config{
		listen: listenConfig{address: ":9002"}, apiKey: "k", storage: "sqlite", storageDSN: "decree.db", checkoutSets: "keep",
		notify: notifyConfig{interval: 6 * time.Hour, delay: 500 * time.Millisecond, batch: 100, workers: 4},
		events: eventConfig{keep: 100_000}, keepReports: 20, keepErrors: 50, keepChanges: 100_000, keepVersions: 20,
		logFormat: "text",
	}, defaults)

	environ := []string{
		"DECREE_LISTEN=127.0.0.1:1", "DECREE_LISTEN_DDM=127.0.0.1:2", "DECREE_LISTEN_METRICS=127.0.0.1:3",
		"DECREE_TLS_CERT=cert.pem", "DECREE_TLS_KEY=key.pem", "DECREE_API=from environment", "DECREE_API_KEYS=keys",
		"DECREE_ENQUEUE=http://h/v1/enqueue/",
		"DECREE_ENQUEUE_KEY=secret=with=signs", "DECREE_STORAGE=mysql", "DECREE_STORAGE_DSN=u:p@tcp(h:1)/d?x=y",
		"DECREE_STORAGE_OPTIONS=delete_errors=7", "DECREE_CORS_ORIGIN=https://o", "DECREE_DUMP_STATUS=-",
		"DECREE_MICROMDM=true", "DECREE_NOTIFY_INTERVAL=2h", "DECREE_NOTIFY_RATE=3", "DECREE_NOTIFY_BATCH=4",
		"DECREE_NOTIFY_WORKERS=5", "DECREE_NOTIFY_DELAY=0s", "DECREE_WEBHOOK_HMAC_KEY=webhook",
		"DECREE_ENROLL_SETS=Device=base,User=base-user", "DECREE_CHECKOUT_SETS=remove",
		"DECREE_KEEP_EVENTS=6", "DECREE_LOG_FORMAT=json", "DECREE_KEEP_REPORTS=8", "DECREE_KEEP_ERRORS=9",
		"DECREE_KEEP_CHANGES=10", "DECREE_KEEP_VERSIONS=11",
		"DECREE_EVENT_URL=https://h/e", "DECREE_EVENT_HMAC_KEY=event",
		"DECREE_DM_VERIFY_HMAC_KEY=verify", "DECREE_DM_SIGN_HMAC_KEY=sign",
		"DECREE_SHARD=true", "DECREE_DEBUG=1", "DECREE_VERSION=true", "DECREEX=1", "OTHER=x", "=",
	}
	got, err := parseConfig(t.Context(), nil, environ, io.Discard)
	require.NoError(t, err)
	require.Equal(t, &config{
		listen: listenConfig{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, tls: tlsConfig{"cert.pem", "key.pem"},
		apiKey: "from environment", apiKeys: "keys", enqueueURL: "http://h/v1/enqueue/",
		enqueueKey: "secret=with=signs", storage: "mysql", storageDSN: "u:p@tcp(h:1)/d?x=y",
		storageOptions: "delete_errors=7", corsOrigin: "https://o", dumpStatus: "-", shard: true, debug: true,
		microMDM: true, notify: notifyConfig{interval: 2 * time.Hour, rate: 3, batch: 4, workers: 5},
		webhookKey: "webhook", enrollSets: "Device=base,User=base-user", checkoutSets: "remove",
		events: eventConfig{keep: 6, url: "https://h/e", key: "event"}, dmVerifyKey: "verify", dmSignKey: "sign",
		keepReports: 8, keepErrors: 9, keepChanges: 10, keepVersions: 11, logFormat: "json",
	}, got)
	got, err = parseConfig(t.Context(), []string{"-api", "flag", "--storage=sqlite", "-storage-dsn", "f", "-shard=false"}, environ, io.Discard)
	require.NoError(t, err)
	require.Equal(t, "flag sqlite f", strings.Join([]string{got.apiKey, got.storage, got.storageDSN}, " "))
	require.False(t, got.shard)

	var empty []string
	new(config).flagSet(io.Discard).VisitAll(func(f *flag.Flag) { empty = append(empty, variableOf(f.Name)+"=") })
	got, err = parseConfig(t.Context(), []string{"-api", "k"}, empty, io.Discard)
	require.NoError(t, err)
	require.Equal(t, defaults, got, "what is empty is not given")

	var usage bytes.Buffer
	_, err = parseConfig(t.Context(), []string{"-h"}, environ, &usage)
	require.ErrorIs(t, err, flag.ErrHelp)
	new(config).flagSet(io.Discard).VisitAll(func(f *flag.Flag) { require.Contains(t, usage.String(), "-"+f.Name) })
	require.Contains(t, usage.String(), "DECREE_STORAGE_DSN")
	for _, secret := range []string{"from environment", "secret=with=signs", "u:p@"} {
		require.NotContains(t, usage.String(), secret, "the usage shows no values")
	}
}

// TestVersionFlag checks that -version prints the version and needs nothing else.
func TestVersionFlag(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-version"}, nil, &stdout, &stderr))
	require.Equal(t, version+"\n", stdout.String())
	require.Empty(t, stderr.String())
}

// TestCannotStart checks that what keeps the program from working ends it at once, with an error that says what it is.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, taken.Close()) })
	directory := t.TempDir()
	file := filepath.Join(directory, "file")
	require.NoError(t, os.WriteFile(file, []byte("this is no database, and long enough to be none"), 0o600))
	locked := filepath.Join(directory, "locked")
	require.NoError(t, os.Mkdir(locked, 0o500))

	type story struct {
		name     string
		args     []string
		mentions []string
	}
	stories := []story{
		{
			"nobody at MySQL's address", []string{"-storage", "mysql", "-storage-dsn", "user:secret@tcp(127.0.0.1:1)/decree"},
			[]string{"-storage mysql", "127.0.0.1:1", "connection refused"},
		},
		{"a DSN that is none", []string{"-storage", "mysql", "-storage-dsn", "user:secret"}, []string{"-storage mysql", "DSN"}},
		{
			"a DSN with a slash in the wrong place", []string{"-storage", "mysql", "-storage-dsn", "user:secret/decree"},
			[]string{"-storage mysql", "user:password@tcp(host:3306)/name"},
		},
		{
			"a DSN without database", []string{"-storage", "mysql", "-storage-dsn", "user:secret@tcp(127.0.0.1:1)/"},
			[]string{"-storage mysql", "database"},
		},
		{"no directory", []string{"-storage-dsn", filepath.Join(directory, "none", "decree.db")}, []string{"-storage sqlite", "none"}},
		{"a file as directory", []string{"-storage-dsn", filepath.Join(file, "decree.db")}, []string{"-storage sqlite", file}},
		{"a directory as file", []string{"-storage-dsn", directory}, []string{"-storage sqlite", directory}},
		{"no database", []string{"-storage-dsn", file}, []string{"-storage sqlite", file, "not a database"}},
		{
			"an address in use", []string{"-listen", taken.Addr().String()},
			[]string{"-listen: ", taken.Addr().String(), "address already in use"},
		},
		{"an address that is none", []string{"-listen", "nowhere"}, []string{"-listen: ", "nowhere"}},
		{"no address for the MDM", []string{"-listen-ddm", "127.0.0.1"}, []string{"-listen-ddm: ", "missing port"}},
		{"no port for metrics", []string{"-listen-metrics", "127.0.0.1:99999"}, []string{"-listen-metrics: ", "invalid port"}},
		{
			"a bad enqueue URL", []string{"-enqueue", "127.0.0.1/v1/enqueue/", "-enqueue-key", "secret"},
			[]string{"-enqueue", "http://127.0.0.1:9000/v1/enqueue/"},
		},
		{
			"a dump that cannot be written", []string{"-dump-status", filepath.Join(file, "x")},
			[]string{"-dump-status", file},
		},
	}
	if os.Geteuid() != 0 { // whom no directory keeps out
		stories = append(stories, story{
			"a directory that cannot be written", []string{"-storage-dsn", filepath.Join(locked, "decree.db")},
			[]string{"-storage sqlite", locked},
		})
	}
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var stdout, stderr bytes.Buffer
			start := time.Now()
			err := run(ctx, append([]string{"-api", "secret", "-listen", "127.0.0.1:0",
				"-storage-dsn", filepath.Join(t.TempDir(), "decree.db")}, story.args...), nil, &stdout, &stderr)
			require.Error(t, err)
			require.Less(t, time.Since(start), 10*time.Second)
			for _, text := range story.mentions {
				require.Contains(t, err.Error(), text)
			}
			require.NotContains(t, err.Error()+stdout.String()+stderr.String(), "secret")
		})
	}
}

// TestDumpStatus checks that -dump-status gets each report, a line each, also one that cannot be read.
func TestDumpStatus(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		file := filepath.Join(t.TempDir(), "reports")
		reports := []string{`{"StatusItems":{"x":1}}`, "{\n  \"StatusItems\": {\n    \"x\": 2\n  }\n}\n"}
		lines := `{"StatusItems":{"x":1}}` + "\n" + `{"StatusItems":{"x":2}}` + "\n" + `"no report\n{}"` + "\n"
		send := func(s *server) {
			for _, report := range reports {
				code, text := s.device("device", http.MethodPut, "/status", report)
				require.Equal(t, http.StatusOK, code, "%s", text)
			}
			code, _ := s.device("device", http.MethodPut, "/status", "no report\n{}")
			require.Equal(t, http.StatusBadRequest, code)
		}
		s := startDecree(t, append(flags, "-dump-status", file)...)
		send(s)
		s.restart()
		send(s)
		s.stop()
		dumped, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, lines+lines, string(dumped), "a restart adds to the file")
		information, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), information.Mode().Perm())

		var stdout bytes.Buffer
		config, err := parseConfig(t.Context(), append(flags, "-listen", "127.0.0.1:0", "-api", testKey, "-dump-status", "-"), nil, io.Discard)
		require.NoError(t, err)
		p, err := start(t.Context(), config, &stdout, io.Discard)
		require.NoError(t, err)
		send(&server{t: t, url: "http://" + p.sites.main.listener.Addr().String()})
		require.NoError(t, p.stop())
		require.Equal(t, lines, stdout.String())
	})
}

// TestCORSOrigin checks that the pages of -cors-origin may use the API, and without it none.
func TestCORSOrigin(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		for origin, more := range map[string][]string{
			"https://admin.example.com": {"-cors-origin", "https://admin.example.com"}, "": nil,
		} {
			s := startDecree(t, append(flags, more...)...)
			request, err := http.NewRequest(http.MethodGet, s.url+"/v1/sets", nil)
			require.NoError(t, err)
			request.SetBasicAuth("kmfddm", testKey)
			request.Header.Set("Origin", "https://admin.example.com")
			response, err := client.Do(request)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, http.StatusOK, response.StatusCode)
			require.Equal(t, origin, response.Header.Get("Access-Control-Allow-Origin"))
			s.stop()
		}
	})
}
