package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/micromdm/plist"
	"github.com/stretchr/testify/require"
)

// instantMDM answers like NanoMDM, at once, and counts how many enrollments it was given commands for.
type instantMDM struct {
	*httptest.Server
	told     atomic.Int64
	requests atomic.Int64
	bad      atomic.Int64
}

func newInstantMDM(tb testing.TB) *instantMDM {
	m := &instantMDM{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ids := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/enqueue/"), ",")
		body, _ := io.ReadAll(r.Body)
		var command struct {
			CommandUUID string
			Command     struct {
				RequestType string
				Data        []byte
			}
		}
		if err := plist.Unmarshal(body, &command); err != nil || command.Command.RequestType != "DeclarativeManagement" {
			m.bad.Add(1)
		}
		type status struct {
			PushResult string `json:"push_result"`
		}
		statuses := make(map[string]status, len(ids))
		for _, id := range ids {
			statuses[id] = status{command.CommandUUID}
		}
		m.requests.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"status": statuses, "command_uuid": command.CommandUUID, "request_type": command.Command.RequestType,
		})
		m.told.Add(int64(len(ids)))
	}))
	tb.Cleanup(m.Close)
	return m
}

// deviceTraffic sends device requests until stop is closed, and returns how long each took.
func deviceTraffic(b *testing.B, address string, enrollments int, stop <-chan struct{}) []time.Duration {
	const connections = 4
	var mu sync.Mutex
	var all []time.Duration
	var group sync.WaitGroup
	for range connections {
		c, err := dial(address)
		require.NoError(b, err)
		group.Go(func() {
			defer c.conn.Close()
			var took []time.Duration
			for paths := []string{"/tokens", "/declaration-items"}; ; {
				select {
				case <-stop:
					mu.Lock()
					defer mu.Unlock()
					all = append(all, took...)
					return
				case <-time.After(5 * time.Millisecond):
				}
				request := deviceRequest(paths[len(took)%2], fleetID(rand.IntN(enrollments)))
				start := time.Now()
				if _, err := c.do(request); err != nil {
					b.Error(err)
					return
				}
				took = append(took, time.Since(start))
			}
		})
	}
	group.Wait()
	slices.Sort(all)
	return all
}

// BenchmarkChange measures a change that reaches 100,000 enrollments: how long the API call takes, how fast the
// enrollments are told, what devices notice meanwhile, and the memory that all of this takes (client and MDM included,
// since they are in one process here).
func BenchmarkChange(b *testing.B) {
	const enrollments = 100_000
	for _, db := range databases() {
		b.Run(db.name, func(b *testing.B) {
			mdm := newInstantMDM(b)
			s := fleet(b, db, enrollments, "-enqueue", mdm.URL+"/v1/enqueue/", "-enqueue-key", "key")
			s.eventually(func() bool { return s.count(`SELECT COUNT(*) FROM fanouts`) == 0 }, "the fan-outs of the set-up")
			s.settle()
			var call, spread time.Duration
			var took []time.Duration
			b.ResetTimer()
			for i := range b.N {
				b.StopTimer()
				mdm.told.Store(0)
				stop := make(chan struct{})
				traffic := make(chan []time.Duration)
				go func() {
					traffic <- deviceTraffic(b, strings.TrimPrefix(s.url, "http://"), enrollments, stop)
				}()
				b.StartTimer()
				start := time.Now()
				s.putTest("com.example.declaration.0", fmt.Sprint("change ", i, time.Now()))
				call += time.Since(start)
				// Devices that ask in between need not be told, so not quite all are.
				for deadline := time.Now().Add(10 * time.Minute); ; {
					if s.count(`SELECT COUNT(*) FROM fanouts`) == 0 && s.count(`SELECT COUNT(*) FROM (
						SELECT 1 FROM enrollments WHERE priority IN (0, 1) AND notify_at <= `+
						strconv.FormatInt(time.Now().UnixMicro(), 10)+` LIMIT 1) due`) == 0 {
						break
					}
					require.True(b, time.Now().Before(deadline))
					time.Sleep(20 * time.Millisecond)
				}
				spread += time.Since(start)
				b.StopTimer()
				close(stop)
				took = append(took, <-traffic...)
				require.Zero(b, mdm.bad.Load())
				require.Greater(b, mdm.told.Load(), int64(enrollments*9/10))
				require.LessOrEqual(b, mdm.told.Load(), int64(enrollments))
			}
			slices.Sort(took)
			b.ReportMetric(float64(call.Milliseconds())/float64(b.N), "ms/call")
			b.ReportMetric(float64(enrollments*b.N)/spread.Seconds(), "enrollments/s")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-device-p99")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-device-p50")
			b.ReportMetric(float64(len(took)), "device-requests")
			b.ReportMetric(residentMegabytes(b), "MB-resident")
		})
	}
}

// residentMegabytes is the process's resident memory; 0 where the system does not say.
func residentMegabytes(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			kilobytes, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			require.NoError(b, err)
			return kilobytes / 1024
		}
	}
	return 0
}
