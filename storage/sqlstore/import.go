package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// longestTurn bounds for how long an import leaves the database to others after a transaction.
const longestTurn = 50 * time.Millisecond

// inImport runs a transaction of an import, and returns when others have had their turn: a server that runs beside an
// import waits for a database with one writer by trying again and again, and would hardly ever find it free.
func (s *Store) inImport(ctx context.Context, operation string, fn func(*tx) error) error {
	began := time.Now()
	if err := s.inTx(ctx, background, operation, fn); err != nil || !s.dialect.OneWriter {
		return err
	}
	timer := time.NewTimer(min(time.Since(began), longestTurn))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done(): // what was done is done
	}
	return nil
}

// ImportDeclarations implements storage.Importer.
func (s *Store) ImportDeclarations(
	ctx context.Context, declarations []*ddm.Declaration, options storage.ImportOptions,
) (results []storage.ImportResult, err error) {
	batch := make([]content, len(declarations))
	for i, declaration := range declarations {
		batch[i] = contentOf(declaration)
	}
	err = s.inImport(ctx, "importing declarations", func(t *tx) error {
		results, err = t.importDeclarations(batch, options)
		return err
	})
	return results, err
}

func (t *tx) importDeclarations(batch []content, options storage.ImportOptions) ([]storage.ImportResult, error) {
	var identifiers []string
	for _, declaration := range batch {
		identifiers = append(append(identifiers, declaration.Identifier), declaration.references...)
	}
	locked, err := t.lockDeclarations(identifiers...)
	if err != nil {
		return nil, err
	}
	results := make([]storage.ImportResult, len(batch))
	for i, declaration := range batch {
		if results[i], err = t.judge(declaration, locked, options); err != nil {
			return nil, err
		}
	}
	refuseDangling(batch, results, locked, options)
	if options.DryRun {
		return results, nil
	}
	var replaced []string
	var entries []changeEntry
	for i, declaration := range batch {
		if !results[i].Changed {
			continue
		}
		row, exists := locked[declaration.Identifier]
		entries = append(entries, changeEntry{
			action: storage.ActionPutDeclaration, declaration: declaration.Identifier,
			from: row.serverToken, to: declaration.ServerToken,
		})
		if exists {
			replaced = append(replaced, declaration.Identifier)
		}
		if err := t.writeDeclaration(
			declaration.Declaration, row, exists, declaration.ServerToken, declaration.contentHash, row.touches, options.By,
		); err != nil {
			return nil, err
		}
	}
	// References are written when all that they can refer to is there.
	for i, declaration := range batch {
		if results[i].Changed {
			if err := t.replaceReferences(declaration.Identifier, declaration.references); err != nil {
				return nil, err
			}
		}
	}
	sets := map[string]bool{}
	for chunk := range slices.Chunk(replaced, chunkSize) {
		names, err := t.strings(`SELECT DISTINCT set_name FROM set_declarations WHERE identifier IN `+list(len(chunk)),
			args(nil, chunk)...)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			sets[name] = true
		}
	}
	changed := slices.Sorted(maps.Keys(sets))
	if err := t.changeSets(changed, options.ChangeOptions); err != nil {
		return nil, err
	}
	return results, t.recordImport(options.ChangeOptions, entries, changeEntry{amount: len(entries), fanouts: changed})
}

// recordImport writes what an import has changed to the log of changes, if it has: entries for what there are not too many
// of, and one for all, which tells whom they have reached.
func (t *tx) recordImport(options storage.ChangeOptions, entries []changeEntry, all changeEntry) error {
	if all.amount == 0 {
		return nil
	}
	if err := t.recordParts(options, entries); err != nil {
		return err
	}
	all.action = storage.ActionImport
	return t.record(options, all)
}

// asImported tells that a declaration is still what an import made it: every change here gives it the token of its content
// and touches. It does not tell so of one with a token that this server could have made too, which another Decree may give.
func (r declarationRow) asImported() bool {
	return r.serverToken != ddm.ServerToken(r.contentHash, r.touches)
}

// judge says what is to become of a declaration, its references aside.
func (t *tx) judge(
	declaration content, locked map[string]declarationRow, options storage.ImportOptions,
) (result storage.ImportResult, err error) {
	row, exists := locked[declaration.Identifier]
	same := exists && row.contentHash == declaration.contentHash
	replaceable := options.Overwrite || exists && row.asImported()
	switch {
	case same && row.serverToken == declaration.ServerToken:
		return storage.ImportResult{}, nil
	case exists && !same && !replaceable:
		return storage.ImportResult{Err: storage.ErrConflict}, nil
	case same && row.touches > 0 && !replaceable:
		return storage.ImportResult{Err: storage.ErrTouched}, nil
	}
	version, err := readVersion(t.ctx, t, declaration.Identifier, declaration.ServerToken)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return storage.ImportResult{}, err
	case version.ContentHash() != declaration.contentHash:
		return storage.ImportResult{Err: storage.ErrTokenTaken}, nil
	}
	return storage.ImportResult{Changed: true}, nil
}

