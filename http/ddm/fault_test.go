package ddm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

func TestLargeReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.dump()
	large := append([]byte(`{"StatusItems":{"x":"`), bytes.Repeat([]byte("x"), 17<<20)...)
	large = append(large, `"}}`...)
	for name, body := range map[string]io.Reader{
		"with its length": bytes.NewReader(large),
		"chunked":         io.MultiReader(bytes.NewReader(large)), // whose length is not known
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, w.server.URL+"/status", body)
		require.NoError(t, err)
		request.Header.Set("X-Enrollment-ID", "E")
		got := w.send(request)
		require.Equal(t, http.StatusRequestEntityTooLarge, got.code, name)
		require.JSONEq(t, `{"error":"request entity too large"}`, got.body)
	}
	require.Equal(t, before, w.dump())
	require.Empty(t, w.dumped)

	// The largest that is taken.
	fits := fmt.Sprintf(`{"StatusItems":{"x":"%s"}}`, strings.Repeat("x", 16<<20-len(`{"StatusItems":{"x":""}}`)))
	require.Len(t, fits, 16<<20)
	require.Equal(t, 200, w.status("E", fits).code)
	stored, err := w.store.StatusReportByIndex(t.Context(), "E", 0)
	require.NoError(t, err)
	require.Len(t, stored.Raw, 16<<20)
}

func TestInvalidReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.assign("E", "set")
	before := w.dump()
	for _, invalid := range []string{
		"", "{", "[]", "null", `"text"`, "1", `{"StatusItems":[]}`, `{"Errors":{}}`, `{"a":1}{"a":1}`, "{\"a\":\"\xff\"}", "<plist/>",
		strings.Repeat(`{"a":`, 100_000), strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000),
		`{"StatusItems":{"a":[` + strings.Repeat("0,", 131_072) + `0]}}`,
	} {
		got := w.status("E", invalid)
		require.Equal(t, http.StatusBadRequest, got.code, "%.40s", invalid)
		require.JSONEq(t, `{"error":"bad request"}`, got.body)
	}
	require.Equal(t, before, w.dump())
	for _, strange := range []string{
		"{}", `{"StatusItems":{}}`, `{"Errors":[]}`, `{"StatusItems":null,"Errors":[7]}`, `{"StatusItems":{"new":{"family":[1,{"a":null}]}},"New":true}`,
	} {
		require.Equal(t, 200, w.status("E", strange).code, strange)
	}
}

// TestReportsAreCounted checks that each report counts once, and looking is not reporting.
func TestReportsAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.assign("E", "set")
	w.status("E", incremental)
	w.status("E", "{")
	w.store.failWrites(errors.New("disk full"))
	w.status("E", incremental)
	w.store.failWrites(nil)
	w.request(http.MethodPut, "/status", incremental, "X-Enrollment-ID", "E", "X-Decree-Observe", "1")
	w.get("E", "/tokens")
	require.Equal(t, []string{"folded", "refused", "failed"}, w.results)
}

// TestErrorsRevealNothing: a device gets the body of an error from the MDM.
func TestErrorsRevealNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		code int
		body string
	}{
		"of the database": {errors.New("secret: dial tcp 10.0.0.1:3306"), 500, `{"error":"internal server error"}`},
		"of time":         {fmt.Errorf("secret: %w", context.DeadlineExceeded), 503, `{"error":"service unavailable"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.fill("set", "a")
			w.assign("E", "set")
			w.store.fail(test.err)
			for _, path := range []string{"/tokens", "/declaration-items", "/declaration/configuration/a"} {
				got := w.get("E", path)
				require.Equal(t, test.code, got.code)
				require.JSONEq(t, test.body, got.body)
			}
			got := w.status("E", incremental)
			require.Equal(t, test.code, got.code)
			require.JSONEq(t, test.body, got.body)
			require.Contains(t, w.logs.String(), "secret", "the log has it")

			w.store.fail(nil)
			w.ok("E", "/declaration-items")
		})
	}
}

// TestWhatIsOnlyNotedIsNotWaitedFor: where nothing can be written, a device is told what it should have, and gets what it knows
// of. It may not get a manifest that nobody knows it has.
func TestWhatIsOnlyNotedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("E", "set")
	before := w.dump()
	w.store.failWrites(&storage.NotReadyError{Reason: "the disk is full"})
	w.ok("E", "/tokens")
	w.ok("E", "/declaration/configuration/a")
	require.Equal(t, 2, strings.Count(w.logs.String(), `not_recorded="the disk is full"`))
	for _, got := range []answer{w.get("E", "/declaration-items"), w.status("E", incremental)} {
		require.Equal(t, 503, got.code)
		require.NotEmpty(t, got.header.Get("Retry-After"))
	}
	require.Equal(t, before, w.dump())
	w.store.failWrites(nil)
	w.ok("E", "/declaration-items")
}

// TestNothingIsServedThatIsNotRecorded: what a manifest lists must be fetchable for the device that got it.
func TestNothingIsServedThatIsNotRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("set", "a")
	w.assign("E", "set")
	w.ok("E", "/tokens") // the composition is known from here on
	before := w.dump()
	w.store.failWrites(errors.New("disk full"))
	require.Equal(t, 500, w.get("E", "/declaration-items").code)
	require.Equal(t, before, w.dump())
	w.store.failWrites(nil)
	w.ok("E", "/declaration-items")
	w.unassign("E", "set")
	w.ok("E", "/declaration/configuration/a")
}
