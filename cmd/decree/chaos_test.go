package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// unreliable stands before a NanoMDM and lets some requests not reach it: it answers for it with something else, drops the
// connection, or hangs. What reaches NanoMDM is answered by NanoMDM. When it has recovered, everything does.
func unreliable(t *testing.T, nano *nanomdmtest.Server) (enqueueURL string, recovered *atomic.Bool) {
	target, err := url.Parse(nano.URL())
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	recovered = &atomic.Bool{}
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := requests.Add(1); {
		case recovered.Load():
			proxy.ServeHTTP(w, r)
		case n%7 == 3:
			http.Error(w, "<html>Internal Server Error</html>", http.StatusInternalServerError)
		case n%11 == 5:
			panic(http.ErrAbortHandler)
		case n%29 == 9:
			select {
			case <-r.Context().Done():
			case <-time.After(time.Second):
			}
			panic(http.ErrAbortHandler)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1/enqueue/", recovered
}

// swarm is many devices that do at once what they are told: they fetch their manifest and come back for their tokens.
type swarm struct {
	nano *nanomdmtest.Server
	// address is where a Decree is that lives, at the time.
	address func() string
	read    int
	told    map[string]int // commands that each has got
}

// serve has the devices act on all that was queued since the last call.
func (d *swarm) serve(ctx context.Context, t *testing.T) {
	commands := d.nano.Enqueued()[d.read:]
	d.read += len(commands)
	ids := make(chan string)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for id := range ids {
				for _, path := range []string{"/declaration-items", "/tokens"} {
					for {
						_, err := deviceGet(d.address(), id, path)
						if err == nil {
							break
						}
						if ctx.Err() != nil {
							t.Errorf("device %s: GET %s: %v", id, path, err)
							return
						}
						time.Sleep(20 * time.Millisecond)
					}
				}
			}
		})
	}
	for _, command := range commands {
		for _, id := range command.IDs {
			d.told[id]++
			ids <- id
		}
	}
	close(ids)
	group.Wait()
}

var sentLine = regexp.MustCompile(`msg="command sent".* enrollments=(\d+)`)

// sent returns how many enrollments a Decree says that it has told.
func (p *process) sent() (sum int) {
	for _, match := range sentLine.FindAllStringSubmatch(p.stderr.String(), -1) {
		n, err := strconv.Atoi(match[1])
		require.NoError(p.t, err)
		sum += n
	}
	return sum
}

// chaos changes a declaration of a fleet while servers are killed every now and then, before an MDM that does not work
// well, and checks that everybody is told, few twice, and all end in sync.
func chaos(t *testing.T, flags []string, servers, enrollments, kills int) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*patience)
	defer cancel()
	nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	enqueueURL, recovered := unreliable(t, nano)
	config, err := parseConfig(t.Context(), append(flags, "-api", testKey), nil, io.Discard)
	require.NoError(t, err)
	flags = append(flags, "-enqueue", enqueueURL, "-enqueue-key", nano.APIKey())
	processes := make([]*process, servers)
	for i := range processes {
		processes[i] = startBinary(t, flags...)
	}
	s := processes[0].server()
	s.database = openDatabase(t, config)
	s.putTest("d.1", "first")
	s.addToSet("fleet", "d.1")
	s.waitFanouts()
	s.seed(enrollments)
	s.change(http.MethodPut, "/v1/declarations", declarationJSON("d.1", "com.apple.configuration.management.test", `{"Echo":"second"}`))

	var current atomic.Value
	current.Store(s.url)
	devices := &swarm{nano: nano, told: map[string]int{}, address: func() string { return current.Load().(string) }}
	sent := make([]int, servers)
	for kill := range kills {
		for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); {
			devices.serve(ctx, t)
			time.Sleep(20 * time.Millisecond)
		}
		victim := kill % servers
		processes[victim].kill()
		sent[victim] += processes[victim].sent()
		processes[victim] = startBinary(t, flags...)
		s = processes[victim].server()
		current.Store(s.url)
		s.check()
	}
	recovered.Store(true)
	s = processes[(kills-1)%servers].server()
	s.database = openDatabase(t, config)
	for s.count(`SELECT COUNT(*) FROM enrollments WHERE out_of_sync = 1 OR desired_token IS NULL`) > 0 {
		require.NoError(t, ctx.Err(), "not all are in sync")
		devices.serve(ctx, t)
		// What the killed ones had claimed is free when their leases end. Those of the living are younger.
		_, err := s.database.Exec(`UPDATE enrollments SET lease_until = 0 WHERE lease_until < ` +
			strconv.FormatInt(time.Now().Add(2*time.Minute-10*time.Second).UnixMicro(), 10))
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
	}
	devices.serve(ctx, t)
	for i, p := range processes {
		sent[i] += p.sent()
		require.Greater(t, sent[i], enrollments/servers/5, "server %d did hardly any of the work: %v", i, sent)
	}
	twice := 0
	for i := range enrollments {
		told := devices.told[fleetID(i)]
		require.Positive(t, told, "%s was not told", fleetID(i))
		twice += told - 1
	}
	const inFlight = 100 * 4 // batch times workers
	require.LessOrEqual(t, twice, inFlight*kills, "told more often than kills can explain")
	t.Logf("%d enrollments, %d kills: %d told twice, sent by each server: %v", enrollments, kills, twice, sent)
	for _, id := range []string{fleetID(0), fleetID(enrollments / 2), fleetID(enrollments - 1)} {
		require.True(t, s.enrollment(id).InSync)
	}
	s.check()
}

