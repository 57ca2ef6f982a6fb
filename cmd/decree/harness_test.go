package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
)

// patience is how long tests wait for what must happen.
const patience = 30 * time.Second

const testKey = "a-key-for-tests"

// database makes the flags for a new database.
type database struct {
	name  string
	flags func(t testing.TB) []string
}

func databases() []database {
	return []database{
		{"SQLite", func(t testing.TB) []string {
			return []string{"-storage", "sqlite", "-storage-dsn", filepath.Join(t.TempDir(), "decree.db")}
		}},
		{"MySQL", func(t testing.TB) []string {
			return []string{"-storage", "mysql", "-storage-dsn", mysqltest.DSN(t)}
		}},
	}
}

// eachDatabase runs a test in parallel on every kind of database.
func eachDatabase(t *testing.T, test func(t *testing.T, flags []string)) {
	t.Parallel()
	for _, db := range databases() {
		t.Run(db.name, func(t *testing.T) {
			t.Parallel()
			test(t, db.flags(t))
		})
	}
}

// sameOnEachDatabase runs a story on every kind of database, and requires that all end alike.
func sameOnEachDatabase[Result any](t *testing.T, story func(t *testing.T, flags []string) Result) {
	t.Parallel()
	var mu sync.Mutex
	var results []Result
	t.Run("databases", func(t *testing.T) {
		for _, db := range databases() {
			t.Run(db.name, func(t *testing.T) {
				t.Parallel()
				result := story(t, db.flags(t))
				mu.Lock()
				defer mu.Unlock()
				results = append(results, result)
			})
		}
	})
	for _, result := range results {
		require.Equal(t, results[0], result, "on another database")
	}
}

// onMySQL reports whether the flags are for a database that several servers can share.
func onMySQL(flags []string) bool { return slices.Contains(flags, "mysql") }

// server is a running Decree, and a client of its API.
type server struct {
	t        testing.TB
	args     []string
	url      string
	program  *program
	dmKey    string  // that devices' requests are signed with, if any
	database *sql.DB // the same that the program uses
}

// startDecree starts the program as main does, on a port of its own.
func startDecree(t testing.TB, flags ...string) *server {
	t.Helper()
	s := &server{t: t, args: append([]string{"-listen", "127.0.0.1:0", "-api", testKey}, flags...)}
	config := s.start()
	t.Cleanup(s.stop)
	s.database = openDatabase(t, config)
	return s
}

// openDatabase opens the database of a Decree beside it.
func openDatabase(t testing.TB, config *config) *sql.DB {
	t.Helper()
	dsn := config.storageDSN
	if config.storage == "sqlite" {
		dsn = "file:" + dsn + "?_pragma=busy_timeout(10000)"
	}
	database, err := sql.Open(config.storage, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, database.Close()) })
	return database
}

func (s *server) start() *config {
	s.t.Helper()
	logs := io.Discard
	if testing.Verbose() {
		logs = testLog{s.t}
	}
	config, err := parseConfig(s.t.Context(), s.args, nil, io.Discard)
	require.NoError(s.t, err)
	p, err := start(context.Background(), config, io.Discard, logs)
	require.NoError(s.t, err)
	s.program, s.url = p, "http://"+p.sites.main.listener.Addr().String()
	s.dmKey = config.dmVerifyKey
	return config
}

// restart stops the program and starts it again, on another port.
func (s *server) restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

// stop stops the program; further calls do nothing.
func (s *server) stop() {
	if s.program != nil {
		require.NoError(s.t, s.program.stop())
		s.program = nil
	}
}

type testLog struct{ t testing.TB }

