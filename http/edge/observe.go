package edge

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Observer is told of the requests of each route. Route is called while the mux is built, so that nothing has to be looked
// up for a request; the empty pattern stands for what no pattern matches.
type Observer interface {
	Route(pattern string) RouteObserver
}

// RouteObserver is told of requests, by many goroutines at once.
type RouteObserver interface {
	Began()
	// Ended gets the code of the answer, or StatusClientGone for a client that went away before it.
	Ended(code int, duration time.Duration)
}

// StatusClientGone is the code, which no client sees, of requests whose client went away. It is nginx's.
const StatusClientGone = 499

// Observe has an observer told of all requests from then on, whichever routes are there already. Like Handle, it is for the
// time before the first request.
func (m *Mux) Observe(observer Observer) {
	m.observer = observer
	for _, route := range m.routes {
		route.observer = observer.Route(route.pattern)
	}
}

// route is what is known of a route beside its handler.
type route struct {
	pattern  string
	observer RouteObserver
}

func (m *Mux) newRoute(pattern string) *route {
	r := &route{pattern: pattern, observer: nobody{}}
	if m.observer != nil {
		r.observer = m.observer.Route(pattern)
	}
	m.routes = append(m.routes, r)
	return r
}

// nobody is told of nothing.
type nobody struct{}

func (nobody) Began()                   {}
func (nobody) Ended(int, time.Duration) {}

// wentAway reports whether a request failed because its client is not there any more.
func wentAway(r *http.Request, err error) bool {
	return errors.Is(err, context.Canceled) && r.Context().Err() != nil
}
