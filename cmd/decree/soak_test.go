package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// What the soak is like: make soak sets these, and make test has a short one.
var (
	soakFor   = flag.Duration("soak", 0, "how long TestSoak goes on; 0: for seconds, with a small fleet")
	soakSpeed = flag.Int("soak-speed", 36, "how much faster than the real one the clock of a long TestSoak goes")
	soakFleet = flag.Int("soak-fleet", 3000, "how many devices a long TestSoak has")
	soakRate  = flag.Int("soak-rate", 150, "how many requests a long TestSoak makes in a second")
)

// What is kept during the soak: little, so that it is full before the soak ends.
const (
	soakKeepReports  = 3
	soakKeepErrors   = 5
	soakKeepEvents   = 20_000
	soakKeepChanges  = 2000
	soakKeepVersions = 5
)

// soakClock goes faster than the real one. All processes of a soak have the same.
type soakClock struct {
	epoch time.Time
	speed int
}

func (c soakClock) now() time.Time {
	return c.epoch.Add(time.Since(c.epoch) * time.Duration(c.speed))
}

// soakClockVariable has a process of the test be a server, and tells it the clock.
const soakClockVariable = "SOAK_CLOCK"

func (c soakClock) variable() string {
	return fmt.Sprintf("%s=%d %d", soakClockVariable, c.epoch.UnixMicro(), c.speed)
}

