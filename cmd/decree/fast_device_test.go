package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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
