package notifier

import (
	"sync"
	"time"
)

// meterSeconds is over how long a meter looks back.
const meterSeconds = 60

// meter counts events over the last minute. It is safe for concurrent use.
type meter struct {
	now func() time.Time

	mu      sync.Mutex
	buckets [meterSeconds]struct {
		second int64
		count  int
	}
}

func newMeter() *meter { return &meter{now: time.Now} }

// add counts some events that happened now.
func (m *meter) add(count int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	second := m.now().Unix()
	bucket := &m.buckets[second%meterSeconds]
	if bucket.second != second {
		bucket.second, bucket.count = second, 0
	}
	bucket.count += count
}

// perSecond is how many there were in a second, on average over the last minute.
func (m *meter) perSecond() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	sum, oldest := 0, m.now().Unix()-meterSeconds
	for _, bucket := range m.buckets {
		if bucket.second > oldest {
			sum += bucket.count
		}
	}
	return float64(sum) / meterSeconds
}