// serveSoak is the program with a fast clock, where this process was started to be that. It does not return then.
func serveSoak() {
	var epoch int64
	var speed int
	if _, err := fmt.Sscanf(os.Getenv(soakClockVariable), "%d %d", &epoch, &speed); err != nil {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	config, err := parseConfig(ctx, os.Args[1:], os.Environ(), os.Stderr)
	if err == nil {
		config.pace = pace{speed, soakClock{time.UnixMicro(epoch), speed}.now}
		err = serveConfig(ctx, config, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "decree:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestSoak has a fleet, admins and readers at work while a clock goes by fast, and checks that the server takes no more
// of anything at the end than it did early on, that no table grows with what was done, that no request failed on the
// server's side, and that all are in sync when the load stops.
func TestSoak(t *testing.T) {
	size := soakSize{lasts: 8 * time.Second, speed: 600, devices: 80, rate: 400}
	if *soakFor > 0 {
		size = soakSize{lasts: *soakFor, speed: *soakSpeed, devices: *soakFleet, rate: *soakRate}
	}
	eachDatabase(t, func(t *testing.T, flags []string) {
		k := newSoak(t, size, flags)
		k.run()
		k.settle()
		k.measure("settled")
		k.requireFlat()
		k.requireBounds()
		k.server.check()
		require.NoError(t, k.process.cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, k.process.wait(patience))
	})
}

// soakSize is how much of it there is.
type soakSize struct {
	lasts                time.Duration
	speed, devices, rate int
}

// soak is one of them.
type soak struct {
	t       *testing.T
	size    soakSize
	clock   soakClock
	limiter *rate.Limiter
	process *process
	server  *server
	mdm     *soakMDM
	inbox   *soakInbox
	devices []*soakDevice
	config  *config

	mu       sync.Mutex
	requests map[int]int // by status
	wrong    []string    // what must not happen
	writes   []time.Time // when a version of a declaration was made, by the fast clock
	samples  []soakSample
}

// soakSample is what the server takes at a time.
type soakSample struct {
	at                                time.Duration
	heap, resident, goroutines, files float64
	caches, database, log, outOfSync  float64
}

func newSoak(t *testing.T, size soakSize, flags []string) *soak {
	k := &soak{
		t: t, size: size, clock: soakClock{time.Now().Round(0), size.speed}, requests: map[int]int{},
		limiter: rate.NewLimiter(rate.Limit(size.rate), 10),
	}
	k.mdm, k.inbox = newSoakMDM(k), newSoakInbox(k)
	flags = append(flags, "-listen", "127.0.0.1:0", "-api", testKey, "-enqueue", k.mdm.URL+"/v1/enqueue/", "-enqueue-key", "key",
		"-event-url", k.inbox.URL, "-keep-reports", strconv.Itoa(soakKeepReports), "-keep-errors", strconv.Itoa(soakKeepErrors),
		"-keep-events", strconv.Itoa(soakKeepEvents), "-keep-changes", strconv.Itoa(soakKeepChanges),
		"-keep-versions", strconv.Itoa(soakKeepVersions), "-enroll-sets", soakSet(0))
	cmd := exec.Command(os.Args[0], flags...)
	cmd.Env = append(os.Environ(), k.clock.variable())
	cmd.Dir = t.TempDir()
	k.process = startProcess(t, cmd)
	k.server = k.process.server()
	var err error
	k.config, err = parseConfig(t.Context(), flags, nil, io.Discard)
	require.NoError(t, err)
	k.server.database = openDatabase(t, k.config)
	for i := range size.devices {
		k.devices = append(k.devices, newSoakDevice(k, i))
	}
	return k
}

// soakTimeout bounds a request of the soak. A server that takes longer fails.
const soakTimeout = 30 * time.Second

// send makes a request when it is its turn, and returns the answer. The server is at fault for a 5xx. What is begun comes to
// its end also when the soak is over: a device that has left must have said so.
func (k *soak) send(ctx context.Context, method, path, body string, header http.Header) (int, []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), soakTimeout)
	defer cancel()
	if err := k.limiter.Wait(ctx); err != nil {
		k.fail("%s %s: %v", method, path, err)
		return 0, nil
	}
	request, err := http.NewRequestWithContext(ctx, method, k.server.url+path, strings.NewReader(body))
	if err != nil {
		k.fail("%s %s: %v", method, path, err)
		return 0, nil
	}
	if header == nil {
		request.SetBasicAuth("soak", testKey)
	} else {
		request.Header = header
	}
	code, text, err := exchange(request)
	if err != nil || code >= 500 {
		k.fail("%s %s: %d %s %v", method, path, code, text, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.requests[code]++
	return code, text
}

// fail notes what must not happen.
func (k *soak) fail(format string, arguments ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.wrong) < 20 {
		k.wrong = append(k.wrong, k.clock.now().UTC().Format(time.RFC3339)+" "+fmt.Sprintf(format, arguments...))
	}
}

// run has everybody at work for as long as it lasts.
func (k *soak) run() {
	k.prepare()
	ctx, cancel := context.WithTimeout(k.t.Context(), k.size.lasts)
	defer cancel()
	var group sync.WaitGroup
	again := func(step func(ctx context.Context, random *rand.Rand)) {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), rand.Uint64()))
			for ctx.Err() == nil {
				step(ctx, random)
			}
		})
	}
	for range 4 {
		again(k.deviceStep)
	}
	again(k.adminStep)
	again(k.readerStep)
	group.Go(func() { k.readEvents(ctx) })
	group.Go(func() { k.mdm.haveOutages(ctx, k.size.lasts/8) })
	for i := range 40 {
		select {
		case <-ctx.Done():
		case <-time.After(k.size.lasts / 41):
			k.measure(fmt.Sprint(i))
		}
	}
	<-ctx.Done()
	group.Wait()
}

// settle ends the load: all devices come by themselves until everybody is in sync.
func (k *soak) settle() {
	k.mdm.setDown(false)
	k.limiter.SetLimit(rate.Limit(max(k.size.rate, 400)))
	k.server.waitFanouts()
	for deadline := time.Now().Add(6 * patience); ; {
		var group sync.WaitGroup
		for part := range 4 {
			group.Go(func() {
				for i := part; i < len(k.devices); i += 4 {
					k.devices[i].comeBack(k.t.Context())
				}
			})
		}
		group.Wait()
		var left []struct {
			ID       string
			WaitsFor string `json:"waits_for"`
		}
		k.server.get("/v1/enrollments?in_sync=0&state=enrolled", &left)
		if len(left) == 0 {
			break
		}
		require.True(k.t, time.Now().Before(deadline), "not in sync: %v", left)
	}
	k.server.eventually(func() bool {
		k.inbox.mu.Lock()
		defer k.inbox.mu.Unlock()
		return k.inbox.last > 0 && int(k.inbox.last) == k.server.count(`SELECT last_id FROM event_log`)
	}, "all events to be posted")
}

