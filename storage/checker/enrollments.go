package checker

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// enrollments verifies the queue, and that whoever is in sync has what its sets compose to.
func (c *checker) enrollments(ctx context.Context) error {
	return c.each(ctx, Enrollment, func(
		ctx context.Context, after string, found func(subject, problem string),
	) (last string, rows int, err error) {
		c.forget()
		list, contents, err := c.source.CheckedEnrollments(ctx, storage.Page{After: after, Limit: rowsPage}, c.knows)
		if err != nil {
			return "", 0, err
		}
		c.learn(list, contents)
		for i := range list {
			c.checkEnrollment(&list[i], func(problem string) { found(list[i].ID, problem) })
			last = list[i].ID
		}
		return last, len(list), nil
	})
}

// never is a time that no notifier lets anybody wait for: they come back within days, or after what -notify-interval says.
const never = 365 * 24 * time.Hour

// checkEnrollment verifies one row. What an enrollment should have is known only where no change is on its way to it.
func (c *checker) checkEnrollment(e *storage.CheckedEnrollment, found func(problem string)) {
	checkQueue(e, found)
	if e.LeftAt.IsZero() && e.OutOfSync && time.Until(e.NotifyAt) > never {
		found("is out of sync, and due in " + e.NotifyAt.UTC().Format("January 2006") + " only, as if a clock had been wrong")
	}
	if !e.LeftAt.IsZero() || !e.NotifyAt.IsZero() {
		return
	}
	if e.OutOfSync && !e.Held {
		found("is out of sync, not held, and nothing is due for it")
	}
	if empty := e.DesiredToken == c.empty; e.DesiredToken != "" && !e.OutOfSync && !e.InSync(e.DesiredToken, empty) {
		found("is said to be in sync, should have " + e.DesiredToken + ", and has " + orNothing(e.SyncedToken))
	}
	if e.FanoutPending {
		return
	}
	token := c.token(e, c.shard)
	switch {
	case e.DesiredToken == token:
	case e.DesiredToken != "" && e.DesiredToken == c.token(e, !c.shard):
		found("should have what its sets compose to where -shard is the other way: the check needs the servers' -shard")
	case e.DesiredToken != "":
		found("should have " + e.DesiredToken + ", and its sets compose to " + token + ", with nothing due for it")
	case token != c.empty && !c.shard:
		found("was never looked at, has sets that compose to " + token + ", and nothing is due for it")
	}
}

func orNothing(token string) string {
	if token == "" {
		return "nothing that is known"
	}
	return token
}

// checkQueue verifies what holds for each row, whatever is under way.
func checkQueue(e *storage.CheckedEnrollment, found func(problem string)) {
	if leased := !e.LeaseUntil.IsZero(); e.LeaseID != leased || e.LeaseID != e.LeaseSeq {
		found("has half a lease")
	}
	if time.Until(e.LeaseUntil) > never {
		found("is leased until " + e.LeaseUntil.UTC().Format("January 2006") + ", as if a clock had been wrong")
	}
	if e.Priority != 0 && e.Priority != 1 {
		found("has a priority that no notifier looks for")
	}
	if e.SentSeq > e.NotifySeq {
		found("was told of a mark that it never had")
	}
	if e.ForceSeq > e.NotifySeq {
		found("is forced by a mark that it never had")
	}
}

// What is remembered of compositions is bounded: beyond it, it is read and made again.
const (
	maxItems  = 1 << 20
	maxTokens = 1 << 16
)

// composer makes the tokens of vectors. It remembers the contents of sets and the tokens of vectors, which never change
// for a version.
type composer struct {
	shard  bool
	empty  string
	sets   map[setKey][]ddm.Item
	items  int
	tokens map[string]string
}

type setKey struct {
	name    string
	version int64
}

func newComposer(shard bool) composer {
	return composer{shard: shard, empty: ddm.Compose().Token, sets: map[setKey][]ddm.Item{}, tokens: map[string]string{}}
}

func (c *composer) knows(set storage.SetVersion) bool {
	_, known := c.sets[setKey{set.Name, set.Version}]
	return known
}

// learn remembers the contents that were read with a page.
func (c *composer) learn(list []storage.CheckedEnrollment, contents map[string][]ddm.Item) {
	for i := range list {
		for _, set := range list[i].Vector {
			items, read := contents[set.Name]
			if !read || c.knows(set) {
				continue
			}
			c.items += len(items) + 1
			c.sets[setKey{set.Name, set.Version}] = items
		}
	}
}

// forget makes room.
func (c *composer) forget() {
	if c.items > maxItems {
		c.items, c.sets = 0, map[setKey][]ddm.Item{}
	}
	if len(c.tokens) > maxTokens {
		c.tokens = map[string]string{}
	}
}

// noShard is no shard's number.
const noShard = 0xff

// token is the DeclarationsToken of an enrollment's sets, with the declaration of its shard or without.
func (c *composer) token(e *storage.CheckedEnrollment, shard bool) string {
	key := append(make([]byte, 0, 64), noShard)
	if shard {
		key[0] = byte(ddm.Shard(e.ID)) // #nosec G115 -- it is at most 100
	}
	for _, set := range e.Vector {
		key = binary.BigEndian.AppendUint64(key, uint64(set.Version)) // #nosec G115 -- the same bits
		key = binary.AppendUvarint(key, uint64(len(set.Name)))
		key = append(key, set.Name...)
	}
	if token, known := c.tokens[string(key)]; known {
		return token
	}
	parts := make([][]ddm.Item, 0, len(e.Vector)+1)
	for _, set := range e.Vector {
		parts = append(parts, c.sets[setKey{set.Name, set.Version}])
	}
	if shard {
		declaration := ddm.ShardDeclaration(e.ID)
		parts = append(parts, []ddm.Item{{
			Class: declaration.Class, Identifier: declaration.Identifier, ServerToken: declaration.ServerToken,
		}})
	}
	token := ddm.Compose(parts...).Token
	c.tokens[string(key)] = token
	return token
}
