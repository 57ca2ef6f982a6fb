// Package remote reads a server with KMFDDM's API, such as KMFDDM or another Decree, for import. It asks only for what
// KMFDDM answers too; where the server lists its enrollments, as Decree does, it makes use of that.
package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// user is the one user that KMFDDM knows.
	user = "kmfddm"
	// timeout is how long an answer may take.
	timeout = time.Minute
	// maxListBytes bounds a list, which KMFDDM gives in one piece.
	maxListBytes = 256 << 20
	// tries is how often a request is sent that fails for a reason that may pass.
	tries      = 3
	firstPause = 200 * time.Millisecond
	// maxExcerpt is how much of an answer an error repeats.
	maxExcerpt = 200
)

// statusError is an answer that is not 200.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	status := fmt.Sprintf("the server answers %d %s", e.status, http.StatusText(e.status))
	if e.text == "" {
		return status
	}
	return status + ": " + e.text
}

// is reports whether an error is an answer with one of these codes.
func is(err error, statuses ...int) bool {
	var answered *statusError
	if !errors.As(err, &answered) {
		return false
	}
	for _, status := range statuses {
		if answered.status == status {
			return true
		}
	}
	return false
}

// foreignError is an answer that no server with this API gives.
type foreignError struct{ contentType, text string }

func (e *foreignError) Error() string {
	return fmt.Sprintf("the answer is not JSON but %q, and begins with %q: is there another server at this address?",
		e.contentType, e.text)
}

// malformedError is JSON, or nearly, that says something else than was asked for.
type malformedError struct{ text string }

func (e *malformedError) Error() string {
	return fmt.Sprintf("the answer is not what it should be: it begins with %q", e.text)
}

var (
	// errTooLarge says that an answer is larger than what can be taken.
	errTooLarge = errors.New("the answer is too large")
	errKey      = errors.New("the server refuses the API key")
)

// client sends requests.
type client struct {
	base *url.URL
	key  string
	http *http.Client
}

func newClient(address, key string) (*client, error) {
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("%q is not an address such as http://127.0.0.1:9002", address)
	}
	base.RawQuery, base.Fragment = "", ""
	// Whoever gives the address of the API means the same.
	base.Path = strings.TrimSuffix(strings.TrimSuffix(base.Path, "/"), "/v1")
	base.RawPath = ""
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = workers
	return &client{base: base, key: key, http: &http.Client{Transport: transport, Timeout: timeout}}, nil
}

// get returns the body of an answer, and where the next page of a list is, if that is said. It tries again what may pass.
func (c *client) get(ctx context.Context, path string, query url.Values, limit int64) (body []byte, next url.Values, err error) {
	pause := firstPause
	for try := 1; ; try++ {
		body, next, err = c.try(ctx, path, query, limit)
		if err == nil || !passes(err) || try == tries || ctx.Err() != nil {
			return body, next, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil, ctx.Err()
		}
		pause *= 5
	}
}

// passes reports whether it may work soon.
func passes(err error) bool {
	var answered *statusError
	if errors.As(err, &answered) {
		return answered.status >= 500 || answered.status == http.StatusTooManyRequests
	}
	var foreign *foreignError
	return !errors.As(err, &foreign) && !errors.Is(err, errTooLarge) && !errors.Is(err, errKey)
}

// try sends a request. The path's segments are escaped.
func (c *client) try(ctx context.Context, path string, query url.Values, limit int64) ([]byte, url.Values, error) {
	address := c.base.String() + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, err
	}
	request.SetBasicAuth(user, c.key)
	request.Header.Set("Accept", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("reading the answer to GET %s: %w", path, err)
	case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
		return nil, nil, fmt.Errorf("%w (%d)", errKey, response.StatusCode)
	case response.StatusCode != http.StatusOK:
		return nil, nil, &statusError{response.StatusCode, excerpt(errorText(body))}
	case int64(len(body)) > limit:
		return nil, nil, errTooLarge
	}
	contentType := response.Header.Get("Content-Type")
	media, _, _ := mime.ParseMediaType(contentType) // what cannot be parsed is not HTML
	if media == "text/html" || media == "application/xhtml+xml" {
		return nil, nil, &foreignError{contentType, excerpt(string(body))}
	}
	return body, nextPage(response.Header.Values("Link")), nil
}

// errorText is what an answer says of an error.
func errorText(body []byte) string {
	var answer struct{ Error string }
	if json.Unmarshal(body, &answer) == nil && answer.Error != "" {
		return answer.Error
	}
	return string(bytes.TrimSpace(body))
}

// excerpt is the beginning of a text, in one line.
func excerpt(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxExcerpt {
		text = text[:maxExcerpt] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// nextPage finds the parameters of the next page in Link headers. The path stays that of the request: a server behind a
// proxy may not know its own.
func nextPage(links []string) url.Values {
	for _, header := range links {
		for _, link := range strings.Split(header, ", ") {
			target, parameters, _ := strings.Cut(link, ">")
			if !strings.HasPrefix(target, "<") || !strings.Contains(parameters, `rel="next"`) {
				continue
			}
			address, err := url.Parse(target[1:])
			if err != nil {
				return nil
			}
			return address.Query()
		}
	}
	return nil
}

// pages calls page with each page of a list; the whole list is one page where the server makes none.
func pages[Element any](ctx context.Context, c *client, path string, page func([]Element) error) error {
	query := url.Values{"limit": {"1000"}}
	for {
		body, next, err := c.get(ctx, path, query, maxListBytes)
		if err != nil {
			return err
		}
		elements, err := decode[[]Element](body)
		if err != nil {
			return err
		}
		if err := page(elements); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		if next.Get("after") == query.Get("after") {
			return errors.New("the list goes on where it was before")
		}
		query = next
	}
}

// decode reads the JSON of an answer.
func decode[Value any](body []byte) (value Value, err error) {
	// What is not valid UTF-8 would be decoded to something else.
	if !utf8.Valid(body) || json.Unmarshal(body, &value) != nil {
		return value, &malformedError{excerpt(string(body))}
	}
	return value, nil
}
