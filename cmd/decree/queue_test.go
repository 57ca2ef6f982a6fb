package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTheQueueInNumbers is for an MDM that is away, and for none.
func TestTheQueueInNumbers(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		type queue struct {
			Failing struct{ Total int }
			Breaker *struct {
				Open      bool
				NextProbe *time.Time `json:"next_probe"`
			}
		}
		var numbers queue
		startDecree(t, databases()[0].flags(t)...).get("/v1/notifications", &numbers)
		require.Nil(t, numbers.Breaker, "there is no MDM")

		s := startDecree(t, append(flags, "-enqueue", "http://127.0.0.1:1/v1/enqueue", "-enqueue-key", "key")...)
		for _, id := range []string{"a", "b", "c", "d"} {
			s.assign(id, "S")
			s.change("POST", "/v1/enrollments/"+id+"/sync", "")
		}
		require.Eventually(t, func() bool {
			s.get("/v1/notifications", &numbers)
			return numbers.Breaker.Open && numbers.Failing.Total > 0
		}, patience, 50*time.Millisecond)
		require.NotNil(t, numbers.Breaker.NextProbe)
	})
}
