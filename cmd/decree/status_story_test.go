package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// report sends a status report of a device, which must be taken.
func (s *server) report(id, report string) {
	s.t.Helper()
	code, text := s.device(id, http.MethodPut, "/status", report)
	require.Equal(s.t, http.StatusOK, code, "%s", text)
	require.Empty(s.t, text)
}

// statusValues returns what is known of a device: the values by path, sorted.
func (s *server) statusValues(id, prefix string) map[string][]string {
	s.t.Helper()
	var answer map[string][]struct{ Path, Value, Timestamp, StatusID string }
	s.get("/v1/status-values/"+id+"?prefix="+escape(prefix), &answer)
	values := map[string][]string{}
	for _, v := range answer[id] {
		path := strings.TrimPrefix(v.Path, ".StatusItems.")
		values[path] = append(values[path], v.Value)
	}
	for _, list := range values {
		slices.Sort(list)
	}
	return values
}

// TestStatusStory is the life of a device as it tells it, read through the endpoints that KMFDDM's clients use.
func TestStatusStory(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		const id = "DEVICE"
		s := startDecree(t, append(flags, "-keep-reports", "5", "-keep-errors", "3")...)
		s.putTest("test.a", "first")
		s.addToSet("base", "test.a")
		s.assign(id, "base")
		var declaration struct{ ServerToken string }
		s.get("/v1/declarations/test.a", &declaration)
		declared := func(token, valid, reasons string) string {
			return fmt.Sprintf(`"management":{"declarations":{"configurations":[{"identifier":"test.a","server-token":%q,
				"active":true,"valid":%q,"reasons":%s}]}}`, token, valid, reasons)
		}

		// The first report has everything.
		s.report(id, `{"FullReport":true,"StatusItems":{`+declared(declaration.ServerToken, "valid", "[]")+`,
			"device":{"operating-system":{"family":"iOS","version":"17.0"},"identifier":{"serial-number":"S"}},
			"mdm":{"app":[{"identifier":"com.a","state":"managed"},{"identifier":"com.b","state":"managed"}]},
			"passcode":{"is-present":true},"future":{"family":[1,2]}}}`)
		require.Equal(t, map[string][]string{
			"device.operating-system.family": {"iOS"}, "device.operating-system.version": {"17.0"},
			"device.identifier.serial-number": {"S"}, "passcode.is-present": {"true"}, "future.family": {"1", "2"},
			"mdm.app": {`{"identifier":"com.a","state":"managed"}`, `{"identifier":"com.b","state":"managed"}`},
		}, s.statusValues(id, ""))
		var statuses map[string][]map[string]any
		s.get("/v1/declaration-status/"+id, &statuses)
		require.Len(t, statuses[id], 1)
		require.Equal(t, []string{"active", "current", "identifier", "reasons", "server-token", "status_id", "status_received", "valid"},
			slices.Sorted(maps.Keys(statuses[id][0])))
		require.Equal(t, true, statuses[id][0]["current"])

		// Increments: an update of the OS, an app that comes and one that goes.
		s.report(id, `{"StatusItems":{"device":{"operating-system":{"version":"17.1"}}}}`)
		require.Equal(t, map[string][]string{"device.operating-system.version": {"17.1"}},
			s.statusValues(id, ".StatusItems.device.operating-system.version"), "17.0 is gone")
		s.report(id, `{"StatusItems":{"mdm":{"app":[{"identifier":"com.c","state":"managed"},{"identifier":"com.a","_removed":true}]}}}`)
		require.Equal(t, []string{`{"identifier":"com.b","state":"managed"}`, `{"identifier":"com.c","state":"managed"}`},
			s.statusValues(id, "%app")["mdm.app"])
		s.get("/v1/declaration-status/"+id, &statuses)
		require.Len(t, statuses[id], 1, "what a report does not speak of stays")

		// An error, and its recovery.
		s.report(id, `{"StatusItems":{`+declared(declaration.ServerToken, "invalid", `[{"code":"Error.Bad","description":"no"}]`)+`},
			"Errors":[{"StatusItem":"mdm.app","Reasons":[{"Code":"Error.Timeout"}]}]}`)
		var errors map[string][]struct {
			Path  string
			Error map[string]any
		}
		s.get("/v1/status-errors/"+id, &errors)
		require.Len(t, errors[id], 2)
		require.Equal(t, ".Errors", errors[id][0].Path)
		require.Equal(t, "mdm.app", errors[id][0].Error["StatusItem"])
		require.Equal(t, ".StatusItems.management.declarations.configurations", errors[id][1].Path)
		s.report(id, `{"StatusItems":{`+declared(declaration.ServerToken, "valid", "[]")+`,"mdm":{"app":[]}}}`)
		s.get("/v1/declaration-status/"+id, &statuses)
		require.Equal(t, "valid", statuses[id][0]["valid"])
		require.Len(t, s.statusValues(id, "%app")["mdm.app"], 2, "no app has changed")

		// A full report drops what it does not have.
		s.report(id, `{"StatusItems":{"FullReport":true,"device":{"operating-system":{"version":"17.2"}}}}`)
		require.Equal(t, map[string][]string{"device.operating-system.version": {"17.2"}}, s.statusValues(id, ""))

		// History is bounded.
		for i := range 5 {
			s.report(id, fmt.Sprintf(`{"StatusItems":{"n":%d},"Errors":[{"n":%d}]}`, i, i))
		}
		code, _ := s.do(http.MethodGet, "/v1/status-report/"+id+"?index=4", "")
		require.Equal(t, http.StatusOK, code)
		code, _ = s.do(http.MethodGet, "/v1/status-report/"+id+"?index=5", "")
		require.Equal(t, http.StatusNotFound, code)
		s.get("/v1/status-errors/"+id+"?limit=100", &errors)
		require.Len(t, errors[id], 3)
		s.requireFacts(id, map[string]any{"os_version": "17.2"})
	})
}

