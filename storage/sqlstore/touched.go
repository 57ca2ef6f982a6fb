package sqlstore

import (
	"sync"

	"github.com/decree-ddm/decree/storage"
)

// maxTouched is how many names are remembered; beyond that, all are taken to be touched.
const maxTouched = 10_000

// touched remembers whose numbers have to be counted again: declarations of which devices said something new, and sets that
// were given or taken. It is of this process alone: what is lost with it is counted again in time. It is safe for concurrent
// use, and the zero value is ready.
type touched struct {
	mu          sync.Mutex
	identifiers map[string]struct{}
	setNames    map[string]struct{}
	all         bool
}

// declarations remembers declarations.
func (t *touched) declarations(identifiers []string) { t.add(&t.identifiers, identifiers) }

// sets remembers sets.
func (t *touched) sets(names []string) { t.add(&t.setNames, names) }

func (t *touched) add(to *map[string]struct{}, names []string) {
	if len(names) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if *to == nil {
		*to = map[string]struct{}{}
	}
	for _, name := range names {
		if len(*to) == maxTouched {
			t.all = true
			return
		}
		(*to)[name] = struct{}{}
	}
}

// take returns what is remembered and forgets it.
func (t *touched) take() (identifiers, setNames map[string]struct{}, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	identifiers, setNames, all = t.identifiers, t.setNames, t.all
	t.identifiers, t.setNames, t.all = nil, nil, false
	return identifiers, setNames, all
}

// everything remembers that it is all.
func (t *touched) everything() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = true
}

// touchSetsOf notes that what an enrollment should have, or what it says, counts differently from now on. Who has more sets
// than are noted is counted in time.
func (t *tx) touchSetsOf(enrollmentID string) error {
	sets, err := t.strings(`SELECT set_name FROM enrollment_sets WHERE enrollment_id = ? AND set_name > ?
		ORDER BY set_name LIMIT ?`, enrollmentID, "", storage.MaxListedSets)
	t.touchedSets = append(t.touchedSets, sets...)
	return err
}

// maxSaid is of how many declarations a report can say something new before only those are noted that the device should
// have: no other one counts, and a device can name any number of them.
const maxSaid = 200

// touchSaid notes the declarations of which a report says something new.
func (t *tx) touchSaid(f *fold) error {
	if len(f.touched) > maxSaid {
		return t.touchSetsOf(f.enrollmentID)
	}
	t.touchedDeclarations = append(t.touchedDeclarations, f.touched...)
	return nil
}
