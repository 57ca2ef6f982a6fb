package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

const (
	// pageSize is how much of a list is held at a time.
	pageSize = 1000
	maxLimit = 10000
)

// lister reads a page of a list.
type lister func(ctx context.Context, page storage.Page) ([]string, error)

// list answers with a list: all of it, or one page where limit or after is given.
func list(w http.ResponseWriter, r *http.Request, read lister) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	limit, limited, err := q.whole("limit", 1, maxLimit)
	if err != nil {
		return err
	}
	after, given, err := q.one("after")
	if err != nil {
		return err
	}
	if !limited && !given {
		return listAll(w, r, read)
	}
	if !limited {
		limit = pageSize
	}
	return listPage(w, r, q, read, storage.Page{After: after, Limit: int(limit)})
}

func listPage(w http.ResponseWriter, r *http.Request, q query, read lister, page storage.Page) error {
	// One more than asked for tells whether there is a next page.
	names, err := read(r.Context(), storage.Page{After: page.After, Limit: page.Limit + 1})
	if err != nil {
		return err
	}
	if len(names) > page.Limit {
		names = names[:page.Limit]
		linkNext(w, r, q, storage.Page{After: names[page.Limit-1], Limit: page.Limit})
	}
	return edge.WriteJSON(w, http.StatusOK, append([]string{}, names...))
}

// linkNext says where the next page is: the same request with another place to begin.
func linkNext(w http.ResponseWriter, r *http.Request, q query, page storage.Page) {
	q.Set("limit", strconv.Itoa(page.Limit))
	q.Set("after", page.After)
	next := url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: q.Encode()}
	w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
}

// errNoPlace says that a page cannot begin where it is asked to.
var errNoPlace = invalid("after", "must be from the Link of another page")

// placeText is a place in a list that is sorted by times, and then by something else, as it stands in the query.
func placeText(at time.Time, rest string) string {
	micros := int64(0)
	if !at.IsZero() {
		micros = at.UnixMicro()
	}
	return strconv.FormatInt(micros, 10) + "-" + rest
}

func parsePlace(text string) (at time.Time, rest string, err error) {
	before, rest, _ := strings.Cut(text, "-")
	micros, err := strconv.ParseInt(before, 10, 64)
	if err != nil || micros < 0 || rest == "" {
		return at, "", errNoPlace
	}
	if micros > 0 {
		at = time.UnixMicro(micros)
	}
	return at, rest, nil
}

// listAll writes a list page by page. Nothing is written before the first page is read: what goes wrong usually goes
// wrong while it can still be said.
func listAll(w http.ResponseWriter, r *http.Request, read lister) error {
	text := bytes.NewBufferString("[")
	separator := ""
	page := storage.Page{Limit: pageSize}
	for {
		names, err := read(r.Context(), page)
		if err != nil {
			return err
		}
		for _, name := range names {
			text.WriteString(separator)
			if err := appendJSON(text, name); err != nil {
				return err
			}
			separator = ","
		}
		if len(names) < page.Limit {
			text.WriteString("]\n")
			return writeJSON(w, text)
		}
		if err := writeJSON(w, text); err != nil {
			return err
		}
		page.After = names[len(names)-1]
	}
}

// appendJSON adds a value as JSON, its text unescaped.
func appendJSON(text *bytes.Buffer, value any) error {
	encoder := json.NewEncoder(text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	text.Truncate(text.Len() - 1) // the encoder ends the line
	return nil
}

// writeJSON sends a piece of an answer on its way, and empties the buffer for the next one.
func writeJSON(w http.ResponseWriter, text *bytes.Buffer) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := text.WriteTo(w)
	return err
}