// requireFacts checks what is known of an enrollment by name.
func (s *server) requireFacts(id string, facts map[string]any) {
	s.t.Helper()
	var enrollment struct{ Facts map[string]any }
	s.get("/v1/enrollments/"+id, &enrollment)
	require.Equal(s.t, facts, enrollment.Facts)
}

// TestLargeStatus checks that a large report full of surprises is known whole, and that what goes too far is refused.
func TestLargeStatus(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		const id = "DEVICE"
		s := startDecree(t, flags...)
		certificates := make([]string, 2000)
		for i := range certificates {
			certificates[i] = fmt.Sprintf(`{"identifier":"%d","data":%q}`, i, strings.Repeat("Q", 2200))
		}
		long := strings.Repeat(`x\"é`, 15<<10)
		report := `{"StatusItems":{"security":{"certificate":{"list":[` + strings.Join(certificates, ",") + `]}},
			"device":{"long":"` + long + `","operating-system":{"version":15.1},"model":{"identifier":null},
			"identifier":{"serial-number":["odd"]}},"never-heard-of":{"a":{"b":[null,{"c":1},[]]},"n":null},
			"text":"` + strings.Repeat("z", 700<<10) + `"},"Unknown":{"top":["level"]},"FullReport":"odd"}`
		require.Greater(t, len(report), 5<<20)
		s.report(id, report)
		values := s.statusValues(id, "")
		require.Len(t, values["security.certificate.list"], 2000)
		require.Equal(t, strings.ReplaceAll(long, `\"`, `"`), values["device.long"][0])
		require.Equal(t, []string{"15.1"}, values["device.operating-system.version"])
		require.Equal(t, []string{"[]", "null", `{"c":1}`}, values["never-heard-of.a.b"])
		require.Equal(t, []string{"null"}, values["never-heard-of.n"])
		require.Len(t, values["text"][0], 700<<10)
		s.requireFacts(id, map[string]any{"os_version": "15.1"})
		code, text := s.do(http.MethodGet, "/v1/status-report/"+id, "")
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, report, string(text))

		for _, c := range []struct {
			name, report string
			code         int
		}{
			{"too deep", `{"StatusItems":` + strings.Repeat(`{"a":`, 10_000) + `1` + strings.Repeat(`}`, 10_000) + `}`, http.StatusBadRequest},
			{"too deep, in lists", `{"Errors":` + strings.Repeat(`[`, 100_000) + strings.Repeat(`]`, 100_000) + `}`, http.StatusBadRequest},
			{"too large", `{"StatusItems":{"a":"` + strings.Repeat("x", 17<<20) + `"}}`, http.StatusRequestEntityTooLarge},
			{"no JSON", `{"StatusItems":`, http.StatusBadRequest},
		} {
			code, text := s.device(id, http.MethodPut, "/status", c.report)
			require.Equal(t, c.code, code, c.name)
			var problem struct{ Error string }
			require.NoError(t, json.Unmarshal(text, &problem), c.name)
			require.NotEmpty(t, problem.Error)
			require.Less(t, len(text), 1000)
		}
		require.Len(t, s.statusValues(id, "")["security.certificate.list"], 2000, "nothing is half done")
	})
}