func (l testLog) Write(line []byte) (int, error) {
	l.t.Log(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}

// do sends a request to the API and returns the answer.
func (s *server) do(method, path, body string) (int, []byte) {
	s.t.Helper()
	request, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	request.SetBasicAuth("kmfddm", testKey)
	return s.send(request)
}

func (s *server) send(request *http.Request) (int, []byte) {
	s.t.Helper()
	code, text, err := exchange(request)
	require.NoError(s.t, err)
	return code, text
}

// client keeps enough connections for tests with many requests at once.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: patience}

// exchange sends a request and reads the answer. Any goroutine may call it.
func exchange(request *http.Request) (int, []byte, error) {
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

// change sends a request that must change something.
func (s *server) change(method, path, body string) {
	s.t.Helper()
	code, text := s.do(method, path, body)
	require.Equal(s.t, http.StatusNoContent, code, "%s %s: %s", method, path, text)
}

// get decodes what the API answers.
func (s *server) get(path string, into any) {
	s.t.Helper()
	code, text := s.do(http.MethodGet, path, "")
	require.Equal(s.t, http.StatusOK, code, "GET %s: %s", path, text)
	require.NoError(s.t, json.Unmarshal(text, into))
}

// device sends a device's request as an MDM would.
func (s *server) device(enrollmentID, method, path, body string) (int, []byte) {
	s.t.Helper()
	request, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	request.Header.Set("X-Enrollment-ID", enrollmentID)
	request.Header.Set("X-Enrollment-Type", "Device")
	s.sign(request, body)
	return s.send(request)
}

// sign signs a device's request as NanoMDM would.
func (s *server) sign(request *http.Request, body string) {
	if s.dmKey != "" {
		request.Header.Set(edge.SignatureHeader, edge.Signature(s.dmKey, []byte(body)))
	}
}

func (s *server) putDeclaration(identifier, declarationType, payload string) {
	s.t.Helper()
	s.change(http.MethodPut, "/v1/declarations", declarationJSON(identifier, declarationType, payload))
}

func declarationJSON(identifier, declarationType, payload string) string {
	return fmt.Sprintf(`{"Identifier":%q,"Type":%q,"Payload":%s}`, identifier, declarationType, payload)
}

// putTest puts a test configuration that echoes a text.
func (s *server) putTest(identifier, echo string) {
	s.t.Helper()
	s.putDeclaration(identifier, "com.apple.configuration.management.test", fmt.Sprintf(`{"Echo":%q}`, echo))
}

// escape makes a name one segment of a path, or one value of a query.
func escape(name string) string { return strings.ReplaceAll(url.QueryEscape(name), "+", "%20") }

func (s *server) addToSet(set, identifier string) {
	s.t.Helper()
	s.change(http.MethodPut, "/v1/set-declarations/"+escape(set)+"?declaration="+escape(identifier), "")
}

func (s *server) assign(enrollmentID, set string) {
	s.t.Helper()
	s.change(http.MethodPut, "/v1/enrollment-sets/"+escape(enrollmentID)+"?set="+escape(set), "")
}

// token is the DeclarationsToken of an enrollment, asked for without a trace.
func (s *server) token(enrollmentID string) string {
	s.t.Helper()
	var tokens struct {
		SyncTokens struct{ DeclarationsToken string }
	}
	s.observe(enrollmentID, "/tokens", &tokens)
	return tokens.SyncTokens.DeclarationsToken
}

// observe decodes what a device would get.
func (s *server) observe(enrollmentID, path string, into any) {
	s.t.Helper()
	request, err := http.NewRequest(http.MethodGet, s.url+path, nil)
	require.NoError(s.t, err)
	request.Header.Set("X-Enrollment-ID", enrollmentID)
	request.Header.Set("X-Decree-Observe", "1")
	s.sign(request, "")
	code, text := s.send(request)
	require.Equal(s.t, http.StatusOK, code, "GET %s: %s", path, text)
	require.NoError(s.t, json.NewDecoder(bytes.NewReader(text)).Decode(into))
}

// manifest is what a device would get as its declaration items.
func (s *server) manifest(enrollmentID string) (token string, items []ddm.Item) {
	s.t.Helper()
	var raw json.RawMessage
	s.observe(enrollmentID, "/declaration-items", &raw)
	var manifest struct{ DeclarationsToken string }
	require.NoError(s.t, json.Unmarshal(raw, &manifest))
	items, err := ddm.ParseDeclarationItems(raw)
	require.NoError(s.t, err)
	return manifest.DeclarationsToken, items
}

// enrollment is what the API says of an enrollment.
type enrollment struct {
	Type         string   `json:"type"`
	ParentID     string   `json:"parent_id"`
	Sets         []string `json:"sets"`
	InSync       bool     `json:"in_sync"`
	Held         bool     `json:"held"`
	DesiredToken string   `json:"desired_token"`
	FetchedToken string   `json:"fetched_token"`
	SyncedToken  string   `json:"synced_token"`
	NotifyAt     string   `json:"notify_at"`
}

func (s *server) enrollment(id string) enrollment {
	s.t.Helper()
	var e enrollment
	s.get("/v1/enrollments/"+id, &e)
	return e
}

// waitInSync waits until an enrollment has what it should have and nothing is due for it.
func (s *server) waitInSync(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		s.eventually(func() bool {
			e := s.enrollment(id)
			return e.InSync && e.NotifyAt == ""
		}, "enrollment %s in sync", id)
	}
}

// eventually polls a condition.
func (s *server) eventually(condition func() bool, format string, arguments ...any) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		require.True(s.t, time.Now().Before(deadline), append([]any{"waited too long for " + format}, arguments...)...)
		time.Sleep(10 * time.Millisecond)
	}
}

