package webhook_test

import (
	"database/sql"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/http/webhook"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// world is the endpoint over a database.
type world struct {
	testing.TB
	store storage.Store
	raw   *sql.DB // the same database
	mux   *edge.Mux
	woken atomic.Int64
}

func newWorld(t testing.TB, config webhook.Config) *world {
	t.Helper()
	w := &world{TB: t}
	path := filepath.Join(t.TempDir(), "decree.db")
	store, err := sqlite.Open(t.Context(), path, sqlstore.Options{NotifyDelay: -1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	w.raw, err = sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.raw.Close()) })
	w.store = store
	config.Store, config.Wake = store, func() { w.woken.Add(1) }
	w.mux = edge.NewMux(slog.New(slog.NewTextHandler(io.Discard, nil)))
	webhook.Register(w.mux, config)
	return w
}

// post sends an event, with headers given as name and value, and returns the status code and the body.
func (w *world) post(body string, headers ...string) (int, string) {
	request := httptest.NewRequest(http.MethodPost, "/webhook", strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	recorder := httptest.NewRecorder()
	w.mux.ServeHTTP(recorder, request)
	return recorder.Code, recorder.Body.String()
}

// taken posts an event that must be taken.
func (w *world) taken(body string) {
	w.Helper()
	code, text := w.post(body)
	require.Equal(w, http.StatusOK, code, "%s: %s", body, text)
	require.Empty(w, text)
}

func (w *world) enrollment(id string) *storage.Enrollment {
	w.Helper()
	enrollment, _, err := w.store.Enrollment(w.Context(), id)
	require.NoError(w, err)
	return enrollment
}

func (w *world) exec(statement string, arguments ...any) {
	w.Helper()
	_, err := w.raw.Exec(statement, arguments...)
	require.NoError(w, err)
}

// enrollments is every row, a text for each, of the enrollments but for one and those that have it as their parent.
func (w *world) enrollments(but string) []string {
	w.Helper()
	list := []string{}
	for _, query := range []string{
		`SELECT * FROM enrollments WHERE id <> ? AND parent_id <> ? ORDER BY id`,
		`SELECT * FROM enrollment_sets WHERE enrollment_id <> ? AND enrollment_id <> ? ORDER BY enrollment_id, set_name`,
		`SELECT * FROM status_values WHERE enrollment_id <> ? AND enrollment_id <> ? ORDER BY enrollment_id, path`,
	} {
		rows, err := w.raw.Query(query, but, but)
		require.NoError(w, err)
		columns, err := rows.Columns()
		require.NoError(w, err)
		for rows.Next() {
			values := make([]sql.NullString, len(columns))
			pointers := make([]any, len(columns))
			for i := range values {
				pointers[i] = &values[i]
			}
			require.NoError(w, rows.Scan(pointers...))
			list = append(list, fmt.Sprint(values))
		}
		require.NoError(w, rows.Err())
		require.NoError(w, rows.Close())
	}
	return list
}

// checkin returns an event as NanoMDM sends it; more is what else is said of the enrollment.
func checkin(topic, id, more string) string {
	return fmt.Sprintf(`{"topic":%q,"event_id":"1","created_at":%q,"checkin_event":{"udid":%q,
		"ids":{"id":%q,"type":"Device"},"url_params":{},"raw_payload":""%s}}`,
		topic, time.Now().Format(time.RFC3339Nano), id, id, more)
}

// plistOf returns a property list as the raw payload of an event.
func plistOf(content string) string {
	return base64.StdEncoding.EncodeToString([]byte(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>` + content + `</dict></plist>`))
}