// refuseDangling refuses what refers to declarations that neither exist nor come along.
func refuseDangling(
	batch []content, results []storage.ImportResult, locked map[string]declarationRow, options storage.ImportOptions,
) {
	coming := map[string]bool{}
	for i, declaration := range batch {
		coming[declaration.Identifier] = results[i].Changed
	}
	there := func(identifier string) bool {
		_, exists := locked[identifier]
		return exists || coming[identifier] || options.DryRun && options.Assume != nil && options.Assume(identifier)
	}
	// What is refused can leave others without what they refer to.
	for again := true; again; {
		again = false
		for i, declaration := range batch {
			if !results[i].Changed {
				continue
			}
			missing := slices.DeleteFunc(slices.Clone(declaration.references), there)
			if len(missing) > 0 {
				again = true
				coming[declaration.Identifier] = false
				results[i] = storage.ImportResult{
					Err: &storage.MissingReferencesError{Identifier: declaration.Identifier, Missing: missing},
				}
			}
		}
	}
}

// ImportSetDeclarations implements storage.Importer.
func (s *Store) ImportSetDeclarations(
	ctx context.Context, rows []storage.SetDeclaration, options storage.ImportOptions,
) (results []storage.ImportResult, err error) {
	err = s.inImport(ctx, "importing sets", func(t *tx) error {
		results, err = t.importSetDeclarations(rows, options)
		return err
	})
	return results, err
}

func (t *tx) importSetDeclarations(
	rows []storage.SetDeclaration, options storage.ImportOptions,
) ([]storage.ImportResult, error) {
	var identifiers []string
	for _, row := range rows {
		identifiers = append(identifiers, row.Identifier)
	}
	locked, err := t.lockDeclarations(identifiers...)
	if err != nil {
		return nil, err
	}
	results := make([]storage.ImportResult, len(rows))
	wanted := map[string][]string{} // the declarations by their sets
	for i, row := range rows {
		_, exists := locked[row.Identifier]
		if !exists && !(options.DryRun && options.Assume != nil && options.Assume(row.Identifier)) {
			results[i].Err = storage.ErrNotFound
			continue
		}
		wanted[row.Set] = append(wanted[row.Set], row.Identifier)
	}
	held := map[storage.SetDeclaration]bool{}
	for set, identifiers := range wanted {
		for chunk := range slices.Chunk(identifiers, chunkSize) {
			found, err := t.strings(`SELECT identifier FROM set_declarations WHERE set_name = ? AND identifier IN `+
				list(len(chunk)), args([]any{set}, chunk)...)
			if err != nil {
				return nil, err
			}
			for _, identifier := range found {
				held[storage.SetDeclaration{Set: set, Identifier: identifier}] = true
			}
		}
	}
	changed := map[string]bool{}
	var added [][2]string
	var entries []changeEntry
	for i, row := range rows {
		if results[i].Err != nil || held[row] {
			continue
		}
		held[row] = true // a row that comes twice changes once
		results[i].Changed = true
		changed[row.Set] = true
		added = append(added, [2]string{row.Set, row.Identifier})
		entries = append(entries, changeEntry{
			action: storage.ActionPutSetDeclaration, set: row.Set, declaration: row.Identifier,
		})
		t.touchedDeclarations = append(t.touchedDeclarations, row.Identifier)
	}
	if options.DryRun {
		return results, nil
	}
	sets := slices.Sorted(maps.Keys(changed))
	if err := t.ensureSets(sets); err != nil {
		return nil, err
	}
	if err := t.changeSets(sets, options.ChangeOptions); err != nil {
		return nil, err
	}
	if err := t.insertPairs(`INSERT INTO set_declarations (set_name, identifier)`, added); err != nil {
		return nil, err
	}
	return results, t.recordImport(options.ChangeOptions, entries, changeEntry{amount: len(entries), fanouts: sets})
}

// ImportEnrollmentSets implements storage.Importer.
func (s *Store) ImportEnrollmentSets(
	ctx context.Context, rows []storage.EnrollmentSet, options storage.ImportOptions,
) (results []storage.ImportResult, err error) {
	err = s.inImport(ctx, "importing the sets of enrollments", func(t *tx) error {
		results, err = t.importEnrollmentSets(rows, options)
		return err
	})
	return results, err
}

