// Package compositor builds what each enrollment should have, and remembers it: a composition is a pure function of
// the versions of an enrollment's sets (its vector), so enrollments that agree in it share one. Caches are keyed by
// what names content, and therefore right on any number of replicas without ever being told of a change.
package compositor

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// Options of a Compositor. Zero values mean the defaults.
type Options struct {
	// Shard gives every enrollment the declaration of its shard number.
	Shard bool
	// CacheBytes bounds the memory of all caches together, roughly. The default is 32 MiB.
	CacheBytes int64
}

// Compositor composes over storage. It is safe for concurrent use.
type Compositor struct {
	source storage.Compositions
	shard  bool

	sets         *cache[[]ddm.Item]          // by name and version
	compositions *cache[storage.Composition] // by vector; without ChangedAt
	bodies       *cache[[]byte]              // by identifier and ServerToken
	kept         *cache[time.Time]           // by token: when its manifest was last stored
	loads        singleflight.Group
}

// New returns a compositor over a store.
func New(source storage.Compositions, options Options) *Compositor {
	if options.CacheBytes <= 0 {
		options.CacheBytes = 32 << 20
	}
	return &Compositor{
		source:       source,
		shard:        options.Shard,
		sets:         newCache[[]ddm.Item](options.CacheBytes / 4),
		compositions: newCache[storage.Composition](options.CacheBytes / 4),
		bodies:       newCache[[]byte](options.CacheBytes * 3 / 8),
		kept:         newCache[time.Time](options.CacheBytes / 8),
	}
}

// Caches tells how each cache does.
func (c *Compositor) Caches() []CacheStats {
	return []CacheStats{
		c.sets.stats("sets"), c.compositions.stats("compositions"), c.bodies.stats("declarations"), c.kept.stats("manifests"),
	}
}

