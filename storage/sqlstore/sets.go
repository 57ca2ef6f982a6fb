package sqlstore

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/decree-ddm/decree/storage"
)

// changeSets gives sets a new version and has their enrollments marked. The names are sorted; the caller holds the
// locks of the declarations that the change is about.
func (t *tx) changeSets(sets []string, options storage.ChangeOptions) error {
	version := rand.Int64() // #nosec G404 -- it has to differ, not to be secret
	for chunk := range slices.Chunk(sets, chunkSize) {
		if _, err := t.exec(`UPDATE sets SET version = ?, changed_at = `+t.now+`
			WHERE name IN `+list(len(chunk)), args([]any{version}, chunk)...); err != nil {
			return err
		}
	}
	return t.requestFanouts(sets, options, 0)
}

// ensureSet makes the row of a set if it has none. Rows of sets stay, so that a plain read is enough to know.
func (t *tx) ensureSet(set string) error {
	exists, err := t.exists(`SELECT 1 FROM sets WHERE name = ?`, set)
	if err != nil || exists {
		return err
	}
	_, err = t.exec(`INSERT INTO sets (name, version, changed_at) VALUES (?, ?, `+t.now+`) `+
		t.dialect.KeepExisting("name"), set, rand.Int64()) // #nosec G404 -- it has to differ, not to be secret
	return err
}

// PutSetDeclaration implements storage.Sets.
func (s *Store) PutSetDeclaration(
	ctx context.Context, set, identifier string, options storage.ChangeOptions,
) (changed bool, err error) {
	err = s.inTxAt(ctx, []string{ofDeclaration(identifier), ofSet(set)}, "adding a declaration to a set", func(t *tx) error {
		changed = false
		locked, err := t.lockDeclarations(identifier)
		if err != nil {
			return err
		}
		if _, exists := locked[identifier]; !exists {
			return storage.ErrNotFound
		}
		held, err := t.exists(`SELECT 1 FROM set_declarations WHERE set_name = ? AND identifier = ?`, set, identifier)
		if err != nil || held {
			return err
		}
		changed = true
		t.touchedDeclarations = append(t.touchedDeclarations, identifier)
		if err := t.ensureSet(set); err != nil {
			return err
		}
		if err := t.changeSets([]string{set}, options); err != nil {
			return err
		}
		if _, err := t.exec(`INSERT INTO set_declarations (set_name, identifier) VALUES (?, ?)`, set, identifier); err != nil {
			return err
		}
		return t.record(options, changeEntry{
			action: storage.ActionPutSetDeclaration, set: set, declaration: identifier, fanouts: []string{set},
		})
	})
	return changed, err
}

// DeleteSetDeclaration implements storage.Sets.
func (s *Store) DeleteSetDeclaration(
	ctx context.Context, set, identifier string, options storage.ChangeOptions,
) (changed bool, err error) {
	err = s.inTxAt(ctx, []string{ofDeclaration(identifier), ofSet(set)}, "taking a declaration out of a set", func(t *tx) error {
		changed = false
		if _, err := t.lockDeclarations(identifier); err != nil {
			return err
		}
		held, err := t.exists(`SELECT 1 FROM set_declarations WHERE set_name = ? AND identifier = ?`, set, identifier)
		if err != nil || !held {
			return err
		}
		changed = true
		t.touchedDeclarations = append(t.touchedDeclarations, identifier)
		if err := t.changeSets([]string{set}, options); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM set_declarations WHERE set_name = ? AND identifier = ?`, set, identifier); err != nil {
			return err
		}
		return t.record(options, changeEntry{
			action: storage.ActionDropSetDeclaration, set: set, declaration: identifier, fanouts: []string{set},
		})
	})
	return changed, err
}

// SetNames implements storage.Sets.
func (s *Store) SetNames(ctx context.Context, page storage.Page) ([]string, error) {
	return queryStrings(ctx, s.read, `SELECT name FROM sets
		WHERE name > ? AND EXISTS (SELECT 1 FROM set_declarations WHERE set_name = name)
		ORDER BY name LIMIT ?`, page.After, page.Limit)
}

// SetDeclarations implements storage.Sets.
func (s *Store) SetDeclarations(ctx context.Context, set string, page storage.Page) ([]string, error) {
	return queryStrings(ctx, s.read, `SELECT identifier FROM set_declarations WHERE set_name = ? AND identifier > ?
		ORDER BY identifier LIMIT ?`, set, page.After, page.Limit)
}
