// Package nanomdm is the client for NanoMDM's API: it enqueues commands, pushes, and judges the answers. It neither
// retries nor schedules.
package nanomdm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/notifier/transport"
)

// username is what NanoMDM's API takes (NanoMDM: cmd/nanomdm).
const username = "nanomdm"

// Client asks one NanoMDM. It is safe for concurrent use.
type Client struct {
	*transport.Client
	pushURL string
}

var _ notifier.MDM = (*Client)(nil)

// New returns a client for the enqueue endpoint at a URL such as http://127.0.0.1:9000/v1/enqueue/ and an API key. The
// push endpoint is beside it.
func New(enqueueURL, key string) (*Client, error) {
	client, err := transport.New("NanoMDM", enqueueURL, "http://127.0.0.1:9000/v1/enqueue/", username, key)
	if err != nil {
		return nil, err
	}
	base, found := strings.CutSuffix(client.Endpoint(), "/enqueue/")
	if !found {
		return nil, fmt.Errorf("enqueue URL %q does not end with /enqueue/", enqueueURL)
	}
	return &Client{client, base + "/push/"}, nil
}

// Enqueue implements notifier.MDM.
func (c *Client) Enqueue(
	ctx context.Context, ids []string, command notifier.Command,
) (map[string]notifier.Result, error) {
	body, err := command.Plist()
	if err != nil {
		return nil, fmt.Errorf("encoding a command: %w", err)
	}
	code, text, err := c.Do(ctx, http.MethodPut, c.Endpoint()+transport.Path(ids), body)
	if err != nil {
		return nil, err
	}
	return judge(code, text, ids)
}

// Push implements notifier.MDM.
func (c *Client) Push(ctx context.Context, ids []string) (map[string]notifier.Result, error) {
	code, text, err := c.Do(ctx, http.MethodGet, c.pushURL+transport.Path(ids), nil)
	if err != nil {
		return nil, err
	}
	return judge(code, text, ids)
}

// probeID is an enrollment that no MDM has.
const probeID = "decree-probe"

// Probe implements notifier.MDM: it pushes to an enrollment that does not exist. NanoMDM looks it up in its database, and
// says so of the id where that works, and of the whole request where it does not (NanoMDM: push/service).
func (c *Client) Probe(ctx context.Context) error {
	code, text, err := c.Do(ctx, http.MethodGet, c.pushURL+probeID, nil)
	if err != nil {
		return err
	}
	a, err := parse(code, text)
	if err == nil && a.PushError != "" {
		err = fmt.Errorf("NanoMDM does not work: %s", a.PushError)
	}
	return err
}

// answer is NanoMDM's (NanoMDM: package api, APIResult).
type answer struct {
	Status map[string]struct {
		PushError    string `json:"push_error"`
		CommandError string `json:"command_error"`
	} `json:"status"`
	PushError    string `json:"push_error"`
	CommandError string `json:"command_error"`
	CommandUUID  string `json:"command_uuid"`
}

// parse reads an answer of NanoMDM's own.
func parse(code int, text []byte) (*answer, error) {
	switch code {
	case http.StatusOK, http.StatusMultiStatus, http.StatusInternalServerError:
	default:
		text := strings.TrimSpace(fmt.Sprintf("NanoMDM answered %d %s", code, http.StatusText(code)))
		if code >= 400 && code < 500 {
			// Something before it does not like the request, which may be for one id that is in its path.
			return nil, &notifier.RefusedError{Text: text}
		}
		return nil, errors.New(text)
	}
	a := &answer{}
	if err := json.Unmarshal(text, a); err != nil ||
		a.CommandUUID == "" && a.PushError == "" && a.CommandError == "" && len(a.Status) == 0 {
		return nil, fmt.Errorf("NanoMDM answered %d with something other than its JSON", code)
	}
	return a, nil
}

// judge tells what became of each id. Whether a command was queued is told by command_error alone: NanoMDM answers 500
// also when all commands are queued and only the pushes failed.
func judge(code int, text []byte, ids []string) (map[string]notifier.Result, error) {
	a, err := parse(code, text)
	if err != nil {
		return nil, err
	}
	if a.CommandError != "" {
		return nil, &notifier.RefusedError{Text: a.CommandError}
	}
	results := make(map[string]notifier.Result, len(ids))
	for _, id := range ids {
		result := a.Status[id]
		if result.PushError == "" {
			result.PushError = a.PushError
		}
		results[id] = notifier.Result{CommandError: result.CommandError, PushError: result.PushError}
	}
	// One of its backends names a failed enqueue by the CommandUUID, where it speaks of all enrollments.
	for key, result := range a.Status {
		if _, ours := results[key]; !ours && result.CommandError != "" {
			return nil, &notifier.RefusedError{Text: result.CommandError}
		}
	}
	return results, nil
}
