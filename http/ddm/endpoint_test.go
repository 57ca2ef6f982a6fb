package ddm_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	protocol "github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage/compositor"
)

func TestEndpoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.put(&protocol.Declaration{
		Identifier: "start", Type: "com.apple.activation.simple", Class: protocol.ClassActivation,
		Payload: []byte(`{ "StandardConfigurations" : ["a"], "Big": 12345678901234567890.50 }`),
	})
	_, err := w.store.PutSetDeclaration(t.Context(), "set", "start", change)
	require.NoError(t, err)
	w.advance(1500 * time.Millisecond)
	w.assign("E", "set")
	w.put(configuration("a", "second"))
	w.advance(time.Hour)
	c := w.composition("E")
	activation, _ := c.Lookup("start")
	item, _ := c.Lookup("a")

	for path, want := range map[string]string{
		"/tokens": fmt.Sprintf(`{"SyncTokens":{"DeclarationsToken":%q,"Timestamp":"2026-11-21T10:00:01Z"}}`, c.Token),
		"/declaration-items": fmt.Sprintf(`{"Declarations":{"Activations":[{"Identifier":"start","ServerToken":%q}],"Assets":[],`+
			`"Configurations":[{"Identifier":"a","ServerToken":%q}],"Management":[]},"DeclarationsToken":%q}`,
			activation.ServerToken, item.ServerToken, c.Token),
		"/declaration/configuration/a": fmt.Sprintf(`{"Identifier":"a","Type":"com.apple.configuration.management.test",`+
			`"ServerToken":%q,"Payload":{"Echo":"second"}}`, item.ServerToken),
		"/declaration/activation/start": fmt.Sprintf(`{"Identifier":"start","Type":"com.apple.activation.simple",`+
			`"ServerToken":%q,"Payload":{ "StandardConfigurations" : ["a"], "Big": 12345678901234567890.50 }}`, activation.ServerToken),
	} {
		for range 2 {
			got := w.get("E", path)
			require.Equal(t, 200, got.code)
			require.Equal(t, want, got.body, path)
			require.Equal(t, "application/json", got.header.Get("Content-Type"))
		}
	}
	got := w.status("E", `{"StatusItems":{"device":{"model":{"family":"Mac"}}},"Errors":[]}`)
	require.Equal(t, 200, got.code)
	require.Empty(t, got.body)
	require.Equal(t, "0", got.header.Get("Content-Length"))
	values, err := w.store.StatusValues(t.Context(), "E")
	require.NoError(t, err)
	require.Len(t, values, 1)
	require.Len(t, w.dumped, 1)

	// A user channel is an enrollment of its own.
	got = w.request(http.MethodGet, "/tokens", "",
		"X-Enrollment-ID", "E:U", "X-Enrollment-Type", "User", "X-Enrollment-ParentID", "E")
	require.Equal(t, 200, got.code)
	require.NotContains(t, got.body, c.Token)
	w.assign("E:U", "empty")
	w.request(http.MethodGet, "/tokens", "",
		"X-Enrollment-ID", "E:U", "X-Enrollment-Type", "User", "X-Enrollment-ParentID", "E")
	require.Equal(t, "User", w.enrollment("E:U").Type)
	require.Equal(t, "E", w.enrollment("E:U").ParentID)
	// MicroMDM gives neither; what is known stays.
	require.Equal(t, 200, w.request(http.MethodGet, "/tokens", "", "X-Enrollment-ID", "E:U").code)
	require.Equal(t, "User", w.enrollment("E:U").Type)
	require.Equal(t, "E", w.enrollment("E:U").ParentID)
}

func TestBadHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.assign("E", "set")
	before := w.dump()
	long := strings.Repeat("x", 256)
	for _, headers := range [][]string{
		{},
		{"X-Enrollment-ID", ""},
		{"X-Enrollment-ID", long},
		{"X-Enrollment-ID", "a,b"},
		{"X-Enrollment-ID", ".."},
		{"X-Enrollment-ID", "\xff"},
		{"X-Enrollment-ID", "a\x7fb"},
		{"X-Enrollment-ID", " E"},
		{"X-Enrollment-ID", "E\u00a0"},
		{"X-Enrollment-ID", "E", "X-Enrollment-ParentID", long},
		{"X-Enrollment-ID", "E", "X-Enrollment-ParentID", "\xff"},
		{"X-Enrollment-ID", "E", "X-Enrollment-Type", long},
		{"X-Enrollment-ID", "E", "X-Enrollment-Type", strings.Repeat("x", 65)},
		{"X-Enrollment-ID", "E", "X-Enrollment-Type", "\xff"},
	} {
		for _, target := range []string{
			"GET /tokens", "GET /declaration-items", "GET /declaration/configuration/a", "PUT /status",
		} {
			method, path, _ := strings.Cut(target, " ")
			// Without a connection, which would not carry all of them.
			request := httptest.NewRequest(method, path, strings.NewReader(`{}`))
			for i := 0; i < len(headers); i += 2 {
				request.Header[http.CanonicalHeaderKey(headers[i])] = []string{headers[i+1]}
			}
			recorder := httptest.NewRecorder()
			w.server.Config.Handler.ServeHTTP(recorder, request)
			require.Equal(t, http.StatusBadRequest, recorder.Code, "%s %q", target, headers)
			require.JSONEq(t, `{"error":"bad request"}`, recorder.Body.String())
		}
	}
	require.Equal(t, before, w.dump())
}

func TestDeclarationsThatAreNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.fill("others", "b")
	w.assign("E", "set")
	w.assign("F", "others")
	w.ok("E", "/declaration-items")
	w.ok("F", "/declaration-items")
	w.ok("E", "/declaration/configuration/a")
	w.ok("F", "/declaration/configuration/b")
	before := w.dump()
	for _, path := range []string{
		"/declaration/activation/a", "/declaration/asset/a", "/declaration/management/a", // another class
		"/declaration/Configuration/a", "/declaration/configurations/a", "/declaration/x/a", // no class
		"/declaration/configuration/b",                                   // another one's
		"/declaration/configuration/A", "/declaration/configuration/a/b", // nobody's
		"/declaration/configuration/", "/declaration/configuration/%ff",
		"/declaration/management/" + protocol.ShardIdentifier, // there are no shards
	} {
		got := w.get("E", path)
		require.Equal(t, http.StatusNotFound, got.code, path)
		require.JSONEq(t, `{"error":"not found"}`, got.body)
	}
	require.Equal(t, http.StatusNotFound, w.get("nobody", "/declaration/configuration/a").code)
	require.Equal(t, before, w.dump())
}

func TestShard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(compositor.Options{Shard: true})
	w.fill("set", "a")
	w.assign("E", "set")
	for _, id := range []string{"E", "nobody"} {
		shard := protocol.ShardDeclaration(id)
		require.Contains(t, w.ok(id, "/declaration-items"),
			fmt.Sprintf(`"Management":[{"Identifier":%q,"ServerToken":%q}]`, shard.Identifier, shard.ServerToken))
		require.Equal(t, string(shard.JSON()), w.ok(id, "/declaration/management/"+protocol.ShardIdentifier))
	}
}

// TestIdentifiers: NanoMDM resolves the endpoint as a URL, so an identifier comes in whichever way a device wrote it.
func TestIdentifiers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	identifiers := []string{
		"com.example.a", "with/slash", "with/two/slashes", "with space", "ümläut", "日本語", "a+b", "a:b", "a&b=c", "a;b", "a,b",
		"(a)", "a@b", "~a", "a'b\"c", "tokens", "status", strings.Repeat("ä", 127),
	}
	for _, identifier := range identifiers {
		require.Nil(t, protocol.ValidateIdentifier("Identifier", identifier))
	}
	w.fill("set", identifiers...)
	w.assign("E", "set")
	w.ok("E", "/declaration-items")
	for _, identifier := range identifiers {
		segments := strings.Split(identifier, "/")
		for i := range segments {
			segments[i] = url.PathEscape(segments[i])
		}
		for _, path := range []string{
			url.PathEscape(identifier), strings.Join(segments, "/"), (&url.URL{Path: identifier}).EscapedPath(),
		} {
			path = strings.TrimPrefix(path, "./")
			require.Contains(t, w.ok("E", "/declaration/configuration/"+path),
				fmt.Sprintf(`"ServerToken":%q`, w.serverToken("E", identifier)), path)
		}
	}
	// What would be another path once it is cleaned is neither redirected nor found.
	for _, path := range []string{
		"/declaration/configuration//com.example.a", "/declaration/configuration/./com.example.a",
		"/declaration/configuration/x/../com.example.a", "//tokens",
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.server.URL, nil)
		require.NoError(t, err)
		request.URL.Opaque = path
		request.Header.Set("X-Enrollment-ID", "E")
		got := w.send(request)
		require.Contains(t, []int{400, 404}, got.code, path)
	}
}

func (w *world) serverToken(id, identifier string) string {
	w.Helper()
	item, found := w.composition(id).Lookup(identifier)
	require.True(w, found)
	return item.ServerToken
}

func TestOtherMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, target := range []string{
		"PUT /tokens", "POST /tokens", "DELETE /declaration-items", "PUT /declaration/configuration/a", "GET /status", "POST /status",
	} {
		method, path, _ := strings.Cut(target, " ")
		got := w.request(method, path, `{}`, "X-Enrollment-ID", "E")
		require.Equal(t, http.StatusMethodNotAllowed, got.code, target)
	}
}
