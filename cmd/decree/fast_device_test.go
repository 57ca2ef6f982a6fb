package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFasterThanMDM checks that a device which has finished before the MDM server answers the request that told it is
// done with: nothing is due for it any more.
func TestFasterThanMDM(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		const id = "fast"
		var address atomic.Value
		var commands atomic.Int64
		mdm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			commands.Add(1)
			for _, path := range []string{"/declaration-items", "/declaration/configuration/test.a", "/tokens"} {
				if _, err := deviceGet(address.Load().(string), id, path); err != nil {
					t.Error(err)
				}
			}
			_, _ = fmt.Fprintf(w, `{"status":{%q:{"push_result":"x"}},"command_uuid":"x"}`, id)
		}))
		t.Cleanup(mdm.Close)
		s := startDecree(t, append(flags, "-enqueue", mdm.URL+"/v1/enqueue/", "-enqueue-key", "key")...)
		address.Store(s.url)
		s.putTest("test.a", "first")
		s.addToSet("base", "test.a")
		s.waitFanouts()
		s.assign(id, "base")
		s.waitIdle(id)
		require.EqualValues(t, 1, commands.Load())
	})
}

// TestResultFasterThanMDM checks that what a device makes of a command is known also when it says so before the MDM server
// answers the request that told it.
func TestResultFasterThanMDM(t *testing.T) {
	commandUUID := regexp.MustCompile(`<key>CommandUUID</key>\s*<string>([^<]+)</string>`)
	eachDatabase(t, func(t *testing.T, flags []string) {
		const id = "fast"
		var address atomic.Value
		mdm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			command, err := io.ReadAll(r.Body)
			uuid := commandUUID.FindSubmatch(command)
			if err != nil || uuid == nil {
				t.Errorf("what was enqueued: %q, %v", command, err)
				return
			}
			for _, other := range []string{string(uuid[1]), "of-somebody-else"} {
				event := fmt.Sprintf(`{"topic":"mdm.Connect","created_at":"2026-01-02T03:04:05Z","acknowledge_event":{
					"udid":%q,"status":"Error","command_uuid":%q,"raw_payload":""}}`, id, other)
				response, err := client.Post(address.Load().(string)+"/webhook", "application/json", strings.NewReader(event))
				if err != nil || response.StatusCode != http.StatusOK {
					t.Errorf("the event was not taken: %v, %v", response, err)
					return
				}
				_ = response.Body.Close()
			}
			_, _ = fmt.Fprintf(w, `{"status":{%q:{"push_result":"x"}},"command_uuid":%q}`, id, uuid[1])
		}))
		t.Cleanup(mdm.Close)
		s := startDecree(t, append(flags, "-enqueue", mdm.URL+"/v1/enqueue/", "-enqueue-key", "key")...)
		address.Store(s.url)
		s.putTest("test.a", "first")
		s.addToSet("base", "test.a")
		s.waitFanouts()
		s.assign(id, "base")
		s.eventually(func() bool {
			var detail struct {
				Steps struct{ Acknowledged struct{ Outcome string } }
			}
			s.get("/v1/enrollments/"+id, &detail)
			return detail.Steps.Acknowledged.Outcome == "Error"
		}, "the result to be known")
	})
}
