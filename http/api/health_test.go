package api

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
)

// TestHealth checks that whoever watches a server needs no API key, and learns whether it can work and why not.
func TestHealth(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, path := range []string{"/livez", "/readyz"} {
		s.do("GET", path, anonymous).is(200).json(`{"status":"ok"}`)
		s.do("HEAD", path, anonymous).is(200).empty()
		s.do("POST", path, anonymous).fails(405, "POST")
	}
	require.NotContains(t, s.log.String(), `"status":200`, "what works is no news")
	require.NoError(t, s.store.Close())
	s.do("GET", "/livez", anonymous).is(200)
	got := s.do("GET", "/readyz", anonymous).fails(503, "the database cannot be reached")
	require.Equal(t, "5", got.header.Get("Retry-After"))
	require.NotContains(t, got.body, "sql")
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "sql: database is closed") },
		eventually, tick, "the log has what the database said")
}

// silent is a store whose database takes requests and never answers them.
type silent struct{}

func (silent) Ready(ctx context.Context) error {
	<-ctx.Done()
	return &storage.NotReadyError{Reason: "silence", Err: ctx.Err()}
}

// TestReadyIsBounded checks that a database which never answers does not keep who asks waiting.
func TestReadyIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil)
		require.NoError(t, err)
		err = health{silent{}}.getReady(nil, request)
		var notReady *storage.NotReadyError
		require.ErrorAs(t, err, &notReady)
		require.Equal(t, readyTimeout, time.Since(begin))
	})
}
