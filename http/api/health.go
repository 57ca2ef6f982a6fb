package api

import (
	"context"
	"net/http"
	"time"

	"github.com/decree-ddm/decree/http/edge"
)

// readyTimeout is less than those who watch servers wait for an answer.
const readyTimeout = 3 * time.Second

// Readiness tells whether there is a database to work with.
type Readiness interface {
	// Ready returns *storage.NotReadyError while the database cannot be worked with.
	Ready(ctx context.Context) error
}

// RegisterHealth adds what those ask who watch servers to a mux: to any, since it tells nothing worth hiding.
func RegisterHealth(mux *edge.Mux, store Readiness) {
	for _, route := range (health{store}).routes() {
		mux.Handle(route.pattern, route.handler)
	}
}

type health struct{ store Readiness }

func (h health) routes() []route {
	return []route{
		{"GET /livez", h.getLive},
		{"GET /readyz", h.getReady},
	}
}

// getLive answers, which is all that it is for.
func (h health) getLive(w http.ResponseWriter, r *http.Request) error {
	return writeWorks(w, r)
}

// getReady says whether the server can work.
func (h health) getReady(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := h.store.Ready(ctx); err != nil {
		return err
	}
	return writeWorks(w, r)
}

func writeWorks(w http.ResponseWriter, r *http.Request) error {
	edge.EventOf(r.Context()).Quiet() // some ask every second, and some with HEAD
	return edge.WriteJSON(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"})
}