// Compose returns the composition of an enrollment whose vector was just read. When content has changed since, the
// composition is of a newer vector.
func (c *Compositor) Compose(ctx context.Context, enrollmentID string, vector storage.Vector) (*storage.Composition, error) {
	key := c.vectorKey(enrollmentID, vector)
	if found, ok := c.compositions.get(key); ok {
		found.ChangedAt = vector.ChangedAt()
		return &found, nil
	}
	// Many enrollments of one vector ask at once after a change. One of them loads, and the others take what it got,
	// unless its own sets changed in between.
	result := c.loads.DoChan(key, func() (any, error) {
		// Another one may have loaded it since it was found missing.
		if found, ok := c.compositions.get(key); ok {
			found.ChangedAt = vector.ChangedAt()
			return &loaded{enrollmentID, key, &found}, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		return c.load(ctx, enrollmentID, vector)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		if got := r.Val.(*loaded); got.key == key || got.enrollmentID == enrollmentID {
			return got.result, nil
		}
	}
	got, err := c.load(ctx, enrollmentID, vector)
	if err != nil {
		return nil, err
	}
	return got.result, nil
}

// loadTimeout bounds a load that several requests wait for, since it does not end with the request that began it.
const loadTimeout = 30 * time.Second

type loaded struct {
	enrollmentID string
	key          string
	result       *storage.Composition
}

// load composes from storage and from the contents of sets that are cached.
func (c *Compositor) load(ctx context.Context, enrollmentID string, vector storage.Vector) (*loaded, error) {
	cached := map[string][]ddm.Item{}
	var known storage.Vector
	for _, set := range vector {
		if items, ok := c.sets.get(setKey(set)); ok {
			cached[setKey(set)] = items
			known = append(known, set)
		}
	}
	current, contents, err := c.source.VectorContents(ctx, enrollmentID, known)
	if err != nil {
		return nil, fmt.Errorf("composing: %w", err)
	}
	parts := make([][]ddm.Item, 0, len(current)+1)
	for _, set := range current {
		items, ok := cached[setKey(set)]
		if !ok {
			items = contents[set.Name]
			c.sets.add(setKey(set), items, itemsSize(items))
		}
		parts = append(parts, items)
	}
	if c.shard {
		shard := ddm.ShardDeclaration(enrollmentID)
		parts = append(parts, []ddm.Item{
			{Class: shard.Class, Identifier: shard.Identifier, ServerToken: shard.ServerToken},
		})
	}
	made := storage.Composition{Composition: ddm.Compose(parts...)}
	made.DeclarationItems = made.DeclarationItemsJSON()
	key := c.vectorKey(enrollmentID, current)
	c.compositions.add(key, made, itemsSize(made.Items)+len(made.DeclarationItems))
	made.ChangedAt = current.ChangedAt()
	return &loaded{enrollmentID, key, &made}, nil
}

// Desired returns the DeclarationsToken of what an enrollment should have, and whether that is nothing.
func (c *Compositor) Desired(
	ctx context.Context, enrollment *storage.Enrollment, vector storage.Vector,
) (token string, empty bool, err error) {
	composition, err := c.Compose(ctx, enrollment.ID, vector)
	if err != nil {
		return "", false, err
	}
	return composition.Token, composition.Empty(), nil
}

// Declaration returns a version of a declaration as a device gets it, or storage.ErrNotFound.
func (c *Compositor) Declaration(ctx context.Context, enrollmentID string, item ddm.Item) ([]byte, error) {
	if item.Identifier == ddm.ShardIdentifier {
		return ddm.ShardDeclaration(enrollmentID).JSON(), nil
	}
	key := strconv.Itoa(len(item.Identifier)) + ":" + item.Identifier + item.ServerToken
	if body, ok := c.bodies.get(key); ok {
		return body, nil
	}
	declaration, err := c.source.DeclarationVersion(ctx, item.Identifier, item.ServerToken)
	if err != nil {
		return nil, err
	}
	body := declaration.JSON()
	c.bodies.add(key, body, len(body))
	return body, nil
}

// Manifests are kept in storage for a day after they were last stored, so they are stored again well before.
const keepInterval = time.Hour

// KeepManifest makes a manifest that is about to be served known to Served for a day. Now is the database's clock.
func (c *Compositor) KeepManifest(ctx context.Context, served *storage.Composition, now time.Time) error {
	if at, ok := c.kept.get(served.Token); ok && now.Sub(at) < keepInterval && now.Sub(at) > -keepInterval {
		return nil
	}
	if err := c.source.SaveManifest(ctx, served.Token, served.DeclarationItems); err != nil {
		return err
	}
	c.kept.add(served.Token, now, 0)
	return nil
}

// Served returns the items of a manifest that was served less than a day ago, or storage.ErrNotFound.
func (c *Compositor) Served(ctx context.Context, token string) ([]ddm.Item, error) {
	manifest, err := c.source.Manifest(ctx, token)
	if err != nil {
		return nil, err
	}
	items, err := ddm.ParseDeclarationItems(manifest)
	if err != nil {
		return nil, fmt.Errorf("reading a kept manifest: %w", err)
	}
	return items, nil
}

func setKey(set storage.SetVersion) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(set.Version))) + set.Name // #nosec G115 -- the same bits
}

// vectorKey names all that a composition depends on.
func (c *Compositor) vectorKey(enrollmentID string, vector storage.Vector) string {
	size := 1
	for _, set := range vector {
		size += len(set.Name) + 12
	}
	key := make([]byte, 0, size)
	if c.shard {
		key = append(key, byte(ddm.Shard(enrollmentID))) // #nosec G115 -- it is at most 100
	}
	for _, set := range vector {
		key = binary.BigEndian.AppendUint64(key, uint64(set.Version)) // #nosec G115 -- the same bits
		key = binary.AppendUvarint(key, uint64(len(set.Name)))
		key = append(key, set.Name...)
	}
	return string(key)
}

// itemsSize is roughly how many bytes of memory items take.
func itemsSize(items []ddm.Item) int {
	size := 0
	for _, item := range items {
		size += 48 + len(item.Identifier) + len(item.ServerToken)
	}
	return size
}
