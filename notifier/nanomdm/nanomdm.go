// Package nanomdm is the client for NanoMDM's API: it enqueues commands and judges the answer. It neither retries nor
// schedules.
package nanomdm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/decree-ddm/decree/notifier"
)

// username is what NanoMDM's API takes (NanoMDM: cmd/nanomdm).
const username = "nanomdm"

// maxAnswerBytes bounds the answer that is read; one for 100 enrollments has some 20 KB.
const maxAnswerBytes = 8 << 20

// Client enqueues into one NanoMDM. It is safe for concurrent use.
type Client struct {
	enqueue string // ends with a slash
	key     string
	http    *http.Client
}

var _ notifier.MDM = (*Client)(nil)

// New returns a client for the enqueue endpoint at a URL such as http://127.0.0.1:9000/v1/enqueue/ and an API key.
func New(enqueueURL, key string) (*Client, error) {
	u, err := url.Parse(enqueueURL)
	if err != nil {
		return nil, fmt.Errorf("enqueue URL: %w", withoutURL(err))
	}
	if u.User != nil {
		return nil, errors.New("enqueue URL: must not have a user name or password; the key is given by itself")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("enqueue URL %q is not like http://127.0.0.1:9000/v1/enqueue/", enqueueURL)
	}
	if strings.ContainsAny(enqueueURL, "?#") {
		return nil, fmt.Errorf("enqueue URL %q must end with its path", enqueueURL)
	}
	base := u.String()
	if !strings.HasSuffix(base, "/") {
		base += "/"
	}
	return &Client{enqueue: base, key: key, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			MaxIdleConnsPerHost:   32,
			IdleConnTimeout:       90 * time.Second,
			ResponseHeaderTimeout: time.Minute,
		},
		Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a redirected PUT would lose its body
		},
	}}, nil
}

// Enqueue implements notifier.MDM.
func (c *Client) Enqueue(
	ctx context.Context, ids []string, command notifier.Command,
) (results map[string]notifier.Result, err error) {
	body, err := command.Plist()
	if err != nil {
		return nil, fmt.Errorf("encoding a command: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, c.url(ids), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("NanoMDM: %w", withoutURL(err))
	}
	request.SetBasicAuth(username, c.key)
	request.Header.Set("Content-Type", "application/xml")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("NanoMDM: %w", withoutURL(err))
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return nil, fmt.Errorf("NanoMDM: reading its answer: %w", err)
	}
	return judge(response.StatusCode, text, ids)
}

// url puts the ids, each escaped, into the path.
func (c *Client) url(ids []string) string {
	escaped := make([]string, len(ids))
	for i, id := range ids {
		escaped[i] = url.PathEscape(id)
	}
	return c.enqueue + strings.Join(escaped, ",")
}

// withoutURL takes the URL out of an error of url and http, which has every id in it, or a secret.
func withoutURL(err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		return urlErr.Err
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
	NoPush       bool   `json:"no_push"`
}

// judge reads an answer. Whether a command was queued is told by command_error alone: NanoMDM answers 500 also when
// all commands are queued and only the pushes failed.
func judge(code int, text []byte, ids []string) (map[string]notifier.Result, error) {
	switch code {
	case http.StatusOK, http.StatusMultiStatus, http.StatusInternalServerError:
	case http.StatusUnauthorized:
		return nil, errors.New("NanoMDM answered 401 Unauthorized: the enqueue key is wrong")
	default:
		return nil, errors.New(strings.TrimSpace(fmt.Sprintf("NanoMDM answered %d %s", code, http.StatusText(code))))
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, fmt.Errorf("NanoMDM answered %d with something other than its JSON", code)
	}
	if a.CommandError != "" {
		return nil, fmt.Errorf("NanoMDM queued nothing: %s", a.CommandError)
	}
	if a.CommandUUID == "" && a.PushError == "" && len(a.Status) == 0 {
		return nil, fmt.Errorf("NanoMDM answered %d with something other than its JSON", code)
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
			return nil, fmt.Errorf("NanoMDM queued nothing: %s", result.CommandError)
		}
	}
	return results, nil
}
