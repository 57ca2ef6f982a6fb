// Package micromdm is the client for MicroMDM's API: it enqueues commands and pushes, for one enrollment a request. It
// neither retries nor schedules.
package micromdm

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/notifier/transport"
)

// username is what MicroMDM's API takes.
const username = "micromdm"

// Client asks one MicroMDM. It is safe for concurrent use.
type Client struct {
	*transport.Client
	server string // without a slash at its end
}

var _ notifier.MDM = (*Client)(nil)

// New returns a client for the commands endpoint at a URL such as https://micromdm.example.com/v1/commands/ and an API
// key. Its notifier must have batches of one: MicroMDM takes a command for one enrollment.
func New(enqueueURL, key string) (*Client, error) {
	client, err := transport.New("MicroMDM", enqueueURL, "https://micromdm.example.com/v1/commands/", username, key)
	if err != nil {
		return nil, err
	}
	server, found := strings.CutSuffix(client.Endpoint(), "/v1/commands/")
	if !found {
		return nil, fmt.Errorf("enqueue URL %q does not end with /v1/commands/", enqueueURL)
	}
	return &Client{client, server}, nil
}

// Enqueue implements notifier.MDM. MicroMDM wakes the device by itself.
func (c *Client) Enqueue(
	ctx context.Context, ids []string, command notifier.Command,
) (map[string]notifier.Result, error) {
	body, err := command.Plist()
	if err != nil {
		return nil, fmt.Errorf("encoding a command: %w", err)
	}
	return c.each(ctx, ids, http.MethodPost, c.Endpoint(), body, func(code int, text string) (notifier.Result, error) {
		if code >= 500 {
			return notifier.Result{}, &notifier.RefusedError{Text: text}
		}
		return notifier.Result{CommandError: text}, nil
	})
}

// Push implements notifier.MDM.
func (c *Client) Push(ctx context.Context, ids []string) (map[string]notifier.Result, error) {
	return c.each(ctx, ids, http.MethodGet, c.server+"/push/", nil, func(_ int, text string) (notifier.Result, error) {
		return notifier.Result{PushError: text}, nil
	})
}

// each makes a request for each id. What MicroMDM answers to a request that it does not like concerns the id: also 500,
// which it answers for an enrollment that it cannot find or push to (micromdm/micromdm#913).
func (c *Client) each(
	ctx context.Context, ids []string, method, url string, body []byte,
	failure func(code int, text string) (notifier.Result, error),
) (map[string]notifier.Result, error) {
	results := make(map[string]notifier.Result, len(ids))
	for _, id := range ids {
		code, _, err := c.Do(ctx, method, url+transport.Path([]string{id}), body)
		if err != nil {
			return nil, err
		}
		result := notifier.Result{}
		if code >= 400 {
			result, err = failure(code, strings.TrimSpace(fmt.Sprintf("MicroMDM answered %d %s", code, http.StatusText(code))))
		}
		if err != nil {
			return nil, err
		}
		results[id] = result
	}
	return results, nil
}

// Probe implements notifier.MDM.
func (c *Client) Probe(ctx context.Context) error {
	code, _, err := c.Do(ctx, http.MethodGet, c.server+"/version", nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("MicroMDM answered %d to a question for its version", code)
	}
	return err
}
