package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStartTogether starts several real processes at once over a database that is new: they make its schema one after the
// other, none fails, and all of them can work.
func TestStartTogether(t *testing.T) {
	t.Parallel()
	for _, db := range databases() {
		t.Run(db.name, func(t *testing.T) {
			t.Parallel()
			for range 2 {
				flags := db.flags(t)
				var processes []*process
				for range 4 {
					processes = append(processes, startBinary(t, flags...))
				}
				for _, p := range processes {
					s := p.server()
					code, text := s.do(http.MethodGet, "/readyz", "")
					require.Equal(t, http.StatusOK, code, string(text))
					s.check()
				}
				for _, p := range processes {
					p.kill()
				}
			}
		})
	}
}
