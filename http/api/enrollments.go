package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

const (
	// usualPage and maxPage are how many enrollments a page has, if nothing is said, and at most; and so in other lists that
	// have pages always.
	usualPage = 100
	maxPage   = 1000
)

// States of an enrollment.
const (
	stateEnrolled = "enrolled"
	stateLeft     = "left"
)

type enrollment struct {
	ID           string   `json:"id"`
	Type         string   `json:"type,omitempty"`
	ParentID     string   `json:"parent_id,omitempty"`
	Known        bool     `json:"known"`
	State        string   `json:"state"`
	Sets         []string `json:"sets"`
	InSync       bool     `json:"in_sync"`
	Since        string   `json:"since,omitempty"`
	DesiredToken string   `json:"desired_token,omitempty"`
	SyncedToken  string   `json:"synced_token,omitempty"`
	FetchedToken string   `json:"fetched_token,omitempty"`
	WaitsFor     step     `json:"waits_for,omitempty"`
	Steps        steps    `json:"steps"`
	Held         bool     `json:"held"`
	Leased       bool     `json:"leased"`
	NotifyAt     string   `json:"notify_at,omitempty"`
	Attempts     int      `json:"attempts"`
	LastError    string   `json:"last_error,omitempty"`
	LastSeen     string   `json:"last_seen,omitempty"`
	Facts        *facts   `json:"facts,omitempty"`
}

// facts are what the device has said of itself.
type facts struct {
	SerialNumber string `json:"serial_number,omitempty"`
	Model        string `json:"model,omitempty"`
	OSFamily     string `json:"os_family,omitempty"`
	OSVersion    string `json:"os_version,omitempty"`
	OSBuild      string `json:"os_build,omitempty"`
	DDMOnSince   string `json:"ddm_on_since,omitempty"`
}

// factsOf describes facts; nil if there are none.
func factsOf(known storage.Facts) *facts {
	if known == (storage.Facts{}) {
		return nil
	}
	return &facts{
		SerialNumber: known.SerialNumber,
		Model:        known.Model,
		OSFamily:     known.OSFamily,
		OSVersion:    known.OSVersion,
		OSBuild:      known.OSBuild,
		DDMOnSince:   timestamp(known.ConfirmedAt),
	}
}

// enrollmentOf describes an enrollment, given what it should have and whether it has that.
func enrollmentOf(e *storage.Enrollment, desired string, inSync bool, sets []string) enrollment {
	answer := enrollment{
		ID:           e.ID,
		Type:         e.Type,
		ParentID:     e.ParentID,
		Known:        e.Known,
		State:        stateEnrolled,
		Sets:         append([]string{}, sets...),
		InSync:       inSync,
		DesiredToken: desired,
		SyncedToken:  e.SyncedToken,
		FetchedToken: e.FetchedToken,
		WaitsFor:     waitsFor(e, desired, inSync),
		Steps:        stepsOf(e),
		Held:         e.Held,
		Leased:       e.LeaseUntil.After(e.Now),
		NotifyAt:     timestamp(e.NotifyAt),
		Attempts:     e.Attempts,
		LastError:    e.LastError,
		LastSeen:     timestamp(e.LastSeen),
	}
	if !e.LeftAt.IsZero() {
		answer.State = stateLeft
	}
	// Storage knows since when it is as storage found it last, which may be otherwise than it is now.
	if inSync != e.OutOfSync {
		answer.Since = timestamp(e.SyncChangedAt)
	}
	return answer
}

func (a *api) getEnrollment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathName(r, "id")
	if err != nil {
		return err
	}
	e, vector, err := a.Store.Enrollment(r.Context(), id)
	if err != nil {
		return err
	}
	if !e.Known {
		return unknownEnrollment(id)
	}
	desired, empty, err := a.Compositor.Desired(r.Context(), e, vector)
	if err != nil {
		return err
	}
	var sets []string
	for _, set := range vector[:min(len(vector), storage.MaxListedSets)] {
		sets = append(sets, set.Name)
	}
	known, err := a.Store.Facts(r.Context(), []string{id})
	if err != nil {
		return err
	}
	answer := enrollmentOf(e, desired, e.InSync(desired, empty), sets)
	answer.Facts = factsOf(known[id])
	return edge.WriteJSON(w, http.StatusOK, answer)
}

