package importer

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// batch gathers declarations for one transaction.
type batch struct {
	declarations []*ddm.Declaration
	names        map[string]bool
	bytes        int
}

func (b *batch) add(declaration *ddm.Declaration) {
	if b.names == nil {
		b.names = map[string]bool{}
	}
	b.declarations = append(b.declarations, declaration)
	b.names[declaration.Identifier] = true
	b.bytes += len(declaration.Payload)
}

func (b *batch) full() bool { return len(b.declarations) >= batchRows || b.bytes >= batchBytes }

// declarations takes all declarations as they come, and then those that refer to others which came later.
func (r *run) declarations() error {
	var next batch
	for row, err := range r.source.Declarations(r.ctx) {
		if err != nil {
			return errors.Join(r.put(&next, false), err)
		}
		declaration, err := read(row)
		if err != nil {
			r.refuse(named(row.Identifier), err.Error())
			continue
		}
		// A transaction has each identifier once.
		if next.names[declaration.Identifier] {
			if err := r.put(&next, false); err != nil {
				return err
			}
		}
		if next.add(declaration); next.full() {
			if err := r.put(&next, false); err != nil {
				return err
			}
		}
	}
	if err := r.put(&next, false); err != nil {
		return err
	}
	return r.takeLate()
}

// put has a batch imported, and empties it. What refers to declarations that are not there is kept for later, unless this
// is the last time.
func (r *run) put(b *batch, last bool) error {
	if len(b.declarations) == 0 {
		return nil
	}
	results, err := r.target.ImportDeclarations(r.ctx, b.declarations, r.options)
	if err != nil {
		return err
	}
	for i, result := range results {
		identifier := b.declarations[i].Identifier
		var missing *storage.MissingReferencesError
		switch {
		case errors.As(result.Err, &missing) && !last:
			r.late[identifier] = missing.Missing
		case errors.As(result.Err, &missing):
			r.refuse(named(identifier), fmt.Sprintf("refers to declarations that do not exist here: %s", quoted(missing.Missing)))
		case result.Err != nil:
			r.refuse(named(identifier), result.Err.Error())
		default:
			if r.made != nil && result.Changed {
				r.made[identifier] = true
			}
			r.done(result.Changed)
		}
	}
	*b = batch{}
	return nil
}

// takeLate takes the declarations that refer to others, those that are referred to first. Declarations that refer to each
// other in a circle go into one transaction.
func (r *run) takeLate() error {
	var next batch
	for _, circle := range circles(r.late) {
		for _, identifier := range circle {
			row, err := r.source.Declaration(r.ctx, identifier)
			if err != nil {
				return errors.Join(r.put(&next, true), err)
			}
			declaration, err := read(row)
			if err == nil && declaration.Identifier != identifier {
				err = errors.New("the source gives another declaration for it")
			}
			if err != nil {
				r.refuse(named(identifier), err.Error())
				continue
			}
			next.add(declaration)
		}
		if next.full() {
			if err := r.put(&next, true); err != nil {
				return err
			}
		}
	}
	return r.put(&next, true)
}

// circles returns the nodes of a graph in groups that cannot be parted, what is referred to before what refers to it
// (Tarjan's strongly connected components). References to anything but nodes are passed over.
func circles(references map[string][]string) [][]string {
	var found [][]string
	var path []string
	number := map[string]int{} // in the order of visits, from 1
	lowest := map[string]int{}
	onPath := map[string]bool{}
	var visit func(node string)
	visit = func(node string) {
		number[node] = len(number) + 1
		lowest[node] = number[node]
		path = append(path, node)
		onPath[node] = true
		for _, referred := range references[node] {
			if _, isNode := references[referred]; !isNode {
				continue
			}
			if number[referred] == 0 {
				visit(referred)
				lowest[node] = min(lowest[node], lowest[referred])
			} else if onPath[referred] {
				lowest[node] = min(lowest[node], number[referred])
			}
		}
		if lowest[node] != number[node] {
			return
		}
		start := len(path) - 1
		for path[start] != node {
			start--
		}
		group := slices.Clone(path[start:])
		for _, member := range group {
			delete(onPath, member)
		}
		path = path[:start]
		found = append(found, group)
	}
	for _, node := range slices.Sorted(maps.Keys(references)) {
		if number[node] == 0 {
			visit(node)
		}
	}
	return found
}

func named(identifier string) string { return fmt.Sprintf("declaration %q", identifier) }

// maxQuoted is how many names a reason lists.
const maxQuoted = 10

// quoted lists names, the first ones if they are many.
func quoted(names []string) string {
	text := ""
	for i, name := range names {
		if i == maxQuoted {
			return text + fmt.Sprintf(" and %d more", len(names)-i)
		}
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%q", name)
	}
	return text
}
