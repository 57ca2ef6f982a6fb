package nanomdm

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
)

const commandUUID = "0191C7F0-0000-7000-8000-000000000001"

// answers are NanoMDM's to a command for the ids A and B, as seen and as feared.
var answers = []struct {
	name string
	code int
	text string
	want map[string]notifier.Result
	err  string // part of it; empty: none
}{
	{
		name: "all well", code: 200,
		text: `{"status":{"A":{"push_result":"1"},"B":{"push_result":"2"}},"command_uuid":"u","request_type":"DeclarativeManagement"}`,
		want: map[string]notifier.Result{"A": {}, "B": {}},
	},
	{
		name: "without a push", code: 200,
		text: `{"no_push":true,"command_uuid":"u","request_type":"DeclarativeManagement"}`,
		want: map[string]notifier.Result{"A": {}, "B": {}},
	},
	{
		name: "one not queued", code: 207,
		text: `{"status":{"A":{"push_result":"1"},"B":{"command_error":"disk full","push_error":"no push"}},"command_uuid":"u"}`,
		want: map[string]notifier.Result{"A": {}, "B": {CommandError: "disk full", PushError: "no push"}},
	},
	{
		name: "one queued and not woken", code: 207,
		text: `{"status":{"A":{"push_result":"1"},"B":{"push_error":"BadDeviceToken"}},"command_uuid":"u"}`,
		want: map[string]notifier.Result{"A": {}, "B": {PushError: "BadDeviceToken"}},
	},
	{
		name: "all queued and none woken", code: 500,
		text: `{"status":{"A":{"push_error":"x"},"B":{"push_error":"y"}},"command_uuid":"u"}`,
		want: map[string]notifier.Result{"A": {PushError: "x"}, "B": {PushError: "y"}},
	},
	{
		name: "none queued", code: 500,
		text: `{"status":{"A":{"command_error":"x"},"B":{"command_error":"y"}},"command_uuid":"u"}`,
		want: map[string]notifier.Result{"A": {CommandError: "x"}, "B": {CommandError: "y"}},
	},
	{
		name: "all queued, pushing as a whole failed", code: 500,
		text: `{"push_error":"no push certificate","command_uuid":"u","request_type":"DeclarativeManagement"}`,
		want: map[string]notifier.Result{"A": {PushError: "no push certificate"}, "B": {PushError: "no push certificate"}},
	},
	{
		name: "pushing failed as a whole, and one was not queued", code: 500,
		text: `{"status":{"A":{"command_error":"x"}},"push_error":"no push certificate","command_uuid":"u"}`,
		want: map[string]notifier.Result{
			"A": {CommandError: "x", PushError: "no push certificate"}, "B": {PushError: "no push certificate"},
		},
	},
	{
		name: "queueing failed as a whole", code: 500,
		text: `{"command_error":"violates foreign key constraint","command_uuid":"u"}`,
		err:  "violates foreign key constraint",
	},
	{
		name: "queueing failed as a whole, whatever the status says", code: 500,
		text: `{"status":{"A":{"push_result":"1"}},"command_error":"deadlock","command_uuid":"u"}`,
		err:  "deadlock",
	},
	{
		name: "an answer without a result", code: 500,
		text: `{"command_error":"nil API result","push_error":"nil API result"}`,
		err:  "nil API result",
	},
	{
		name: "a backend that names the failure by the CommandUUID", code: 500,
		text: `{"status":{"` + commandUUID + `":{"command_error":"txn failed"}},"command_uuid":"` + commandUUID + `"}`,
		err:  "txn failed",
	},
	{
		name: "the same, with pushes that went through", code: 207,
		text: `{"status":{"` + commandUUID + `":{"command_error":"txn failed"},"A":{"push_result":"1"},"B":{"push_result":"1"}},"command_uuid":"` + commandUUID + `"}`,
		err:  "txn failed",
	},
	{
		name: "a stranger that was not woken", code: 207,
		text: `{"status":{"C":{"push_error":"x"}},"command_uuid":"u"}`,
		want: map[string]notifier.Result{"A": {}, "B": {}},
	},
	{
		name: "what newer versions may add", code: 200,
		text: `{"status":{"A":{"push_result":"1","new":[1]}},"command_uuid":"u","new":{"a":1}}`,
		want: map[string]notifier.Result{"A": {}, "B": {}},
	},

	{name: "wrong path", code: 404, text: `404 page not found`, err: "404 Not Found"},
	{name: "wrong method", code: 405, text: ``, err: "405"},
	{name: "redirected", code: 301, text: `<a href="https://mdm/">Moved</a>`, err: "301"},
	{name: "too long a URL", code: 414, text: ``, err: "414"},
	{name: "proxy", code: 502, text: `<html>Bad Gateway</html>`, err: "502 Bad Gateway"},
	{name: "proxy waited", code: 504, text: `{"command_uuid":"u"}`, err: "504"},
	{name: "no content", code: 204, text: ``, err: "204"},
	{name: "code of nobody", code: 599, text: `{"command_uuid":"u"}`, err: "599"},
	{name: "its database is down", code: 500, text: `Internal Server Error`, err: "other than its JSON"},
	{name: "empty", code: 200, text: ``, err: "other than its JSON"},
	{name: "page", code: 200, text: `<html>Welcome</html>`, err: "other than its JSON"},
	{name: "null", code: 200, text: `null`, err: "other than its JSON"},
	{name: "empty object", code: 200, text: `{}`, err: "other than its JSON"},
	{name: "list", code: 200, text: `[]`, err: "other than its JSON"},
	{name: "text", code: 200, text: `"ok"`, err: "other than its JSON"},
	{name: "somebody else's JSON", code: 200, text: `{"status":"ok"}`, err: "other than its JSON"},
	{name: "somebody else's error", code: 500, text: `{"error":"internal"}`, err: "other than its JSON"},
	{name: "cut off", code: 200, text: `{"status":{"A":{"push_result":"1"}`, err: "other than its JSON"},
	{name: "two answers", code: 200, text: `{"command_uuid":"u"}{"command_uuid":"u"}`, err: "other than its JSON"},
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, test := range answers {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			results, err := judge(test.code, []byte(test.text), []string{"A", "B"})
			if test.err == "" {
				require.NoError(t, err)
				require.Equal(t, test.want, results)
				return
			}
			require.ErrorContains(t, err, test.err)
			require.Nil(t, results)
			require.Equal(t, strings.TrimSpace(err.Error()), err.Error())
			require.NotContains(t, err.Error(), "<", "no pages in errors")
		})
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"http://127.0.0.1:9000/v1/enqueue/", "https://mdm.example.org/v1/enqueue", "HTTP://[::1]:9000/v1/enqueue/",
		"https://mdm.example.org/a%2Fb/enqueue",
	} {
		c, err := New(good, "key")
		require.NoError(t, err, good)
		require.True(t, strings.HasSuffix(c.Endpoint(), "/enqueue/"), c.Endpoint())
		require.Equal(t, strings.TrimSuffix(c.Endpoint(), "/enqueue/")+"/push/", c.pushURL)
		require.Equal(t, strings.Contains(good, "%2F"), strings.Contains(c.pushURL, "/a%2Fb/push/"))
	}
	const secret = "hunter2"
	for _, bad := range []string{
		"", "/v1/enqueue/", "127.0.0.1:9000/v1/enqueue/", "localhost:9000", "ftp://127.0.0.1/v1/enqueue/", "http://",
		"https://mdm.example.org", "https://mdm.example.org/v1/", "https://mdm.example.org/v1/push/",
		"https://mdm.example.org/v1/xenqueue/", "https://mdm.example.org/v1/enqueue//", "https://mdm.example.org/v1/enqueue/A",
		"http:///v1/enqueue/", "http:127.0.0.1", "http://127.0.0.1/v1/enqueue/?", "http://127.0.0.1/v1/enqueue/?nopush=1",
		"http://127.0.0.1/v1/enqueue/#", "http://127.0.0.1/v1/enqueue/#a", "http://127.0.0.1:port/", "http://127.0.0.1/%zz",
		"http://127.0.0.1/\x00", "://",
		"http://nanomdm:" + secret + "@127.0.0.1/v1/enqueue/", "http://nanomdm:" + secret + "@127.0.0.1:port/",
		"http://nanomdm:" + secret + "@/", "ftp://nanomdm:" + secret + "@127.0.0.1/", "http://nanomdm:" + secret + "%@127.0.0.1/",
	} {
		c, err := New(bad, secret)
		require.Error(t, err, bad)
		require.Nil(t, c)
		require.NotContains(t, err.Error(), secret, bad)
	}
}
