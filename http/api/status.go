package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

const (
	maxStatusIDs     = 500
	maxErrors        = 1000
	defaultMaxErrors = 10
)

type declarationStatus struct {
	Identifier     string          `json:"identifier"`
	Active         bool            `json:"active"`
	Valid          string          `json:"valid"`
	ServerToken    string          `json:"server-token"`
	Current        bool            `json:"current"`
	StatusReceived string          `json:"status_received"`
	Reasons        json.RawMessage `json:"reasons,omitempty"`
	StatusID       int64           `json:"status_id,string"`
}

func (a *api) getDeclarationStatus(w http.ResponseWriter, r *http.Request) error {
	return perEnrollment(w, r, func(ctx context.Context, id string) ([]declarationStatus, error) {
		statuses, err := a.Store.DeclarationStatuses(ctx, id)
		return convert(statuses, declarationStatusOf), err
	})
}

func declarationStatusOf(s storage.DeclarationStatus) declarationStatus {
	return declarationStatus{
		Identifier:     s.Identifier,
		Active:         s.Active,
		Valid:          s.Valid,
		ServerToken:    s.ServerToken,
		Current:        s.Current,
		StatusReceived: timestamp(s.ReceivedAt),
		Reasons:        s.Reasons,
		StatusID:       s.StatusID,
	}
}

type statusError struct {
	Path      string          `json:"path"`
	Error     json.RawMessage `json:"error"`
	Timestamp string          `json:"timestamp"`
	StatusID  int64           `json:"status_id,string"`
}

func (a *api) getStatusErrors(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	offset, _, err := q.whole("offset", 0, 1<<31-1)
	if err != nil {
		return err
	}
	limit, given, err := q.whole("limit", 1, maxErrors)
	if err != nil {
		return err
	}
	if !given {
		limit = defaultMaxErrors
	}
	return perEnrollment(w, r, func(ctx context.Context, id string) ([]statusError, error) {
		reported, err := a.Store.StatusErrors(ctx, id, int(offset), int(limit))
		return convert(reported, func(e storage.StatusError) statusError {
			return statusError{e.Path, e.Error, timestamp(e.ReceivedAt), e.StatusID}
		}), err
	})
}

type statusValue struct {
	Path      string `json:"path"`
	Value     string `json:"value"`
	Timestamp string `json:"timestamp"`
	StatusID  int64  `json:"status_id,string"`
}

func (a *api) getStatusValues(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	like, _, err := q.one("prefix")
	if err != nil {
		return err
	}
	paths := parsePattern(like)
	return perEnrollment(w, r, func(ctx context.Context, id string) ([]statusValue, error) {
		values, err := a.Store.StatusValues(ctx, id)
		if like != "" {
			values = slices.DeleteFunc(values, func(v storage.StatusValue) bool { return !paths.matches(v.Path) })
		}
		return convert(values, func(v storage.StatusValue) statusValue {
			return statusValue{v.Path, valueText(v.Value), timestamp(v.ChangedAt), v.StatusID}
		}), err
	})
}

// valueText is what a JSON string stands for, and any other value's JSON text.
func valueText(value []byte) string {
	var text string
	if bytes.HasPrefix(value, []byte(`"`)) && json.Unmarshal(value, &text) == nil {
		return text
	}
	return string(value)
}

func convert[From, To any](list []From, one func(From) To) []To {
	converted := make([]To, 0, len(list))
	for _, element := range list {
		converted = append(converted, one(element))
	}
	return converted
}

// perEnrollment answers with an object that has a list for each enrollment asked for. What is known of one enrollment
// can be megabytes, so one at a time is held.
func perEnrollment[E any](
	w http.ResponseWriter, r *http.Request, read func(ctx context.Context, id string) ([]E, error),
) error {
	ids, err := enrollmentIDs(r)
	if err != nil {
		return err
	}
	text := bytes.NewBufferString("{")
	for i, id := range ids {
		list, err := read(r.Context(), id)
		if err != nil {
			return err
		}
		if i > 0 {
			text.WriteByte(',')
		}
		if err := appendJSON(text, id); err != nil {
			return err
		}
		text.WriteByte(':')
		if err := appendJSON(text, list); err != nil {
			return err
		}
		if i == len(ids)-1 {
			text.WriteString("}\n")
		}
		if err := writeJSON(w, text); err != nil {
			return err
		}
	}
	return nil
}

// enrollmentIDs returns the enrollments that a path names, each once.
func enrollmentIDs(r *http.Request) ([]string, error) {
	text, err := pathName(r, "ids")
	if err != nil {
		return nil, err
	}
	if count := strings.Count(text, ",") + 1; count > maxStatusIDs {
		return nil, invalid("ids", "must not be more than %d enrollment ids, are %d", maxStatusIDs, count)
	}
	var ids []string
	for id := range strings.SplitSeq(text, ",") {
		switch {
		case id == "":
			return nil, invalid("ids", "must be enrollment ids separated by commas, none of them empty")
		case !slices.Contains(ids, id):
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (a *api) getStatusReport(w http.ResponseWriter, r *http.Request) error {
	id, err := pathName(r, "id")
	if err != nil {
		return err
	}
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	index, indexGiven, err := q.whole("index", 0, 1<<31-1)
	if err != nil {
		return err
	}
	statusID, statusIDGiven, err := q.whole("status_id", 0, 1<<63-1)
	if err != nil {
		return err
	}
	var report *storage.StatusReport
	switch {
	case indexGiven && statusIDGiven:
		return invalid("status_id", "must not be given together with index")
	case statusIDGiven:
		report, err = a.Store.StatusReportByID(r.Context(), id, statusID)
	default:
		report, err = a.Store.StatusReportByIndex(r.Context(), id, int(index))
	}
	if errors.Is(err, storage.ErrNotFound) {
		return edge.NewError(http.StatusNotFound, "there is no such status report of enrollment %q", id)
	}
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Last-Modified", report.ReceivedAt.UTC().Format(http.TimeFormat))
	header.Set("X-Status-Report-ID", strconv.FormatInt(report.StatusID, 10))
	header.Set("X-Status-Report-Index", strconv.Itoa(report.Index))
	_, err = w.Write(report.Raw)
	return err
}
