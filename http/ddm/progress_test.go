package ddm_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	protocol "github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// report is a status report that tells the state of these declarations.
func report(items []protocol.Item) string {
	var list []string
	for _, item := range items {
		list = append(list, fmt.Sprintf(`{"identifier":%q,"server-token":%q,"active":true,"valid":"valid"}`,
			item.Identifier, item.ServerToken))
	}
	return `{"StatusItems":{"management":{"declarations":{"activations":[],"assets":[],"management":[],"configurations":[` +
		strings.Join(list, ",") + `]}}},"Errors":[]}`
}

const incremental = `{"StatusItems":{"device":{"model":{"family":"Mac"}}},"Errors":[]}`

// TestProgress follows a device through a whole sync.
func TestProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a", "b")
	w.assign("E", "set")
	first := w.token("E")
	require.Equal(t, start, w.enrollment("E").NotifyAt)

	// tokens: it is told that there is something, and has a while to fetch it.
	w.ok("E", "/tokens")
	e := w.enrollment("E")
	require.Equal(t, first, e.AskedToken)
	require.Equal(t, first, e.DesiredToken)
	require.Equal(t, start, e.AskedAt)
	require.Equal(t, start.Add(15*time.Minute), e.NotifyAt)
	require.Empty(t, e.SyncedToken)
	require.Equal(t, start, e.LastSeen)
	require.Equal(t, "Device", e.Type)

	// Asked again, nothing is new; the quarter of an hour is from the first time.
	w.advance(time.Minute)
	w.ok("E", "/tokens")
	require.Equal(t, start, w.enrollment("E").AskedAt)
	require.Equal(t, start.Add(15*time.Minute), w.enrollment("E").NotifyAt)

	// The manifest: it is at work.
	w.ok("E", "/declaration-items")
	e = w.enrollment("E")
	require.Equal(t, first, e.FetchedToken)
	require.Equal(t, w.now(), e.FetchedAt)
	require.Empty(t, e.AskedToken)
	require.Empty(t, e.SyncedToken, "the declarations behind it may fail")
	require.Equal(t, w.now().Add(time.Hour), e.NotifyAt)

	// The declarations say nothing: there may be more.
	w.advance(time.Minute)
	w.ok("E", "/declaration/configuration/a")
	w.ok("E", "/declaration/configuration/b")
	require.Equal(t, e.NotifyAt, w.enrollment("E").NotifyAt)
	require.Empty(t, w.enrollment("E").SyncedToken)

	// tokens once more: it has finished.
	w.advance(time.Minute)
	w.ok("E", "/tokens")
	e = w.enrollment("E")
	require.Equal(t, first, e.SyncedToken)
	require.Equal(t, w.now(), e.SyncedAt)
	require.Zero(t, e.NotifyAt)
	require.True(t, e.InSync(first, false))

	// Something else is desired: it holds what it held until it fetches the other manifest.
	w.put(configuration("a", "second"))
	second := w.token("E")
	w.ok("E", "/tokens")
	require.Equal(t, first, w.enrollment("E").SyncedToken)
	require.Equal(t, second, w.enrollment("E").AskedToken)
	w.ok("E", "/declaration-items")
	e = w.enrollment("E")
	require.Empty(t, e.SyncedToken, "lost")
	require.Zero(t, e.SyncedAt)
	require.Equal(t, second, e.FetchedToken)

	// Before it has finished, the change is undone: what it fetched is not what it should have.
	w.put(configuration("a", "first"))
	require.Equal(t, first, w.token("E"))
	w.ok("E", "/tokens")
	e = w.enrollment("E")
	require.Empty(t, e.SyncedToken)
	require.Equal(t, first, e.AskedToken)
	w.ok("E", "/declaration-items")
	// This time the status report says that it has finished, though it lists nothing.
	require.Equal(t, 200, w.status("E", incremental).code)
	require.Equal(t, first, w.enrollment("E").SyncedToken)
	require.Zero(t, w.enrollment("E").NotifyAt)
}

// TestFailedHalfWay: a device that could not fetch a declaration comes back later, and asks for the tokens first. That
// looks as if it had finished, until it asks for the manifest again.
func TestFailedHalfWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("E", "set")
	token := w.token("E")
	w.ok("E", "/declaration-items")
	w.advance(time.Minute)
	w.ok("E", "/tokens")
	require.Equal(t, token, w.enrollment("E").SyncedToken)

	w.advance(15*time.Minute - time.Second)
	w.ok("E", "/declaration-items")
	e := w.enrollment("E")
	require.Empty(t, e.SyncedToken)
	require.Equal(t, w.now().Add(time.Hour), e.NotifyAt)
	w.ok("E", "/declaration/configuration/a")
	w.ok("E", "/tokens")
	require.Equal(t, token, w.enrollment("E").SyncedToken)

	// Later, it is one who looks at what it has.
	w.advance(15 * time.Minute)
	w.ok("E", "/declaration-items")
	require.Equal(t, token, w.enrollment("E").SyncedToken)
	require.Zero(t, w.enrollment("E").NotifyAt)
}

func TestStatusReportsThatProveIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a", "b")
	w.assign("E", "set")
	c := w.composition("E")

	other := append([]protocol.Item{}, c.Items...)
	other[0].ServerToken = "other"
	for name, items := range map[string][]protocol.Item{
		"another version": other, "one is missing": c.Items[:1], "none": nil,
		"one too many":    append([]protocol.Item{{Identifier: "c", ServerToken: "c"}}, c.Items...),
		"the old one too": append([]protocol.Item{{Identifier: "a", ServerToken: "old"}}, c.Items...),
	} {
		require.Equal(t, 200, w.status("E", report(items)).code)
		require.Empty(t, w.enrollment("E").SyncedToken, name)
	}
	require.Equal(t, 200, w.status("E", incremental).code)
	require.Empty(t, w.enrollment("E").SyncedToken, "no manifest was fetched")
	require.Equal(t, start, w.enrollment("E").NotifyAt)

	require.Equal(t, 200, w.status("E", report(c.Items)).code)
	e := w.enrollment("E")
	require.Equal(t, c.Token, e.SyncedToken)
	require.Zero(t, e.NotifyAt)
	declarations, err := w.store.DeclarationStatuses(t.Context(), "E")
	require.NoError(t, err)
	require.Len(t, declarations, 2)
	for _, declaration := range declarations {
		require.True(t, declaration.Current)
	}
}

// TestForcedAndAcknowledged: who was notified by name is told, whatever the device shows of itself before.
func TestForcedAndAcknowledged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("E", "set")
	for _, path := range []string{"/declaration-items", "/tokens"} {
		w.ok("E", path)
	}
	require.Zero(t, w.enrollment("E").NotifyAt)
	require.NoError(t, w.store.Notify(t.Context(), storage.NotifyTargets{Enrollments: []string{"E"}}, change))
	w.ok("E", "/tokens")
	w.ok("E", "/declaration-items")
	require.Equal(t, 200, w.status("E", report(w.composition("E").Items)).code)
	e := w.enrollment("E")
	require.True(t, e.Forced)
	require.Equal(t, start, e.NotifyAt, "it is told all the same")

	lease := storage.Lease{ID: 1, Duration: time.Minute}
	claimed, err := w.store.Claim(t.Context(), lease, 10)
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	require.NoError(t, w.store.Finalise(t.Context(), lease, []storage.Outcome{{
		Kind: storage.OutcomeSent, IDs: []string{"E"}, DesiredToken: w.token("E"), CommandUUID: "command", After: time.Hour,
	}}))
	require.Zero(t, w.enrollment("E").CommandAcknowledgedAt)
	w.advance(time.Second)
	w.ok("E", "/declaration/configuration/a")
	require.Equal(t, w.now(), w.enrollment("E").CommandAcknowledgedAt, "any request shows that it got the command")
	w.advance(time.Second)
	w.ok("E", "/tokens")
	require.Equal(t, start.Add(time.Second), w.enrollment("E").CommandAcknowledgedAt)
}

func TestUnknownEnrollment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.dump()
	require.Contains(t, w.ok("E", "/declaration-items"),
		`{"Declarations":{"Activations":[],"Assets":[],"Configurations":[],"Management":[]},"DeclarationsToken":`)
	require.Contains(t, w.ok("E", "/tokens"), `"Timestamp":"1970-01-01T00:00:00Z"`)
	require.Equal(t, 404, w.get("E", "/declaration/configuration/a").code)
	require.Equal(t, before, w.dump(), "nothing is written")
	require.False(t, w.enrollment("E").Known)

	require.Equal(t, 400, w.status("E", `{`).code)
	require.Equal(t, before, w.dump())

	require.Equal(t, 200, w.status("E", incremental).code)
	e := w.enrollment("E")
	require.True(t, e.Known)
	require.Equal(t, "Device", e.Type)
	require.Zero(t, e.NotifyAt)
	require.Equal(t, start, e.LastSeen)
	values, err := w.store.StatusValues(t.Context(), "E")
	require.NoError(t, err)
	require.Len(t, values, 1)

	// MicroMDM does not say of which type an enrollment is.
	require.Equal(t, 200, w.request("PUT", "/status", incremental, "X-Enrollment-ID", "M").code)
	require.Equal(t, start, w.enrollment("M").LastSeen)
}

func TestObserving(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("E", "set")
	before := w.dump()
	observe := []string{"X-Enrollment-ID", "E", "X-Enrollment-Type", "User", "X-Enrollment-ParentID", "F", "X-Decree-Observe", "1"}
	for _, path := range []string{"/tokens", "/declaration-items", "/tokens", "/declaration/configuration/a"} {
		got := w.request(http.MethodGet, path, "", observe...)
		require.Equal(t, 200, got.code)
		require.Equal(t, before, w.dump(), path)
	}
	got := w.request(http.MethodPut, "/status", report(w.composition("E").Items), observe...)
	require.Equal(t, 400, got.code)
	require.Equal(t, before, w.dump())
	require.Empty(t, w.dumped)

	// It sees what a device would, also under a manifest that the device holds.
	w.ok("E", "/declaration-items")
	w.unassign("E", "set")
	before = w.dump()
	require.Equal(t, 200, w.request(http.MethodGet, "/declaration/configuration/a", "", observe...).code)
	require.Equal(t, before, w.dump())
	require.Equal(t, 404, w.request(http.MethodGet, "/declaration/configuration/b", "", observe...).code)
}

