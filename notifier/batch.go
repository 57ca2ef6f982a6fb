package notifier

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/decree-ddm/decree/storage"
)

// batch is enrollments that one request is for.
type batch struct {
	action  action // send or push
	token   string
	data    []byte // nil: none
	members []*storage.Enrollment
}

// maxPathBytes bounds the ids in the path of a request; many proxies take no longer URLs than 8 KB.
const maxPathBytes = 7000

// grouper collects the enrollments of a claim into batches.
type grouper struct {
	size int
	open map[string]*batch // by token and whether they carry data
	path map[*batch]int    // bytes of ids so far
	full []*batch
}

func newGrouper(size int) *grouper {
	return &grouper{size: size, open: map[string]*batch{}, path: map[*batch]int{}}
}

func (g *grouper) add(e *storage.Enrollment, c *storage.Composition, d decision) {
	key := fmt.Sprint(d.action, d.withData, c.Token)
	bytes := len(url.PathEscape(e.ID)) + 1
	b := g.open[key]
	if b != nil && (len(b.members) == g.size || g.path[b]+bytes > maxPathBytes) {
		g.full = append(g.full, b)
		b = nil
	}
	if b == nil {
		b = &batch{action: d.action, token: c.Token}
		if d.withData {
			b.data = c.Tokens()
		}
		g.open[key] = b
	}
	g.path[b] += bytes
	b.members = append(b.members, e)
}

// batches returns all batches, the first ones filled first.
func (g *grouper) batches() []*batch {
	rest := make([]*batch, 0, len(g.open))
	for _, b := range g.open {
		rest = append(rest, b)
	}
	slices.SortFunc(rest, func(a, b *batch) int { return strings.Compare(a.members[0].ID, b.members[0].ID) })
	return append(g.full, rest...)
}

func (b *batch) ids() []string {
	ids := make([]string, len(b.members))
	for i, e := range b.members {
		ids[i] = e.ID
	}
	return ids
}
