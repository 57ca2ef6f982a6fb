// Package api serves the REST API for admins: declarations, sets, who has them, and what devices say. It changes what
// is desired and nothing else; telling devices is the notifier's work, which it only wakes. It also tells those who watch
// servers whether this one works.
package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

// Store is what the API needs of storage.
type Store interface {
	storage.Declarations
	storage.Sets
	storage.EnrollmentSets
	storage.Enrollments
	storage.Statuses
	storage.Overview
	storage.Fleet
	storage.Changes
	// DeclarationVersion is that of storage.Compositions.
	DeclarationVersion(ctx context.Context, identifier, serverToken string) (*ddm.Declaration, error)
	// Happenings is that of storage.Happenings.
	Happenings(ctx context.Context, query storage.HappeningQuery) (*storage.HappeningPage, error)
	// Notify is that of storage.Notifications.
	Notify(ctx context.Context, targets storage.NotifyTargets, options storage.ChangeOptions) error
	// Unmatched is that of storage.Notifications.
	Unmatched(ctx context.Context, targets storage.NotifyTargets) (storage.NotifyTargets, error)
}

// Compositor says what an enrollment should have. It is safe for concurrent use.
type Compositor interface {
	// Desired returns the DeclarationsToken of what an enrollment should have, and whether that is nothing. The
	// enrollment and its vector were read together.
	Desired(ctx context.Context, enrollment *storage.Enrollment, vector storage.Vector) (
		token string, empty bool, err error)
}

// Config is what Register needs.
type Config struct {
	Store      Store
	Compositor Compositor
	// Keys are the API keys.
	Keys *Keyring
	// CORSOrigin is the origin whose pages may use the API from a browser: one origin, "*" for all, empty for none.
	CORSOrigin string
	// Shard says that every enrollment also has the declaration of its shard number.
	Shard bool
	// Version is what GET /version answers.
	Version string
	// Breaker tells whether the MDM is taken to be down, after how many failures in a row, and when it is tried next. It is
	// nil where no MDM is known.
	Breaker func() (open bool, failures int, nextProbe time.Time)
	// Rate is how many enrollments this server told in a second lately. It is nil where no MDM is known.
	Rate func() float64
	// Stopping, if not nil, is closed when the server is being stopped: requests that wait for events are answered then.
	Stopping <-chan struct{}
	// Wake, if not nil, is called after each change that may lead to notifications. It must not block.
	Wake func()
}

// Register adds the API to a mux.
func Register(mux *edge.Mux, config Config) {
	a := &api{Config: config, eventWaiters: make(chan struct{}, maxEventWaiters)}
	for _, route := range a.routes() {
		handler := route.handler
		if strings.Contains(route.pattern, " "+prefix) {
			handler = Authorized(config.Keys, ownPages(config.CORSOrigin, handler))
		}
		mux.Handle(route.pattern, handler)
	}
	if config.CORSOrigin != "" {
		a.allowOrigin(mux)
	}
}

const (
	versionPath = "/version"
	// prefix is what the paths begin with that need the API key.
	prefix = "/v1/"
)

type api struct {
	Config
	// eventWaiters has an element for each request that waits for events.
	eventWaiters chan struct{}
}

type route struct {
	pattern string
	handler edge.HandlerFunc
}

// routes lists the whole API. Names in paths take the rest of the path, since they may hold slashes. Where only is not
// said, KMFDDM's clients may send parameters that mean nothing, as they always could.
func (a *api) routes() []route {
	return []route{
		{"GET " + versionPath, a.getVersion},

		{"GET /v1/declarations", a.getDeclarations},
		{"PUT /v1/declarations", a.putDeclaration},
		{"GET /v1/declarations/{id...}", a.getDeclaration},
		{"DELETE /v1/declarations/{id...}", a.deletes("declaration", Store.DeleteDeclaration)},
		{"POST /v1/declarations/{path...}", a.postDeclaration},
		{"GET /v1/declaration-versions/{id...}", only(a.getDeclarationVersions, "token", "limit", "after")},
		{"GET /v1/declaration-sets/{id...}", a.getDeclarationSets},
		{"GET /v1/declaration-summary", only(a.getDeclarationSummaries, "limit", "after")},
		{"GET /v1/declaration-summary/{id...}", only(a.getDeclarationSummary)},
		{"GET /v1/declaration-enrollments/{id...}", only(a.getDeclarationEnrollments, "state", "limit", "after")},

		{"GET /v1/sets", a.getSets},
		{"GET /v1/set-declarations/{set...}", a.getSetDeclarations},
		{"PUT /v1/set-declarations/{set...}", a.putSetDeclaration},
		{"DELETE /v1/set-declarations/{set...}", a.deleteSetDeclaration},

		{"GET /v1/enrollments", only(a.getEnrollments, enrollmentParameters...)},
		{"GET /v1/enrollments/{id...}", only(a.getEnrollment)},
		{"DELETE /v1/enrollments/{id...}", a.deletes("enrollment_id", Store.DeleteEnrollment)},
		{"POST /v1/enrollments/{path...}", a.syncEnrollment},
		{"GET /v1/enrollment-sets/{id...}", a.getEnrollmentSets},
		{"PUT /v1/enrollment-sets/{id...}", a.putEnrollmentSet},
		{"DELETE /v1/enrollment-sets/{id...}", a.deleteEnrollmentSet},
		{"GET /v1/enrollment-declarations/{id...}", only(a.getEnrollmentDeclarations)},
		{"DELETE /v1/enrollment-sets-all/{id...}", a.deletes("enrollment_id", Store.DeleteEnrollmentSets)},
		{"DELETE /v1/enrollment-sets-all/sets/{id...}", a.deletes("enrollment_id", Store.DeleteEnrollmentSets)},

		{"GET /v1/declaration-status/{ids...}", a.getDeclarationStatus},
		{"GET /v1/status-errors/{ids...}", a.getStatusErrors},
		{"GET /v1/status-values/{ids...}", a.getStatusValues},
		{"GET /v1/status-report/{id...}", a.getStatusReport},
		{"GET /v1/status-summary", only(a.getStatusSummary, "path", "limit", "after")},
		{"GET /v1/problems", only(a.getProblems, "limit", "after")},

		{"GET /v1/changes", only(a.getChanges,
			"change_id", "key", "action", "declaration", "set", "enrollment_id", "since", "until", "limit", "after")},
		{"GET /v1/events", only(a.getEvents, "after", "limit", "wait", "kind", "enrollment_id")},

		{"GET /v1/notifications", only(a.getNotifications)},
		{"POST /v1/notify", a.postNotify},
	}
}

func (a *api) getVersion(w http.ResponseWriter, _ *http.Request) error {
	return edge.WriteJSON(w, http.StatusOK, struct {
		Version string `json:"version"`
	}{a.Version})
}