var soakMetric = regexp.MustCompile(`(?m)^(\w+)(?:\{[^}]*\})? (\S+)$`)

// measure asks the server what it takes.
func (k *soak) measure(when string) {
	code, text := k.server.do(http.MethodGet, "/metrics", "")
	require.Equal(k.t, http.StatusOK, code)
	sums := map[string]float64{}
	for _, match := range soakMetric.FindAllStringSubmatch(string(text), -1) {
		value, err := strconv.ParseFloat(match[2], 64)
		require.NoError(k.t, err)
		sums[match[1]] += value
	}
	sample := soakSample{
		at: time.Since(k.clock.epoch) * time.Duration(k.size.speed),
		// The next collection is due at twice what was alive after the last one.
		heap: sums["go_memstats_next_gc_bytes"] / 2, resident: sums["process_resident_memory_bytes"],
		goroutines: sums["go_goroutines"], files: sums["process_open_fds"], caches: sums["decree_cache_bytes"],
		outOfSync: float64(k.server.count(`SELECT COUNT(*) FROM enrollments WHERE out_of_sync = 1`)),
	}
	sample.database, sample.log = k.databaseSize()
	k.samples = append(k.samples, sample)
	k.mu.Lock()
	defer k.mu.Unlock()
	const mega = 1 << 20
	k.t.Logf("%-8s %6.1f h: heap %.1f MB, caches %.1f MB, resident %.1f MB, %.0f goroutines, %.0f files, database %.1f MB, "+
		"its log %.1f MB, %.0f out of sync, answers %v", when, sample.at.Hours(), sample.heap/mega, sample.caches/mega,
		sample.resident/mega, sample.goroutines, sample.files, sample.database/mega, sample.log/mega, sample.outOfSync, k.requests)
}

// databaseSize is how large the database is, and the log that goes before its file.
func (k *soak) databaseSize() (database, log float64) {
	if onMySQL(k.server.args) {
		require.NoError(k.t, k.server.database.QueryRow(`SELECT SUM(data_length + index_length)
			FROM information_schema.tables WHERE table_schema = DATABASE()`).Scan(&database))
		return database, 0
	}
	for suffix, size := range map[string]*float64{"": &database, "-wal": &log} {
		info, err := os.Stat(k.config.storageDSN + suffix)
		require.NoError(k.t, err)
		*size = float64(info.Size())
	}
	return database, log
}

// requireFlat compares the last quarter with the second. Short soaks are over before caches and pools are full.
func (k *soak) requireFlat() {
	for _, line := range k.wrong {
		k.t.Error(line)
	}
	last := k.samples[len(k.samples)-1]
	require.Less(k.t, last.goroutines, 200.0)
	require.Less(k.t, last.files, 200.0)
	require.Less(k.t, last.log, 64.0*(1<<20))
	if !onMySQL(k.server.args) {
		pages, free := k.server.count(`PRAGMA page_count`), k.server.count(`PRAGMA freelist_count`)
		require.Less(k.t, free, pages/2, "most of the file is not in use")
	}
	if *soakFor == 0 {
		return
	}
	quarter := len(k.samples) / 4
	for _, of := range []struct {
		name  string
		value func(soakSample) float64
		slack float64
	}{
		{"heap", func(s soakSample) float64 { return s.heap - s.caches }, 4 << 20},
		{"resident memory", func(s soakSample) float64 { return s.resident - s.caches }, 16 << 20},
		{"goroutines", func(s soakSample) float64 { return s.goroutines }, 5},
		{"open files", func(s soakSample) float64 { return s.files }, 5},
	} {
		average := func(samples []soakSample) (sum float64) {
			for _, s := range samples {
				sum += of.value(s) / float64(len(samples))
			}
			return sum
		}
		second, fourth := average(k.samples[quarter:2*quarter]), average(k.samples[3*quarter:])
		k.t.Logf("%s: %.1f in the second quarter, %.1f in the last", of.name, second, fourth)
		if fourth > second*1.2+of.slack {
			k.t.Errorf("%s grew from %.1f to %.1f", of.name, second, fourth)
		}
	}
}
