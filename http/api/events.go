package api

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

const (
	// eventPage and maxEventPage are how many events a page has, if nothing is said, and at most.
	eventPage    = 100
	maxEventPage = 1000
	// maxEventWait is for how many seconds a request can wait for events, well within what the server takes for an answer,
	// and maxEventWaiters how many can wait at once: each looks at the log every eventPoll.
	maxEventWait    = 30
	maxEventWaiters = 50
	eventPoll       = 500 * time.Millisecond
)

type events struct {
	Events []storage.Happening `json:"events"`
	Next   int64               `json:"next"`
	LastID int64               `json:"last_id"`
}

// getEvents answers with a page of the log of what happened.
func (a *api) getEvents(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	query, err := happeningQuery(q)
	if err != nil {
		return err
	}
	seconds, _, err := q.whole("wait", 0, maxEventWait)
	if err != nil {
		return err
	}
	page, err := a.Store.Happenings(r.Context(), query)
	if err == nil && len(page.Happenings) == 0 && seconds > 0 {
		page, err = a.waitForEvents(r, query, page, time.Duration(seconds)*time.Second)
	}
	if err != nil {
		return err
	}
	if page.Next < page.LastID {
		q.Del("wait")
		q.Set("limit", strconv.Itoa(query.Limit))
		q.Set("after", strconv.FormatInt(page.Next, 10))
		next := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
		w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	}
	return edge.WriteJSON(w, http.StatusOK,
		events{append([]storage.Happening{}, page.Happenings...), page.Next, page.LastID})
}

func happeningQuery(q query) (query storage.HappeningQuery, err error) {
	after, given, err := q.whole("after", 0, 1<<62)
	if err != nil {
		return query, err
	}
	query.After = storage.FromOldest
	if given {
		query.After = after
	}
	limit, given, err := q.whole("limit", 1, maxEventPage)
	if err != nil {
		return query, err
	}
	query.Limit = eventPage
	if given {
		query.Limit = int(limit)
	}
	for _, name := range q.Values["kind"] {
		kind := storage.HappeningKind(name)
		if !slices.Contains(storage.HappeningKinds, kind) {
			return query, invalid("kind", "must be one of %s", eventKinds())
		}
		if !slices.Contains(query.Kinds, kind) {
			query.Kinds = append(query.Kinds, kind)
		}
	}
	query.EnrollmentID, err = q.optional("enrollment_id")
	return query, err
}

func eventKinds() string {
	var names []string
	for _, kind := range storage.HappeningKinds {
		names = append(names, string(kind))
	}
	return strings.Join(names, ", ")
}

// waitForEvents looks at the log now and then, until there is an event or the time is over. A page that is empty has been
// read already.
func (a *api) waitForEvents(
	r *http.Request, query storage.HappeningQuery, page *storage.HappeningPage, wait time.Duration,
) (*storage.HappeningPage, error) {
	select {
	case a.eventWaiters <- struct{}{}:
	default:
		return nil, edge.NewError(http.StatusServiceUnavailable,
			"too many requests wait for events already: ask without wait")
	}
	defer func() { <-a.eventWaiters }()
	end := time.NewTimer(wait)
	defer end.Stop()
	poll := time.NewTicker(eventPoll)
	defer poll.Stop()
	for len(page.Happenings) == 0 {
		// What was looked at without a result need not be looked at again.
		query.After = page.Next
		if page.Next == page.LastID {
			select {
			case <-r.Context().Done():
				return nil, r.Context().Err()
			case <-a.Stopping:
				return page, nil
			case <-end.C:
				return page, nil
			case <-poll.C:
			}
		}
		var err error
		if page, err = a.Store.Happenings(r.Context(), query); err != nil {
			return nil, err
		}
	}
	return page, nil
}
