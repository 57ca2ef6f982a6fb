package sqlite

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/checker"
	"github.com/decree-ddm/decree/storage/sqlstore"
	"github.com/decree-ddm/decree/storage/storagetest"
)

// drawReport draws a report of any shape: keys with dots in them, items that change their type, lists of all kinds.
func drawReport(t *rapid.T) string {
	scalar := rapid.SampledFrom([]any{1, "1", nil, true, "", 1.5})
	name := rapid.SampledFrom([]string{"a", "b", "a.b", "c", strings.Repeat("l", 120), strings.Repeat("l", 300)})
	var value func(depth int) any
	list := func() any {
		elements := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			element := map[string]any{"identifier": rapid.SampledFrom([]string{"i", "j", "0000000"}).Draw(t, "id")}
			switch rapid.IntRange(0, 4).Draw(t, "element") {
			case 0:
				element["_removed"] = true
			case 1:
				elements = append(elements, scalar.Draw(t, "scalar"))
				continue
			default:
				element["value"] = scalar.Draw(t, "value")
			}
			elements = append(elements, element)
		}
		return elements
	}
	value = func(depth int) any {
		switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); {
		case kind == 0 && depth > 0:
			object := map[string]any{}
			for range rapid.IntRange(0, 3).Draw(t, "members") {
				object[name.Draw(t, "name")] = value(depth - 1)
			}
			return object
		case kind == 1:
			return list()
		}
		return scalar.Draw(t, "scalar")
	}
	items := map[string]any{}
	for range rapid.IntRange(0, 3).Draw(t, "items") {
		items[name.Draw(t, "item")] = value(2)
	}
	if rapid.Bool().Draw(t, "device") {
		items["device"] = map[string]any{"model": map[string]any{"identifier": scalar.Draw(t, "model")},
			"operating-system": map[string]any{"version": rapid.SampledFrom([]string{"26.1", "26.2"}).Draw(t, "version")}}
	}
	if rapid.Bool().Draw(t, "update") {
		update := map[string]any{}
		for range rapid.IntRange(0, 2).Draw(t, "update items") {
			members := map[string]any{}
			for range rapid.IntRange(0, 2).Draw(t, "update members") {
				members[rapid.SampledFrom([]string{"count", "reason", "os-version"}).Draw(t, "member")] = value(1)
			}
			update[rapid.SampledFrom([]string{"failure-reason", "pending-version", "other"}).Draw(t, "update item")] = members
		}
		items["softwareupdate"] = update
	}
	management := map[string]any{}
	if rapid.Bool().Draw(t, "capabilities") {
		management["client-capabilities"] = map[string]any{"supported-versions": list(),
			"supported-payloads": map[string]any{"status-items": list()}}
	}
	if rapid.Bool().Draw(t, "declares") {
		declarations := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "declarations") {
			declarations = append(declarations, map[string]any{
				"identifier": name.Draw(t, "declaration"), "server-token": rapid.SampledFrom([]string{"1", "2"}).Draw(t, "token"),
				"active": rapid.Bool().Draw(t, "active"), "valid": rapid.SampledFrom([]string{"valid", "invalid"}).Draw(t, "valid"),
				"reasons": []any{map[string]any{"code": rapid.SampledFrom([]string{"Error.Bad", "Info.Predicate"}).Draw(t, "code")}},
			})
		}
		management["declarations"] = map[string]any{"configurations": declarations}
	}
	items["management"] = management
	report := map[string]any{"StatusItems": items, "FullReport": rapid.IntRange(0, 3).Draw(t, "full") == 0}
	if rapid.Bool().Draw(t, "fails") {
		failed := []any{}
		for range rapid.IntRange(1, 4).Draw(t, "errors") {
			failed = append(failed, map[string]any{"StatusItem": name.Draw(t, "failed"),
				"Reasons": []any{map[string]any{"Code": rapid.SampledFrom([]string{"Error.X", "Error.Y"}).Draw(t, "reason")}}})
		}
		report["Errors"] = failed
	}
	text, err := json.Marshal(report)
	require.NoError(t, err)
	return string(text)
}

// TestCheckAgreesOnReports: whatever devices say, and however often they enroll again and leave, what was made of it when it
// came is what a check makes of it anew.
func TestCheckAgreesOnReports(t *testing.T) {
	t.Parallel()
	clock := storagetest.NewClock()
	store, err := Open(t.Context(), filepath.Join(t.TempDir(), "decree.db"),
		sqlstore.Options{NotifyDelay: -1, Clock: clock.Now, KeepReports: 4, KeepErrors: 2})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		id := fmt.Sprint("device-", run)
		var said []string
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			clock.Advance(time.Minute)
			row, _, err := store.Enrollment(t.Context(), id)
			require.NoError(t, err)
			if kind := rapid.IntRange(0, 9).Draw(t, "event"); kind < 3 {
				said = append(said, fmt.Sprint("event ", kind))
				_, err := store.ApplyEvent(t.Context(), storage.Event{
					Kind: storage.EventKind(kind), ID: id, At: clock.Now(), Tally: 1,
				}, storage.EventOptions{})
				require.NoError(t, err)
				continue
			}
			text := drawReport(t)
			said = append(said, text)
			report, err := ddm.ParseStatusReport([]byte(text))
			require.NoError(t, err)
			require.NoError(t, store.PutStatus(t.Context(), storage.ReceivedStatus{
				Raw: []byte(text), Report: report,
				Device: storage.DeviceUpdate{ID: id, Epoch: row.Epoch, Back: !row.LeftAt.IsZero()},
			}))
		}
		require.NoError(t, checker.Run(t.Context(), store, checker.Options{Found: func(finding checker.Finding) {
			require.Fail(t, "found", "%s after %s", finding, said)
		}}))
		_, err := store.DeleteEnrollment(t.Context(), id, storage.ChangeOptions{By: "key"})
		require.NoError(t, err)
	})
}

// TestCheckOfItemsThatWereNotKept: of a report with more errors than are kept, some are no problem, also when those that were
// kept are over.
func TestCheckOfItemsThatWereNotKept(t *testing.T) {
	t.Parallel()
	store, err := Open(t.Context(), filepath.Join(t.TempDir(), "decree.db"),
		sqlstore.Options{NotifyDelay: -1, KeepErrors: 1})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	for _, text := range []string{
		`{"FullReport":true,"StatusItems":{"n":1},"Errors":[{"StatusItem":"a"},{"StatusItem":"b"}]}`, `{"StatusItems":{"b":1}}`,
	} {
		report, err := ddm.ParseStatusReport([]byte(text))
		require.NoError(t, err)
		require.NoError(t, store.PutStatus(t.Context(), storage.ReceivedStatus{
			Raw: []byte(text), Report: report, Device: storage.DeviceUpdate{ID: "e"},
		}))
		require.NoError(t, checker.Run(t.Context(), store, checker.Options{Found: func(finding checker.Finding) {
			require.Fail(t, "found", "%s after %s", finding, text)
		}}))
	}
}
