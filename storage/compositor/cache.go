package compositor

import (
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// cache keeps values by keys that name their content, so that nothing in it is ever stale, and forgets the least
// recently used ones beyond a number of bytes. It is safe for concurrent use.
type cache[V any] struct {
	mu       sync.Mutex
	lru      *simplelru.LRU[string, sized[V]]
	bytes    int64
	maxBytes int64

	hits, misses int64
}

type sized[V any] struct {
	value V
	bytes int64
}

// entryOverhead is roughly what an entry costs beside its key and value.
const entryOverhead = 200

func newCache[V any](maxBytes int64) *cache[V] {
	c := &cache[V]{maxBytes: maxBytes}
	lru, err := simplelru.NewLRU(math.MaxInt, func(_ string, evicted sized[V]) { c.bytes -= evicted.bytes })
	if err != nil {
		panic(err) // only a size that is not positive is refused
	}
	c.lru = lru
	return c
}

func (c *cache[V]) get(key string) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry, ok := c.lru.Get(key)
	if ok {
		c.hits++
	} else {
		c.misses++
	}
	return entry.value, ok
}

// CacheStats is how a cache does.
type CacheStats struct {
	Name                          string
	Hits, Misses, Bytes, MaxBytes int64
	Entries                       int
}

func (c *cache[V]) stats(name string) CacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheStats{
		Name: name, Hits: c.hits, Misses: c.misses, Bytes: c.bytes, MaxBytes: c.maxBytes, Entries: c.lru.Len(),
	}
}

// add keeps a value of so many bytes, unless it is too large to be kept beside others. It takes the place of one that
// the key had.
func (c *cache[V]) add(key string, value V, bytes int) {
	entry := sized[V]{value, int64(len(key)+bytes) + entryOverhead}
	if entry.bytes > c.maxBytes/2 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Remove(key)
	c.lru.Add(key, entry)
	c.bytes += entry.bytes
	for c.bytes > c.maxBytes {
		c.lru.RemoveOldest()
	}
}
