package api

import (
	"context"
	"net/http"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

func (a *api) getEnrollmentSets(w http.ResponseWriter, r *http.Request) error {
	id, err := pathName(r, "id")
	if err != nil {
		return err
	}
	return list(w, r, func(ctx context.Context, page storage.Page) ([]string, error) {
		return a.Store.EnrollmentSets(ctx, id, page)
	})
}

func (a *api) putEnrollmentSet(w http.ResponseWriter, r *http.Request) error {
	c, id, set, err := assignment(r)
	if err != nil {
		return err
	}
	if err := refused(ddm.ValidateEnrollmentID("id", id), ddm.ValidateName("set", set)); err != nil {
		return err
	}
	changed, err := a.Store.PutEnrollmentSet(r.Context(), id, set, c.options)
	if err != nil {
		return err
	}
	return a.finish(w, c, changed)
}

func (a *api) deleteEnrollmentSet(w http.ResponseWriter, r *http.Request) error {
	c, id, set, err := assignment(r)
	if err != nil {
		return err
	}
	changed, err := a.Store.DeleteEnrollmentSet(r.Context(), id, set, c.options)
	if err != nil {
		return err
	}
	return a.finish(w, c, changed)
}

// assignment reads a change of the sets that an enrollment has.
func assignment(r *http.Request) (c *change, id, set string, err error) {
	if c, err = newChange(r); err != nil {
		return nil, "", "", err
	}
	if id, err = pathName(r, "id"); err != nil {
		return nil, "", "", err
	}
	if set, err = c.query.required("set"); err != nil {
		return nil, "", "", err
	}
	event := edge.EventOf(r.Context())
	event.Set("enrollment_id", id)
	event.Set("set", set)
	return c, id, set, nil
}
