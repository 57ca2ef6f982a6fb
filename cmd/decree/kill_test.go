package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// killedWriter changes a declaration and a set of its own until the server is gone, and remembers what was answered.
type killedWriter struct {
	name     string
	promised atomic.Int64 // the newest content that was answered as changed
	tried    int64        // the newest content that was sent
	members  []string     // the sets that were answered as changed
	changes  []string     // the ids of all changes that were answered, in order
}

func (w *killedWriter) declaration() string { return "test." + w.name }

// content is what the writer's declaration says the n-th time.
func (w *killedWriter) content(n int64) string { return fmt.Sprintf(`{"Echo":"%s %d"}`, w.name, n) }

func (w *killedWriter) send(server, method, path, body string) error {
	request, err := http.NewRequest(method, server+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.SetBasicAuth("kmfddm", testKey)
	request.Header.Set("Accept", "application/json")
	code, text, err := exchange(request)
	if err != nil {
		return err
	}
	var answer struct {
		Changed  bool   `json:"changed"`
		ChangeID string `json:"change_id"`
	}
	if code != http.StatusOK || json.Unmarshal(text, &answer) != nil || !answer.Changed {
		return fmt.Errorf("%s %s: %d %s", method, path, code, text)
	}
	w.changes = append(w.changes, answer.ChangeID)
	return nil
}

// write returns the error of the request that failed, and what it was.
func (w *killedWriter) write(server string) error {
	for {
		w.tried++
		if err := w.send(server, http.MethodPut, "/v1/declarations", declarationJSON(w.declaration(),
			"com.apple.configuration.management.test", w.content(w.tried))); err != nil {
			return err
		}
		w.promised.Store(w.tried)
		set := fmt.Sprintf("%s-%d", w.name, w.tried)
		if err := w.send(server, http.MethodPut, "/v1/set-declarations/"+set+"?declaration="+w.declaration(), ""); err != nil {
			return err
		}
		if err := w.send(server, http.MethodPut, "/v1/enrollment-sets/"+w.name+"?set="+set, ""); err != nil {
			return err
		}
		w.members = append(w.members, set)
	}
}

// check compares what the server has with what was promised. What was under way at the kill may be there or not.
func (w *killedWriter) check(t *testing.T, s *server, logged []loggedChange) {
	t.Helper()
	var declaration struct{ Payload struct{ Echo string } }
	s.get("/v1/declarations/"+w.declaration(), &declaration)
	kept := int64(-1)
	for n := w.promised.Load(); n <= w.tried; n++ {
		if w.content(n) == fmt.Sprintf(`{"Echo":%q}`, declaration.Payload.Echo) {
			kept = n
		}
	}
	require.NotEqual(t, int64(-1), kept, "%d was promised, %d tried, and there is %q",
		w.promised.Load(), w.tried, declaration.Payload.Echo)
	w.promised.Store(kept)
	var held, assigned []string
	s.get("/v1/declaration-sets/"+w.declaration(), &held)
	s.get("/v1/enrollment-sets/"+w.name, &assigned)
	require.Subset(t, held, w.members)
	require.Subset(t, assigned, w.members)
	require.LessOrEqual(t, len(assigned), len(w.members)+1)
	require.Equal(t, s.composedFromLists(w.name), s.agreedToken(w.name), "no half change")
	w.members = assigned

	// The log has what was answered, what was under way at the kill if that was made, and nothing else.
	var ids, puts, assignments []string
	for _, change := range logged {
		switch {
		case change.Declaration != w.declaration() && change.EnrollmentID != w.name:
			continue
		case change.Action == "set-declaration.put":
			puts = append(puts, change.Set)
		case change.Action == "enrollment-set.put":
			assignments = append(assignments, change.Set)
		}
		require.Equal(t, "api", change.Key)
		ids = append(ids, change.ChangeID)
	}
	require.GreaterOrEqual(t, len(ids), len(w.changes))
	require.Equal(t, w.changes, ids[:len(w.changes)])
	require.LessOrEqual(t, len(ids), len(w.changes)+1)
	require.ElementsMatch(t, held, puts)
	require.ElementsMatch(t, assigned, assignments)
	w.changes = ids
}

// kills is how often TestKill ends the program.
const kills = 10

// TestKill checks that what the real program has promised survives its sudden end, again and again, that what is stored
// stays sound, that the log of changes tells what is there, and that devices get there.
func TestKill(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
		flags = append(flags, "-enqueue", nano.EnqueueURL(), "-enqueue-key", nano.APIKey())
		p := startBinary(t, flags...)
		s := p.server()
		nano.SetDM(s.url + "/")
		var writers []*killedWriter
		var devices []*nanomdmtest.Device
		for i := range 6 {
			w := &killedWriter{name: fmt.Sprint("writer-", i)}
			if i < 3 {
				device := nano.NewDevice(t)
				require.NoError(t, device.Enroll(ctx))
				w.name = device.ID()
				device.Run(ctx)
				devices = append(devices, device)
			}
			writers = append(writers, w)
		}
		for range kills {
			var group sync.WaitGroup
			for _, w := range writers {
				group.Go(func() {
					if err := w.write(s.url); !connectionBroke(err) {
						t.Error(err)
					}
				})
			}
			// Long enough for fan-outs, claims and commands to be under way.
			busy := time.Now().Add(300 * time.Millisecond)
			s.eventually(func() bool {
				return time.Now().After(busy) &&
					!slices.ContainsFunc(writers, func(w *killedWriter) bool { return w.promised.Load() == 0 })
			}, "some load")
			p.kill()
			group.Wait()

			p = startBinary(t, flags...)
			s = p.server()
			nano.SetDM(s.url + "/")
			s.check()
			logged := s.changes("")
			for _, w := range writers {
				w.check(t, s, logged)
			}
		}
		// What the killed ones had claimed is free when their leases end, in two minutes.
		config, err := parseConfig(t.Context(), append(flags, "-api", testKey), nil, io.Discard)
		require.NoError(t, err)
		_, err = openDatabase(t, config).Exec(`UPDATE enrollments SET lease_until = 0 WHERE lease_until IS NOT NULL`)
		require.NoError(t, err)
		for _, device := range devices {
			token := s.token(device.ID())
			s.eventually(func() bool {
				e := s.enrollment(device.ID())
				return e.InSync || e.NotifyAt > later(time.Minute) ||
					slices.ContainsFunc(nano.Enqueued(), func(c nanomdmtest.EnqueuedCommand) bool {
						return slices.Contains(c.IDs, device.ID()) && strings.Contains(string(c.Data), token)
					})
			}, "device %s to be in sync, told, or left alone for a while because it was at work", device.ID())
			// One whose sync the kill cut off asks again when it likes. It asks for its tokens first, which looks as if it
			// had finished until it asks for the manifest again.
			there := func() bool { return device.DeclarationsToken() == token && s.enrollment(device.ID()).InSync }
			s.eventually(func() bool { return there() || device.Sync(ctx, nil) == nil && there() },
				"device %s in sync", device.ID())
		}
		s.check()
	})
}

// later is a time as the API writes it.
func later(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }

// connectionBroke reports whether a request failed for want of a server, and not by an answer.
func connectionBroke(err error) bool {
	if err == nil {
		return false
	}
	for _, text := range []string{"connection refused", "connection reset", "EOF", "broken pipe", "server closed"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}
