package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

// query is the parameters of a request.
type query struct{ url.Values }

// parseQuery reads the query string. One that is malformed is refused whole: of "nonotify=%zz&declaration=D" only
// the second half could be followed.
func parseQuery(r *http.Request) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, invalid("query string", "is malformed: %v", err)
	}
	return query{values}, nil
}

// only refuses requests with parameters that are not among those named: a filter whose name is mistyped would otherwise
// find everybody.
func only(handler edge.HandlerFunc, names ...string) edge.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, err := parseQuery(r)
		if err != nil {
			return err
		}
		var problems []ddm.Problem
		for _, name := range slices.Sorted(maps.Keys(q.Values)) {
			if slices.Contains(names, name) {
				continue
			}
			message := "is no parameter of this request, which has none"
			if len(names) > 0 {
				message = "is no parameter of this request, which has " + strings.Join(names, ", ")
			}
			problems = append(problems, ddm.Problem{Field: strings.ToValidUTF8(name, "\ufffd"), Message: message})
		}
		if len(problems) > 0 {
			return &ddm.InvalidError{Problems: problems}
		}
		return handler(w, r)
	}
}

// one returns a parameter that may be given once.
func (q query) one(name string) (value string, given bool, err error) {
	values := q.Values[name]
	switch len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, encoded(name, values[0])
	}
	return "", true, invalid(name, "must be given once, not %d times", len(values))
}

// required returns a parameter that must be given once, and not be empty.
func (q query) required(name string) (string, error) {
	value, given, err := q.one(name)
	switch {
	case err != nil:
		return "", err
	case !given:
		return "", invalid(name, "is missing: it must be given in the query string")
	case value == "":
		return "", invalid(name, "must not be empty")
	}
	return value, nil
}

// boolean returns a parameter that is false when it is missing, empty or one of the words that say so.
func (q query) boolean(name string) (bool, error) {
	value, _, err := q.one(name)
	switch strings.ToLower(value) {
	case "", "0", "false", "no", "off":
		return false, err
	}
	return true, err
}

// whole returns a parameter that is a whole number, and whether it was given.
func (q query) whole(name string, lowest, highest int64) (number int64, given bool, err error) {
	value, given, err := q.one(name)
	if err != nil || !given {
		return 0, given, err
	}
	number, err = strconv.ParseInt(value, 10, 64)
	if err != nil || number < lowest || number > highest {
		return 0, true, invalid(name, "must be a whole number from %d to %d", lowest, highest)
	}
	return number, true, nil
}

// optional returns a parameter that may be left out, but not be empty.
func (q query) optional(name string) (string, error) {
	value, given, err := q.one(name)
	if err == nil && given && value == "" {
		err = invalid(name, "must not be empty")
	}
	return value, err
}

// optionalBoolean returns a parameter that is a boolean, or nil when it is missing.
func (q query) optionalBoolean(name string) (*bool, error) {
	if !q.Has(name) {
		return nil, nil
	}
	value, err := q.boolean(name)
	return &value, err
}

// version returns a parameter that is a version, or nothing when it is missing.
func (q query) version(name string) (string, error) {
	value, given, err := q.one(name)
	if err == nil && given && ddm.VersionOrder(value) == "" {
		err = invalid(name, "must be a version, such as 15.2")
	}
	return value, err
}

// page returns the limit of a list that has pages always, and the place after which to go on.
func (q query) page(usual int, most int64) (page storage.Page, err error) {
	page.Limit = usual
	limit, limited, err := q.whole("limit", 1, most)
	if err != nil {
		return page, err
	}
	if limited {
		page.Limit = int(limit)
	}
	page.After, _, err = q.one("after")
	return page, err
}

// instant returns a parameter that is a time, or the zero time when it is missing.
func (q query) instant(name string) (time.Time, error) {
	value, given, err := q.one(name)
	if err != nil || !given {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil || at.Unix() < 0 {
		return time.Time{}, invalid(name, "must be a time of 1970 or later as in RFC 3339, such as 2026-01-31T09:00:00Z")
	}
	return at, nil
}

// pathName returns the part of the path that names what a request is about.
func pathName(r *http.Request, name string) (string, error) {
	value := r.PathValue(name)
	if value == "" {
		return "", invalid(name, "must not be empty: it is missing at the end of the path")
	}
	return value, encoded(name, value)
}

// encoded refuses what cannot be a name of anything, and what an answer in JSON could not repeat.
func encoded(name, value string) error {
	if !utf8.ValidString(value) {
		return invalid(name, "must be valid UTF-8")
	}
	return nil
}

// invalid is the error for one thing that is wrong with a request.
func invalid(field, format string, arguments ...any) error {
	return &ddm.InvalidError{Problems: []ddm.Problem{{Field: field, Message: fmt.Sprintf(format, arguments...)}}}
}

// refused turns the first problem that there is into an error.
func refused(problems ...*ddm.Problem) error {
	for _, problem := range problems {
		if problem != nil {
			return &ddm.InvalidError{Problems: []ddm.Problem{*problem}}
		}
	}
	return nil
}