// TestChaos: one server, killed again and again.
func TestChaos(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) { chaos(t, flags, 1, fleetSize, 4) })
}

// TestReplicas: three servers over one database share the work, and one of them is killed now and then.
func TestReplicas(t *testing.T) {
	t.Parallel()
	chaos(t, databases()[1].flags(t), 3, 2*fleetSize, 4)
}

// outage is how long an MDM server is away: a minute where nobody waits for the test.
func outage() time.Duration {
	if os.Getenv("CI") != "" {
		return time.Minute
	}
	return 4 * time.Second
}

// TestOutage: NanoMDM goes away in the middle of a fan-out and comes back. All are told, and it is not asked by all of
// them meanwhile.
func TestOutage(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		const enrollments = 2000
		ctx, cancel := context.WithTimeout(t.Context(), 2*outage()+8*patience)
		defer cancel()
		nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
		s := beside(t, nano, append(flags, "-notify-rate", "1000"))
		s.putTest("d.1", "first")
		s.addToSet("fleet", "d.1")
		s.waitFanouts()
		s.seed(enrollments)
		s.putTest("d.2", "first")
		s.addToSet("fleet", "d.2")
		devices := &swarm{nano: nano, told: map[string]int{}, address: func() string { return s.url }}
		s.eventually(func() bool { return len(nano.Enqueued()) > 3 }, "the fan-out to be under way")
		nano.Stop()

		// In its place there is something that counts who asks.
		var asked atomic.Int64
		down := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			asked.Add(1)
			panic(http.ErrAbortHandler)
		})}
		address, err := url.Parse(nano.URL())
		require.NoError(t, err)
		listener, err := net.Listen("tcp", address.Host)
		require.NoError(t, err)
		go func() { _ = down.Serve(listener) }()
		for until := time.Now().Add(outage()); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
			devices.serve(ctx, t)
		}
		require.NoError(t, down.Close())
		// Four that were under way, and one after 0, 1, 2, … seconds, up to a minute apart.
		require.LessOrEqual(t, asked.Load(), int64(4+8), "while it was down")
		require.Positive(t, asked.Load())

		nano.Restart()
		for len(devices.told) < enrollments {
			require.NoError(t, ctx.Err(), "%d of %d are told", len(devices.told), enrollments)
			devices.serve(ctx, t)
			time.Sleep(20 * time.Millisecond)
		}
		for id, told := range devices.told {
			require.Equal(t, 1, told, fmt.Sprintf("commands for %s", id))
		}
		s.check()
	})
}
