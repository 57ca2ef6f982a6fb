package notifier

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// schedule says when things are tried again.
type schedule struct {
	// check is how long after a command a device that is not in sync is told again, and maxCheck to what that grows.
	check, maxCheck time.Duration
	// retry is how long after a failure it is tried again, and maxRetry to what that grows.
	retry, maxRetry time.Duration
}

var defaultSchedule = schedule{
	check: 6 * time.Hour, maxCheck: 7 * 24 * time.Hour,
	retry: 5 * time.Second, maxRetry: time.Hour,
}

// doubled returns first, doubled so many times, and at most largest.
func doubled(first, largest time.Duration, times int) time.Duration {
	for d := first; ; d *= 2 {
		if d >= largest {
			return largest
		}
		if times <= 0 {
			return d
		}
		times--
	}
}

// afterSend is when a device that was sent so many commands for one token is looked at again.
func (s schedule) afterSend(sends int) (after, spread time.Duration) {
	after = doubled(s.check, s.maxCheck, sends-1)
	return after, after / 10
}

// afterFailure is when an enrollment that failed so often in a row, this time included, is tried again.
func (s schedule) afterFailure(attempts int) (after, spread time.Duration) {
	after = doubled(s.retry, s.maxRetry, attempts-1)
	return after / 2, after
}

// decision is what a claimed enrollment needs.
type decision struct {
	kind storage.OutcomeKind // OutcomeSent: it is to be told
	// after is for OutcomePostponed.
	after time.Duration
	// withData is for OutcomeSent: the command may carry the tokens.
	withData bool
}

// decide is the heart of the reconciler: what an enrollment needs, given what it should have.
func (s schedule) decide(e *storage.Enrollment, c *storage.Composition) decision {
	// A command for a token carries it; the next one for the same token makes the device ask.
	send := decision{kind: storage.OutcomeSent, withData: e.CommandToken != c.Token}
	switch {
	case e.Forced:
		return send
	case e.InSync(c.Token, c.Empty()):
		return decision{kind: storage.OutcomeInSync}
	case e.AskedToken == c.Token && e.Now.Sub(e.AskedAt) >= storage.AskGrace && e.FetchedToken == "":
		// It was told this token, and had no need to fetch the manifest. (Where a manifest that it fetched is known, it
		// cannot hold another one, and has merely not come back yet.)
		return decision{kind: storage.OutcomeSynced}
	case e.Held:
		return decision{kind: storage.OutcomeHeld}
	}
	// It was told, or is at work, so it is left alone for a while, however often it is marked.
	var until time.Time
	if e.CommandToken == c.Token && !e.CommandSentAt.IsZero() {
		after, _ := s.afterSend(e.Sends)
		until = e.CommandSentAt.Add(after)
	}
	if e.FetchedToken == c.Token {
		until = later(until, e.FetchedAt.Add(storage.FetchGrace))
	}
	if e.AskedToken == c.Token {
		until = later(until, e.AskedAt.Add(storage.AskGrace))
	}
	if wait := until.Sub(e.Now); wait > 0 {
		return decision{kind: storage.OutcomePostponed, after: wait}
	}
	return send
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// batch is enrollments that are told with one command.
type batch struct {
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

func (g *grouper) add(e *storage.Enrollment, c *storage.Composition, withData bool) {
	key := c.Token
	if withData {
		key += "+"
	}
	bytes := len(url.PathEscape(e.ID)) + 1
	b := g.open[key]
	if b != nil && (len(b.members) == g.size || g.path[b]+bytes > maxPathBytes) {
		g.full = append(g.full, b)
		b = nil
	}
	if b == nil {
		b = &batch{token: c.Token}
		if withData {
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
