package sqlstore

// scanWindow is how many rows of an index are grouped at a time.
const scanWindow = 2000

// group is rows of an index that have a key in common, and stand next to each other for that.
type group[K any] struct {
	key   K
	count int64
	more  bool // than were counted
}

// grouping counts the groups of an index: small ones many at a time, and one that is larger than a window by itself, up to
// a bound. So what it reads depends on how many groups are asked for, and not on how many rows there are.
type grouping[K any] struct {
	// window groups the next rows behind a key. Full says that it has stopped before the end: then its last group may go on.
	// It may stop when it has more groups than are wanted.
	window func(after K, rows, wanted int) (groups []group[K], full bool, err error)
	// count counts a group, up to a bound.
	count func(key K, bound int) (int64, error)
	// bound is where counts stop, and after how many rows a page ends.
	bound int
}

// next returns the groups behind a key, at least one if there is any, and whether there may be more.
func (g *grouping[K]) next(after K, wanted int) (groups []group[K], more bool, err error) {
	groups, full, err := g.window(after, min(scanWindow, g.bound), wanted)
	if err != nil || !full {
		return groups, false, err
	}
	if len(groups) > 1 {
		return groups[:len(groups)-1], true, nil
	}
	one := &groups[0]
	if one.count, err = g.count(one.key, g.bound+1); one.count > int64(g.bound) {
		one.count, one.more = int64(g.bound), true
	}
	return groups, true, err
}

// page returns groups behind a key until there are so many of them or enough rows were read, and whether there may be
// more.
func (g *grouping[K]) page(after K, limit int) (groups []group[K], more bool, err error) {
	for read := int64(0); ; {
		found, more, err := g.next(after, limit-len(groups))
		if err != nil {
			return nil, false, err
		}
		groups = append(groups, found...)
		if len(groups) > limit {
			return groups[:limit], true, nil
		}
		for _, one := range found {
			read += one.count
		}
		if !more || len(groups) == limit || read >= int64(g.bound) {
			return groups, more, nil
		}
		after = groups[len(groups)-1].key
	}
}
