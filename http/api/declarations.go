package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

const maxDeclarationBytes = 4 << 20

func (a *api) getDeclarations(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, a.Store.DeclarationIdentifiers)
}

func (a *api) putDeclaration(w http.ResponseWriter, r *http.Request) error {
	c, err := newChange(r)
	if err != nil {
		return err
	}
	body, err := edge.ReadBody(w, r, maxDeclarationBytes)
	if err != nil {
		return err
	}
	declaration, warnings, err := ddm.ParseDeclaration(body)
	if err != nil {
		return err
	}
	c.warnings = append(c.warnings, warnings...)
	edge.EventOf(r.Context()).Set("declaration", declaration.Identifier)
	changed, err := a.Store.PutDeclaration(r.Context(), declaration, c.options)
	if err != nil {
		return err
	}
	return a.finish(w, c, changed)
}

func (a *api) getDeclaration(w http.ResponseWriter, r *http.Request) error {
	identifier, err := pathName(r, "id")
	if err != nil {
		return err
	}
	declaration, err := a.Store.Declaration(r.Context(), identifier)
	if err != nil {
		return unknownDeclaration(err, identifier)
	}
	return writeDeclaration(w, declaration)
}

func writeDeclaration(w http.ResponseWriter, declaration *ddm.Declaration) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(append(declaration.JSON(), '\n'))
	return err
}

// postDeclaration serves /v1/declarations/{id}/touch and /v1/declarations/{id}/rollback. Since an identifier may hold
// slashes, the end of the path is taken off here.
func (a *api) postDeclaration(w http.ResponseWriter, r *http.Request) error {
	path := r.PathValue("path")
	if identifier, is := strings.CutSuffix(path, "/touch"); is {
		return a.touchDeclaration(w, r, identifier)
	}
	if identifier, is := strings.CutSuffix(path, "/rollback"); is {
		return a.rollbackDeclaration(w, r, identifier)
	}
	return edge.NewError(http.StatusNotFound, "there is nothing at this path: to touch a declaration, POST to "+
		"/v1/declarations/ID/touch, and to roll it back, to /v1/declarations/ID/rollback?to=TOKEN")
}

func (a *api) touchDeclaration(w http.ResponseWriter, r *http.Request, identifier string) error {
	c, err := newChange(r)
	if err != nil {
		return err
	}
	edge.EventOf(r.Context()).Set("declaration", identifier)
	if err := a.Store.TouchDeclaration(r.Context(), identifier, c.options); err != nil {
		return unknownDeclaration(err, identifier)
	}
	return a.finish(w, c, true)
}

func (a *api) getDeclarationSets(w http.ResponseWriter, r *http.Request) error {
	identifier, err := pathName(r, "id")
	if err != nil {
		return err
	}
	return list(w, r, func(ctx context.Context, page storage.Page) ([]string, error) {
		return a.Store.DeclarationSets(ctx, identifier, page)
	})
}

// unknownDeclaration says of ErrNotFound which declaration it is about.
func unknownDeclaration(err error, identifier string) error {
	if errors.Is(err, storage.ErrNotFound) {
		return edge.NewError(http.StatusNotFound, "there is no declaration %q", identifier)
	}
	return err
}