func (t *tx) importEnrollmentSets(
	rows []storage.EnrollmentSet, options storage.ImportOptions,
) ([]storage.ImportResult, error) {
	ids, sets := map[string]bool{}, map[string]bool{}
	for _, row := range rows {
		ids[row.EnrollmentID], sets[row.Set] = true, true
	}
	enrollments := slices.Sorted(maps.Keys(ids))
	if !options.DryRun {
		if err := t.ensureSets(slices.Sorted(maps.Keys(sets))); err != nil {
			return nil, err
		}
		if err := t.lockEnrollments(enrollments); err != nil {
			return nil, err
		}
	}
	assigned := map[storage.EnrollmentSet]bool{}
	for chunk := range slices.Chunk(enrollments, chunkSize) {
		err := queryRows(t.ctx, t.raw, func(found *sql.Rows) error {
			var row storage.EnrollmentSet
			if err := found.Scan(&row.EnrollmentID, &row.Set); err != nil {
				return err
			}
			assigned[row] = true
			return nil
		}, `SELECT enrollment_id, set_name FROM enrollment_sets WHERE enrollment_id IN `+list(len(chunk)), args(nil, chunk)...)
		if err != nil {
			return nil, err
		}
	}
	results := make([]storage.ImportResult, len(rows))
	changed := map[string]bool{}
	var added [][2]string
	for i, row := range rows {
		if assigned[row] {
			continue
		}
		assigned[row] = true // a row that comes twice changes once
		results[i].Changed = true
		changed[row.EnrollmentID] = true
		added = append(added, [2]string{row.EnrollmentID, row.Set})
		t.touchedSets = append(t.touchedSets, row.Set)
	}
	if options.DryRun {
		return results, nil
	}
	if err := t.insertPairs(`INSERT INTO enrollment_sets (enrollment_id, set_name)`, added); err != nil {
		return nil, err
	}
	// They are many, and must not overtake whoever an admin has changed by name.
	m := t.urgentMark(options.ChangeOptions)
	m.urgent = false
	if err := t.mark(slices.Sorted(maps.Keys(changed)), m); err != nil {
		return nil, err
	}
	return results, t.recordImport(options.ChangeOptions, nil, changeEntry{amount: len(added), reached: len(changed)})
}

// ensureSets is ensureSet for several sets, given in sorted order.
func (t *tx) ensureSets(sets []string) error {
	for chunk := range slices.Chunk(sets, chunkSize) {
		there, err := t.strings(`SELECT name FROM sets WHERE name IN `+list(len(chunk)), args(nil, chunk)...)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(slices.Clone(chunk), func(set string) bool { return slices.Contains(there, set) })
		if len(missing) == 0 {
			continue
		}
		values := make([]byte, 0, 64*len(missing))
		var arguments []any
		for i, set := range missing {
			if i > 0 {
				values = append(values, ',')
			}
			values = append(values, "(?, ?, "+t.now+")"...)
			arguments = append(arguments, set, rand.Int64()) // #nosec G404 -- it has to differ, not to be secret
		}
		if _, err := t.exec(`INSERT INTO sets (name, version, changed_at) VALUES `+string(values)+` `+
			t.dialect.KeepExisting("name"), arguments...); err != nil {
			return err
		}
	}
	return nil
}

// lockEnrollments is lockEnrollment for several enrollments, given in sorted order.
func (t *tx) lockEnrollments(ids []string) error {
	for chunk := range slices.Chunk(ids, chunkSize) {
		known, err := t.strings(`SELECT id FROM enrollments WHERE id IN `+list(len(chunk))+` ORDER BY id`+t.dialect.Lock,
			args(nil, chunk)...)
		if err != nil {
			return err
		}
		// Both are in the order of bytes.
		missing := slices.DeleteFunc(slices.Clone(chunk), func(id string) bool {
			_, found := slices.BinarySearch(known, id)
			return found
		})
		if err := t.createEnrollments(missing); err != nil {
			return err
		}
	}
	return nil
}

// insertPairs inserts rows of two columns.
func (t *tx) insertPairs(insert string, pairs [][2]string) error {
	for chunk := range slices.Chunk(pairs, chunkSize) {
		var values []any
		for _, pair := range chunk {
			values = append(values, pair[0], pair[1])
		}
		if _, err := t.exec(insert+` VALUES `+rowsOf(len(chunk), 2), values...); err != nil {
			return err
		}
	}
	return nil
}