// waitIdle waits until the enrollments are in sync, and nothing is on its way that could tell them.
func (s *server) waitIdle(ids ...string) {
	s.t.Helper()
	s.waitInSync(ids...)
	s.eventually(func() bool {
		return s.count(`SELECT COUNT(*) FROM fanouts`) == 0 &&
			s.count(`SELECT COUNT(*) FROM enrollments WHERE notify_at IS NOT NULL`) == 0
	}, "an empty queue")
}

// waitFanouts waits until all who may have to be told are marked.
func (s *server) waitFanouts() {
	s.t.Helper()
	s.eventually(func() bool { return s.count(`SELECT COUNT(*) FROM fanouts`) == 0 }, "the fan-outs")
}

// count asks the database itself.
func (s *server) count(query string) (n int) {
	s.t.Helper()
	require.NoError(s.t, s.database.QueryRow(query).Scan(&n))
	return n
}

// check requires that decree check finds nothing in the database, whatever is under way.
func (s *server) check() {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	err := run(context.Background(), append([]string{"check"}, storageArguments(s.args)...), nil, &stdout, &stderr)
	require.NoError(s.t, err, "%s%s", stdout.String(), stderr.String())
}

// storageArguments picks the flags that say which database, out of a server's.
func storageArguments(arguments []string) (picked []string) {
	for i, argument := range arguments {
		switch argument {
		case "-storage", "-storage-dsn":
			picked = append(picked, argument, arguments[i+1])
		case "-shard":
			picked = append(picked, argument)
		}
	}
	return picked
}

// content is everything in the database, a text for each row.
func (s *server) content() []string {
	s.t.Helper()
	var content []string
	for _, table := range []string{
		"declarations", "declaration_versions", "declaration_references", "sets", "set_declarations", "enrollments",
		"enrollment_sets", "manifests", "fanouts", "changes", "change_fanouts", "status_reports", "status_declarations", "status_values", "status_errors",
	} {
		rows, err := s.database.Query(`SELECT * FROM ` + table)
		require.NoError(s.t, err)
		columns, err := rows.Columns()
		require.NoError(s.t, err)
		for rows.Next() {
			values := make([]sql.NullString, len(columns))
			pointers := make([]any, len(columns))
			for i := range values {
				pointers[i] = &values[i]
			}
			require.NoError(s.t, rows.Scan(pointers...))
			for i, column := range columns {
				if strings.HasPrefix(column, "sync_") && column != "sync_changed_at" {
					values[i] = sql.NullString{} // the log's, which is written in the background
				}
			}
			content = append(content, fmt.Sprintf("%s %v", table, values))
		}
		require.NoError(s.t, rows.Err())
		require.NoError(s.t, rows.Close())
	}
	slices.Sort(content)
	return content
}