func unknownEnrollment(id string) error {
	return edge.NewError(http.StatusNotFound, "there is no enrollment %q", id)
}

// getEnrollments answers with a page of enrollments as they were when each was last looked at: composing what each should
// have now could take long.
func (a *api) getEnrollments(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	filter, err := enrollmentFilter(q)
	if err != nil {
		return err
	}
	page, err := q.page(usualPage, maxPage)
	if err != nil {
		return err
	}
	found, next, err := a.Store.ListEnrollments(r.Context(), filter, page)
	if err != nil {
		return err
	}
	ids := convert(found, func(l storage.Listed) string { return l.Enrollment.ID })
	known, err := a.Store.Facts(r.Context(), ids)
	if err != nil {
		return err
	}
	if next != "" {
		linkNext(w, r, q, storage.Page{After: next, Limit: page.Limit})
	}
	list := make([]enrollment, len(found))
	for i := range found {
		e := &found[i].Enrollment
		list[i] = enrollmentOf(e, e.DesiredToken, !e.OutOfSync, found[i].Sets)
		list[i].Facts = factsOf(known[e.ID])
	}
	return edge.WriteJSON(w, http.StatusOK, list)
}

// enrollmentParameters are those of the list of enrollments.
var enrollmentParameters = []string{
	"in_sync", "state", "set", "type", "failing", "seen_before", "seen_after", "serial", "model", "os_family", "os_version_lt",
	"os_version_ge", "supports", "ddm_on", "limit", "after",
}

func enrollmentFilter(q query) (filter storage.EnrollmentFilter, err error) {
	if filter.InSync, err = q.optionalBoolean("in_sync"); err != nil {
		return filter, err
	}
	if filter.Failing, err = q.optionalBoolean("failing"); err != nil {
		return filter, err
	}
	if filter.Set, err = q.optional("set"); err != nil {
		return filter, err
	}
	if filter.Type, err = q.optional("type"); err != nil {
		return filter, err
	}
	if filter.SeenBefore, err = q.instant("seen_before"); err != nil {
		return filter, err
	}
	if filter.SeenAfter, err = q.instant("seen_after"); err != nil {
		return filter, err
	}
	for name, into := range map[string]*string{
		"serial": &filter.Serial, "model": &filter.Model, "os_family": &filter.OSFamily, "supports": &filter.Supports,
	} {
		if *into, err = q.optional(name); err != nil {
			return filter, err
		}
	}
	if filter.OSVersionFrom, err = q.version("os_version_ge"); err != nil {
		return filter, err
	}
	if filter.OSVersionBelow, err = q.version("os_version_lt"); err != nil {
		return filter, err
	}
	if filter.Confirmed, err = q.optionalBoolean("ddm_on"); err != nil {
		return filter, err
	}
	state, given, err := q.one("state")
	if err != nil || !given {
		return filter, err
	}
	if state != stateEnrolled && state != stateLeft {
		return filter, invalid("state", "must be %s or %s", stateEnrolled, stateLeft)
	}
	left := state == stateLeft
	filter.Left = &left
	return filter, nil
}

// syncEnrollment serves /v1/enrollments/{id}/sync. Since an id may hold slashes, the end of the path is taken off here.
func (a *api) syncEnrollment(w http.ResponseWriter, r *http.Request) error {
	id, isSync := strings.CutSuffix(r.PathValue("path"), "/sync")
	if !isSync {
		return edge.NewError(http.StatusNotFound,
			"there is nothing at this path: to have an enrollment synchronize, POST to /v1/enrollments/ID/sync")
	}
	if err := encoded("id", id); err != nil {
		return err
	}
	c, err := newChange(r)
	if err != nil {
		return err
	}
	edge.EventOf(r.Context()).Set("enrollment_id", id)
	// To tell one that is not known would make it known.
	e, _, err := a.Store.Enrollment(r.Context(), id)
	if err != nil {
		return err
	}
	if !e.Known {
		return unknownEnrollment(id)
	}
	if err := a.Store.Notify(r.Context(), storage.NotifyTargets{Enrollments: []string{id}}, c.options); err != nil {
		return err
	}
	return a.finish(w, c, true)
}

// timestamp is a time as RFC 3339 in UTC, and nothing for the zero time. Whole seconds: jq's fromdateiso8601 takes no
// others.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
