package api

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

const (
	// maxTargets is how many declarations, sets and enrollments one request may name.
	maxTargets     = 10000
	maxTargetBytes = 4 << 20
	// maxTargetsLogged is how many of each kind are named in the log and in a warning.
	maxTargetsLogged = 5
)

// postNotify has enrollments told, also those in sync.
func (a *api) postNotify(w http.ResponseWriter, r *http.Request) error {
	c, err := newChange(r)
	if err != nil {
		return err
	}
	c.options.Held = false
	targets, err := notifyTargets(w, r, c.query)
	if err != nil {
		return err
	}
	event := edge.EventOf(r.Context())
	for _, named := range []struct {
		attribute string
		names     []string
	}{{"declaration", targets.Declarations}, {"set", targets.Sets}, {"enrollment_id", targets.Enrollments}} {
		if len(named.names) > 0 {
			event.Set(named.attribute, someOf(named.names))
		}
	}
	if c.verbose {
		// Before it is done, which makes enrollments known.
		unmatched, err := a.Store.Unmatched(r.Context(), targets)
		if err != nil {
			return err
		}
		c.warnings = append(c.warnings, notifyWarnings(unmatched)...)
	}
	if err := a.Store.Notify(r.Context(), targets, c.options); err != nil {
		return err
	}
	return a.finish(w, c, true)
}

// notifyTargets reads the targets from the query string and from a form, which has room for more.
func notifyTargets(w http.ResponseWriter, r *http.Request, q query) (storage.NotifyTargets, error) {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	form := url.Values{}
	if mediaType == "application/x-www-form-urlencoded" {
		body, err := edge.ReadBody(w, r, maxTargetBytes)
		if err != nil {
			return storage.NotifyTargets{}, err
		}
		if form, err = url.ParseQuery(string(body)); err != nil {
			return storage.NotifyTargets{}, invalid("body", "cannot be read as the form that its Content-Type says: %v", err)
		}
	}
	targets := storage.NotifyTargets{
		Declarations: append(q.Values["declaration"], form["declaration"]...),
		Sets:         append(q.Values["set"], form["set"]...),
		Enrollments:  append(q.Values["id"], form["id"]...),
	}
	switch count := len(targets.Declarations) + len(targets.Sets) + len(targets.Enrollments); {
	case count == 0:
		return targets, invalid("declaration, set, id", "at least one must be given, as a query parameter or in a form")
	case count > maxTargets:
		return targets, invalid("declaration, set, id", "must not be more than %d together, are %d", maxTargets, count)
	}
	var problems []*ddm.Problem
	for _, identifier := range targets.Declarations {
		problems = append(problems, ddm.ValidateIdentifier("declaration", identifier))
	}
	for _, set := range targets.Sets {
		problems = append(problems, ddm.ValidateName("set", set))
	}
	for _, id := range targets.Enrollments {
		problems = append(problems, ddm.ValidateEnrollmentID("id", id))
	}
	return targets, refused(problems...)
}

// notifyWarnings tells of targets that are hardly meant. They are no error, since the clients of KMFDDM never saw one.
func notifyWarnings(unmatched storage.NotifyTargets) (warnings []string) {
	for _, kind := range []struct {
		what  string
		names []string
	}{
		{"declaration: does not exist", unmatched.Declarations},
		{"set: no enrollment has it", unmatched.Sets},
		{"id: was not known", unmatched.Enrollments},
	} {
		if len(kind.names) > 0 {
			warnings = append(warnings, kind.what+": "+someOf(kind.names))
		}
	}
	return warnings
}

// someOf is a list of names, cut.
func someOf(names []string) string {
	if more := len(names) - maxTargetsLogged; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxTargetsLogged], ", "), more)
	}
	return strings.Join(names, ", ")
}