func TestManifestsStayFetchable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a", "b")
	w.assign("E", "set")
	old := w.serverToken("E", "a")
	w.ok("E", "/declaration-items")

	// A new version is served under the old manifest: it is what the device should have now.
	w.put(configuration("a", "second"))
	require.Contains(t, w.ok("E", "/declaration/configuration/a"), `"second"`)

	// Its sets are taken away, and the declaration is deleted: the manifest's version is still there.
	w.unassign("E", "set")
	require.Contains(t, w.ok("E", "/declaration/configuration/a"), fmt.Sprintf(`"ServerToken":%q,"Payload":{"Echo":"first"}`, old))
	changed, err := w.store.DeleteSetDeclaration(t.Context(), "set", "a", change)
	require.NoError(t, err)
	require.True(t, changed)
	_, err = w.store.DeleteDeclaration(t.Context(), "a", change)
	require.NoError(t, err)
	require.Contains(t, w.ok("E", "/declaration/configuration/a"), old)
	require.Equal(t, 404, w.get("E", "/declaration/asset/a").code)
	require.Equal(t, 404, w.get("F", "/declaration/configuration/a").code, "it is this device's manifest")

	// Another class than before is another declaration.
	w.put(&protocol.Declaration{
		Identifier: "b", Type: "com.apple.asset.data", Class: protocol.ClassAsset, Payload: []byte(`{}`),
	})
	require.Contains(t, w.ok("E", "/declaration/configuration/b"), `"first"`)
	require.Equal(t, 404, w.get("E", "/declaration/asset/b").code)

	collect := func() {
		t.Helper()
		_, err := w.store.Collect(t.Context(), 26*time.Hour, 100)
		require.NoError(t, err)
	}
	w.advance(24 * time.Hour)
	collect()
	w.ok("E", "/declaration/configuration/a")
	w.advance(time.Hour + time.Second)
	require.Equal(t, 404, w.get("E", "/declaration/configuration/a").code)
	w.advance(time.Hour)
	collect()
	require.Equal(t, 404, w.get("E", "/declaration/configuration/a").code)
	require.NotContains(t, w.dump(), "manifests:")
}

// TestManifestFetchedAgain: a day counts from the last time, also where it was not worth a write.
func TestManifestFetchedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("E", "set")
	w.ok("E", "/declaration-items")
	w.advance(time.Hour - time.Second)
	w.ok("E", "/declaration-items")
	w.unassign("E", "set")
	w.advance(24 * time.Hour)
	_, err := w.store.Collect(t.Context(), 26*time.Hour, 100)
	require.NoError(t, err)
	w.ok("E", "/declaration/configuration/a")

	// A newer manifest takes its place at once.
	w.ok("E", "/declaration-items")
	require.Equal(t, 404, w.get("E", "/declaration/configuration/a").code)
}

// TestSteadyState: a device that has what it should have costs one query a request, and writes nothing.
func TestSteadyState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("E", "set")
	for _, path := range []string{"/tokens", "/declaration-items", "/declaration/configuration/a", "/tokens"} {
		w.ok("E", path)
	}
	require.Equal(t, 200, w.status("E", incremental).code)
	w.advance(20 * time.Minute)
	w.store.counts()
	before := w.dump()
	for range 3 {
		for _, path := range []string{"/tokens", "/declaration-items", "/declaration/configuration/a"} {
			w.ok("E", path)
			queries, writes := w.store.counts()
			require.Equal(t, int64(1), queries, path)
			require.Zero(t, writes, path)
		}
		w.advance(13 * time.Minute)
	}
	require.Equal(t, before, w.dump())
	require.Equal(t, 200, w.status("E", incremental).code)
	queries, writes := w.store.counts()
	require.Equal(t, int64(1), queries)
	require.Equal(t, int64(1), writes)

	// That it was seen is written once an hour.
	w.advance(time.Hour)
	for _, want := range []int64{1, 0, 0} {
		w.ok("E", "/tokens")
		_, writes := w.store.counts()
		require.Equal(t, want, writes)
	}
	require.Equal(t, w.now(), w.enrollment("E").LastSeen)

	// Another device of the same sets shares the composition and the declarations.
	w.assign("F", "set")
	w.ok("F", "/tokens")
	w.ok("F", "/declaration/configuration/a")
	queries, writes = w.store.counts()
	require.Equal(t, int64(2), queries)
	require.Equal(t, int64(1), writes, "that it asked")
}
