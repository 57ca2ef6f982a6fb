package api

import (
	"context"
	"net/http"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

func (a *api) getSets(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, a.Store.SetNames)
}

func (a *api) getSetDeclarations(w http.ResponseWriter, r *http.Request) error {
	set, err := pathName(r, "set")
	if err != nil {
		return err
	}
	return list(w, r, func(ctx context.Context, page storage.Page) ([]string, error) {
		return a.Store.SetDeclarations(ctx, set, page)
	})
}

func (a *api) putSetDeclaration(w http.ResponseWriter, r *http.Request) error {
	c, set, identifier, err := membership(r)
	if err != nil {
		return err
	}
	if err := refused(ddm.ValidateName("set", set), ddm.ValidateIdentifier("declaration", identifier)); err != nil {
		return err
	}
	changed, err := a.Store.PutSetDeclaration(r.Context(), set, identifier, c.options)
	if err != nil {
		return unknownDeclaration(err, identifier)
	}
	return a.finish(w, c, changed)
}

func (a *api) deleteSetDeclaration(w http.ResponseWriter, r *http.Request) error {
	c, set, identifier, err := membership(r)
	if err != nil {
		return err
	}
	changed, err := a.Store.DeleteSetDeclaration(r.Context(), set, identifier, c.options)
	if err != nil {
		return err
	}
	return a.finish(w, c, changed)
}

// membership reads a change of what a set holds.
func membership(r *http.Request) (c *change, set, identifier string, err error) {
	if c, err = newChange(r); err != nil {
		return nil, "", "", err
	}
	if set, err = pathName(r, "set"); err != nil {
		return nil, "", "", err
	}
	if identifier, err = c.query.required("declaration"); err != nil {
		return nil, "", "", err
	}
	event := edge.EventOf(r.Context())
	event.Set("set", set)
	event.Set("declaration", identifier)
	return c, set, identifier, nil
}
