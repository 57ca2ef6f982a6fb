package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// Error is an error that says what the client is told.
type Error struct {
	Status  int
	Message string
	Details []string
}

// NewError returns an Error without details.
func NewError(status int, format string, arguments ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, arguments...)}
}

func (e *Error) Error() string {
	return e.Message
}

// problemOf is the one mapping of errors to answers. What it does not know is the server's fault, and its text is not
// for the client: nil Details and an empty Message.
func problemOf(err error) *Error {
	var known *Error
	var invalid *ddm.InvalidError
	var missing *storage.MissingReferencesError
	var inUse *storage.InUseError
	var gone *storage.HappeningsGoneError
	var notReady *storage.NotReadyError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &invalid):
		return invalidProblem(invalid)
	case errors.As(err, &missing):
		return &Error{Status: http.StatusUnprocessableEntity, Message: missing.Error(), Details: missing.Missing}
	case errors.As(err, &inUse):
		return inUseProblem(inUse)
	case errors.As(err, &gone):
		return NewError(http.StatusGone, "%s", gone.Error())
	case errors.As(err, &tooLarge):
		return NewError(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", tooLarge.Limit)
	case errors.As(err, &notReady):
		return NewError(http.StatusServiceUnavailable, "%s", notReady.Reason)
	case errors.Is(err, storage.ErrNotFound):
		return NewError(http.StatusNotFound, "not found")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return NewError(http.StatusServiceUnavailable, "this took too long; try again")
	}
	return &Error{Status: http.StatusInternalServerError}
}

func invalidProblem(invalid *ddm.InvalidError) *Error {
	problem := NewError(http.StatusBadRequest, "%s", invalid.Error())
	for _, p := range invalid.Problems {
		problem.Details = append(problem.Details, p.String())
	}
	return problem
}

func inUseProblem(inUse *storage.InUseError) *Error {
	problem := NewError(http.StatusConflict, "%s", inUse.Error())
	for _, set := range inUse.Sets {
		problem.Details = append(problem.Details, "set "+set)
	}
	for _, declaration := range inUse.Declarations {
		problem.Details = append(problem.Details, "declaration "+declaration)
	}
	return problem
}

func writeProblem(w http.ResponseWriter, problem *Error, event *Event, opaque bool) {
	body := struct {
		Error   string   `json:"error"`
		Details []string `json:"details,omitempty"`
	}{problem.Message, problem.Details}
	switch {
	case opaque:
		body.Error, body.Details = strings.ToLower(http.StatusText(problem.Status)), nil
	case body.Error == "":
		body.Error = "something went wrong here; the log has it under trace id " + event.TraceID()
	}
	if problem.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	_ = WriteJSON(w, problem.Status, body) // the client may be gone
}

// WriteJSON answers with a value as JSON, its text unescaped.
func WriteJSON(w http.ResponseWriter, status int, value any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
