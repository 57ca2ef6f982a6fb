package api

import (
	"errors"
	"net/http"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

type version struct {
	ServerToken string `json:"server_token"`
	Type        string `json:"type"`
	Current     bool   `json:"current"`
	CreatedAt   string `json:"created_at"`
	ReplacedAt  string `json:"replaced_at,omitempty"`
	Key         string `json:"key,omitempty"`
}

// getDeclarationVersions answers with a page of the versions of a declaration, or with one of them.
func (a *api) getDeclarationVersions(w http.ResponseWriter, r *http.Request) error {
	identifier, err := pathName(r, "id")
	if err != nil {
		return err
	}
	q, page, err := pageQuery(r)
	if err != nil {
		return err
	}
	token, err := q.optional("token")
	if err != nil {
		return err
	}
	if token != "" {
		found, err := a.Store.DeclarationVersion(r.Context(), identifier, token)
		if err != nil {
			return unknownVersion(err, identifier, token)
		}
		return writeDeclaration(w, found)
	}
	after, err := parseVersionPlace(page.After)
	if err != nil {
		return err
	}
	found, last, err := a.Store.DeclarationVersions(r.Context(), identifier, after, page.Limit)
	if errors.Is(err, storage.ErrNotFound) {
		return edge.NewError(http.StatusNotFound, "there is no declaration %q, and no earlier version of it", identifier)
	}
	if err != nil {
		return err
	}
	next := ""
	if last != nil {
		next = versionPlaceText(*last)
	}
	return writePage(w, r, q, page.Limit, next, convert(found, func(v storage.Version) version {
		return version{
			v.ServerToken, v.Type, v.ReplacedAt.IsZero(), timestamp(v.CreatedAt), timestamp(v.ReplacedAt), v.By,
		}
	}))
}

// rollbackDeclaration makes the content of a version current.
func (a *api) rollbackDeclaration(w http.ResponseWriter, r *http.Request, identifier string) error {
	c, err := newChange(r)
	if err != nil {
		return err
	}
	if err := encoded("id", identifier); err != nil {
		return err
	}
	token, err := c.query.required("to")
	if err != nil {
		return err
	}
	edge.EventOf(r.Context()).Set("declaration", identifier)
	changed, err := a.Store.RollbackDeclaration(r.Context(), identifier, token, c.options)
	if err != nil {
		return unknownVersion(err, identifier, token)
	}
	return a.finish(w, c, changed)
}

// unknownVersion says of ErrNotFound which version it is about.
func unknownVersion(err error, identifier, token string) error {
	if errors.Is(err, storage.ErrNotFound) {
		return edge.NewError(http.StatusNotFound, "declaration %q has no version %q, or it is not kept any more", identifier, token)
	}
	return err
}

// versionPlaceText is a place in a list of versions as it stands in the query; the current one has no time.
func versionPlaceText(place storage.VersionPlace) string {
	return placeText(place.ReplacedAt, place.ServerToken)
}

func parseVersionPlace(text string) (place storage.VersionPlace, err error) {
	if text == "" {
		return place, nil
	}
	place.ReplacedAt, place.ServerToken, err = parsePlace(text)
	return place, err
}
