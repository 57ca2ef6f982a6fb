package main

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/micromdm/plist"
)

// soakMDM takes commands and wakes devices as NanoMDM does, for more of them than a NanoMDM of the test could have. Now and
// then it is down.
type soakMDM struct {
	*httptest.Server
	k    *soak
	down atomic.Bool
	told atomic.Int64

	mu     sync.Mutex
	random *rand.Rand
}

func newSoakMDM(k *soak) *soakMDM {
	m := &soakMDM{k: k, random: rand.New(rand.NewPCG(3, 4))}
	m.Server = httptest.NewServer(m)
	k.t.Cleanup(m.Close)
	return m
}

func (m *soakMDM) setDown(down bool) { m.down.Store(down) }

// haveOutages takes the MDM down for a tenth of each interval.
func (m *soakMDM) haveOutages(ctx context.Context, interval time.Duration) {
	for down := true; ; down = !down {
		wait := interval / 10
		if down {
			wait = interval - wait
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			m.setDown(down)
		}
	}
}

func (m *soakMDM) intN(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.random.IntN(n)
}

var soakNumber = regexp.MustCompile(`^SOAK-(\d+)-\d+(?::USER-(\d+)-)?`)

// device returns the device that has an enrollment id now, or nil.
func (m *soakMDM) device(id string) *soakDevice {
	match := soakNumber.FindStringSubmatch(id)
	if match == nil {
		return nil
	}
	name := match[1]
	if match[2] != "" {
		name = match[2]
	}
	number, err := strconv.Atoi(name)
	if err != nil {
		return nil
	}
	if d := m.k.devices[number]; d.name() == id {
		return d
	}
	return nil
}

func (m *soakMDM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if m.down.Load() {
		if m.intN(2) == 0 {
			panic(http.ErrAbortHandler)
		}
		http.Error(w, "<html>Bad Gateway</html>", http.StatusBadGateway)
		return
	}
	var command struct {
		CommandUUID string
		Command     struct{ Data []byte }
	}
	list := strings.TrimPrefix(r.URL.EscapedPath(), "/v1/push/")
	if r.Method == http.MethodPut {
		list = strings.TrimPrefix(r.URL.EscapedPath(), "/v1/enqueue/")
		if err := plist.Unmarshal(body, &command); err != nil {
			m.k.fail("a command: %v", err)
		}
	}
	status := map[string]map[string]string{}
	for _, name := range strings.Split(list, ",") {
		id, err := url.PathUnescape(name)
		if err != nil {
			m.k.fail("an id %q: %v", name, err)
		}
		status[id] = m.tell(id, command.CommandUUID, soakToken(command.Command.Data))
	}
	text, err := json.Marshal(map[string]any{"status": status, "command_uuid": command.CommandUUID})
	if err != nil {
		m.k.fail("%v", err)
	}
	_, _ = w.Write(text) // Decree may have gone away
}

// tell queues a command, if there is one, and wakes a device.
func (m *soakMDM) tell(id, command, token string) map[string]string {
	d := m.device(id)
	if d == nil || m.intN(100) == 0 {
		return map[string]string{"command_error": "there is no such enrollment"}
	}
	m.told.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if command != "" {
		d.command, d.data = command, token
	}
	if m.intN(50) == 0 {
		return map[string]string{"push_error": "the device cannot be woken"}
	}
	d.due = d.enrolled
	return map[string]string{"push_result": "x"}
}

// soakInbox takes events, and fails now and then.
type soakInbox struct {
	*httptest.Server
	k *soak

	mu       sync.Mutex
	requests int
	last     int64 // id of the last event that was taken
}

func newSoakInbox(k *soak) *soakInbox {
	b := &soakInbox{k: k}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var posted struct{ Events []happening }
		if err := json.NewDecoder(r.Body).Decode(&posted); err != nil {
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.requests++; b.requests%20 == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		for _, event := range posted.Events {
			if b.last != 0 && event.ID > b.last+1 {
				k.fail("after event %d, %d was posted", b.last, event.ID)
			}
			b.last = max(b.last, event.ID)
		}
	}))
	k.t.Cleanup(b.Close)
	return b
}
