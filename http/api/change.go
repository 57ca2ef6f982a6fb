package api

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

// change is a request to change something.
type change struct {
	query    query
	options  storage.ChangeOptions
	verbose  bool
	warnings []string
}

// newChange reads what all requests for a change have in common, and gives it the id by which it can be followed.
func newChange(r *http.Request) (*change, error) {
	q, err := parseQuery(r)
	if err != nil {
		return nil, err
	}
	held, err := q.boolean("nonotify")
	if err != nil {
		return nil, err
	}
	verbose, err := q.boolean("verbose")
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("making a change id: %w", err)
	}
	edge.EventOf(r.Context()).Set("change_id", id.String())
	by, _ := r.Context().Value(keyNameKey{}).(string)
	return &change{
		query:    q,
		options:  storage.ChangeOptions{ChangeID: id.String(), Held: held, By: by},
		verbose:  verbose || acceptsJSON(r),
		warnings: []string{},
	}, nil
}

// acceptsJSON reports whether a request asks for JSON by name. "*/*", which curl sends, does not.
func acceptsJSON(r *http.Request) bool {
	for _, header := range r.Header.Values("Accept") {
		for accepted := range strings.SplitSeq(header, ",") {
			if mediaType, _, err := mime.ParseMediaType(accepted); err == nil && mediaType == "application/json" {
				return true
			}
		}
	}
	return false
}

// deletes handles a request to delete something of what its path names; the log has the name as what.
func (a *api) deletes(
	what string, del func(s Store, ctx context.Context, name string, options storage.ChangeOptions) (changed bool, err error),
) edge.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		c, err := newChange(r)
		if err != nil {
			return err
		}
		name, err := pathName(r, "id")
		if err != nil {
			return err
		}
		edge.EventOf(r.Context()).Set(what, name)
		changed, err := del(a.Store, r.Context(), name, c.options)
		if err != nil {
			return err
		}
		return a.finish(w, c, changed)
	}
}

// finish answers a request for a change that storage has taken. Also a change of which nobody is told has work for
// the notifier, which writes down what is desired now.
func (a *api) finish(w http.ResponseWriter, c *change, changed bool) error {
	if changed && a.Wake != nil {
		a.Wake()
	}
	switch {
	case c.verbose:
		return edge.WriteJSON(w, http.StatusOK, struct {
			Changed  bool     `json:"changed"`
			ChangeID string   `json:"change_id"`
			Warnings []string `json:"warnings"`
		}{changed, c.options.ChangeID, c.warnings})
	case changed:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotModified)
	}
	return nil
}