// foldState is what a device says again and again in this story: everything has the same letter.
func foldState(letter string) string {
	values, declarations := make([]string, 100), make([]string, 40)
	for i := range values {
		values[i] = fmt.Sprintf(`"v%d":%q`, i, letter)
	}
	for i := range declarations {
		declarations[i] = fmt.Sprintf(`{"identifier":"d%d","server-token":%q,"active":true,"valid":"valid"}`, i, letter)
	}
	return fmt.Sprintf(`{"StatusItems":{"test":{%s},"device":{"model":{"identifier":%q}},
		"management":{"declarations":{"configurations":[%s]}}}}`, strings.Join(values, ","), letter, strings.Join(declarations, ","))
}

// requireOneState checks that a device is known in one state: the one that its newest report says.
func (s *server) requireOneState(id string) {
	s.t.Helper()
	var newest struct {
		StatusItems struct{ Test map[string]string }
	}
	s.get("/v1/status-report/"+id, &newest)
	letter := newest.StatusItems.Test["v0"]
	values := s.statusValues(id, "%.test.%")
	require.Len(s.t, values, 100)
	for path, value := range values {
		require.Equal(s.t, []string{letter}, value, path)
	}
	var statuses map[string][]struct {
		ServerToken string `json:"server-token"`
	}
	s.get("/v1/declaration-status/"+id, &statuses)
	require.Len(s.t, statuses[id], 40)
	for _, status := range statuses[id] {
		require.Equal(s.t, letter, status.ServerToken)
	}
	s.requireFacts(id, map[string]any{"model": letter})
}

// TestKillWhileFolding kills servers while devices report, and checks that each device is known in a state that it was in,
// the one of the newest report that is kept. Where several servers can share a database, the reports of one device go to
// two at once.
func TestKillWhileFolding(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		servers := 1
		if onMySQL(flags) {
			servers = 2
		}
		processes := make([]*process, servers)
		for i := range processes {
			processes[i] = startBinary(t, flags...)
		}
		for kill := range 6 {
			urls := make([]*server, servers)
			for i, p := range processes {
				urls[i] = p.server()
			}
			var group sync.WaitGroup
			var taken [4]atomic.Int64
			for device := range taken {
				for r, to := range urls {
					group.Go(func() {
						for n := 0; ; n++ {
							request, err := http.NewRequest(http.MethodPut, to.url+"/status",
								strings.NewReader(foldState(string(rune('A'+(n+13*r)%26)))))
							if err != nil {
								t.Error(err)
								return
							}
							request.Header.Set("X-Enrollment-ID", fmt.Sprint("device-", device))
							code, text, err := exchange(request)
							if err != nil {
								return // it is gone
							}
							if code != http.StatusOK {
								t.Errorf("%d: %s", code, text)
								return
							}
							taken[device].Add(1)
						}
					})
				}
			}
			until := time.Now().Add(150*time.Millisecond + time.Duration(kill)*37*time.Millisecond)
			urls[0].eventually(func() bool {
				for i := range taken {
					if taken[i].Load() == 0 {
						return false
					}
				}
				return time.Now().After(until)
			}, "some reports")
			for _, p := range processes {
				p.kill()
			}
			group.Wait()
			for i := range processes {
				processes[i] = startBinary(t, flags...)
			}
			s := processes[kill%servers].server()
			for device := range 4 {
				s.requireOneState(fmt.Sprint("device-", device))
			}
		}
	})
}
