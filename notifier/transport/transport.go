// Package transport is the HTTP that clients of MDM servers share: time-outs, a key, no redirects, bounded answers, and
// errors without secrets. It knows no endpoint.
package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/decree-ddm/decree/http/trace"
	"github.com/decree-ddm/decree/notifier"
)

// maxAnswerBytes bounds the answer that is read; NanoMDM's for 100 enrollments has some 20 KB.
const maxAnswerBytes = 8 << 20

// Client asks one MDM server. It is safe for concurrent use.
type Client struct {
	name          string
	base          string // ends with a slash
	username, key string
	http          *http.Client
}

// New returns a client for the endpoint at a URL, to which ids are added. Name is the MDM's, for errors; example is a URL
// of the right form.
func New(name, endpointURL, example, username, key string) (*Client, error) {
	u, err := url.Parse(endpointURL)
	if err != nil {
		return nil, fmt.Errorf("enqueue URL: %w", WithoutURL(err))
	}
	if u.User != nil {
		return nil, errors.New("enqueue URL: must not have a user name or password; the key is given by itself")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("enqueue URL %q is not like %s", endpointURL, example)
	}
	if strings.ContainsAny(endpointURL, "?#") {
		return nil, fmt.Errorf("enqueue URL %q must end with its path", endpointURL)
	}
	base := u.String()
	if !strings.HasSuffix(base, "/") {
		base += "/"
	}
	return &Client{name: name, base: base, username: username, key: key, http: &http.Client{
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

// Endpoint is the URL that ids are added to.
func (c *Client) Endpoint() string { return c.base }

// Path returns ids, each escaped, as the last part of a URL.
func Path(ids []string) string {
	escaped := make([]string, len(ids))
	for i, id := range ids {
		escaped[i] = url.PathEscape(id)
	}
	return strings.Join(escaped, ",")
}

// Do makes a request, with a body unless it is nil, and returns the answer's status code and body. An answer that can
// only mean that the MDM, or a proxy before it, does not work is an error: a *notifier.BusyError if it asks to be left
// alone for a while. The trace of the context, if it has one, goes along.
func (c *Client) Do(ctx context.Context, method, url string, body []byte) (code int, text []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", c.name, WithoutURL(err))
	}
	request.SetBasicAuth(c.username, c.key)
	if body != nil {
		request.Header.Set("Content-Type", "application/xml")
	}
	trace.Pass(request)
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", c.name, WithoutURL(err))
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if text, err = io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes)); err != nil {
		return 0, nil, fmt.Errorf("%s: reading its answer: %w", c.name, err)
	}
	return response.StatusCode, text, c.check(response)
}

// check returns an error for answers that are none of the MDM's own.
func (c *Client) check(response *http.Response) error {
	answered := strings.TrimSpace(fmt.Sprintf("%s answered %d %s",
		c.name, response.StatusCode, http.StatusText(response.StatusCode)))
	switch code := response.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return errors.New(answered + ": the enqueue key is wrong")
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		if after := RetryAfter(response.Header.Get("Retry-After")); after > 0 {
			return &notifier.BusyError{After: after, Text: answered}
		}
		return errors.New(answered)
	case code >= 300 && code < 400, code == http.StatusBadGateway, code == http.StatusGatewayTimeout:
		return errors.New(answered)
	}
	return nil
}

// RetryAfter reads a Retry-After header: seconds, or a date. It returns 0 where there is none that makes sense.
func RetryAfter(header string) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil {
		return time.Duration(min(max(seconds, 0), 86400)) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// WithoutURL takes the URL out of an error of url and http, which has every id in it, or a secret.
func WithoutURL(err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		return urlErr.Err
	}
	return err
}
