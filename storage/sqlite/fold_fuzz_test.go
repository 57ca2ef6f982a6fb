package sqlite

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// FuzzFold folds reports one after the other into what is known of one device: whatever can be read can be folded, and what
// is known of it is JSON.
func FuzzFold(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"StatusItems":{}}`, `{"StatusItems":{"a":1,"a.b":2,"":3,".":4}}`, `{"StatusItems":{"a":{"b":{}}},"FullReport":true}`,
		`{"StatusItems":{"mdm":{"app":[{"identifier":"a"},{"identifier":"a","_removed":true},{"identifier":""}]}}}`,
		`{"StatusItems":{"mdm":{"app":[]}}}`, `{"StatusItems":{"mdm":{"app":[1,[2],{"x":null}]}}}`,
		`{"StatusItems":{"device":{"operating-system":{"version":15}},"softwareupdate":{"install-state":[]}}}`,
		`{"StatusItems":{"management":{"declarations":{"configurations":[{"identifier":"d","server-token":"t","valid":"invalid",
			"reasons":[{"code":"Error.X"}]},{"identifier":"d","server-token":"t"},7]},"client-capabilities":{"supported-payloads":
			{"status-items":["a",1,null]},"supported-versions":["1"]}}},"Errors":[{"StatusItem":"mdm.app"},{"StatusItem":{}},null]}`,
		`{"Errors":[]}`, `{"Errors":[{"StatusItem":"\u0000","Reasons":[{"Code":"\ud800"}]}]}`,
	} {
		f.Add([]byte(seed))
	}
	store, err := Open(f.Context(), filepath.Join(f.TempDir(), "decree.db"), sqlstore.Options{})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, store.Close()) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		report, err := ddm.ParseStatusReport(raw)
		if err != nil {
			return
		}
		require.NoError(t, store.PutStatus(t.Context(), storage.ReceivedStatus{
			Raw: raw, Report: report, Device: storage.DeviceUpdate{ID: "e"},
		}))
		values, err := store.StatusValues(t.Context(), "e")
		require.NoError(t, err)
		for _, value := range values {
			require.True(t, json.Valid(value.Value), "%s: %q", value.Path, value.Value)
		}
		_, err = store.DeclarationStatuses(t.Context(), "e")
		require.NoError(t, err)
	})
}
