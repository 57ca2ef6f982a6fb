package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// declarationRow is what a change needs to know of a declaration that it has locked.
type declarationRow struct {
	serverToken string
	contentHash string
	touches     int64
}

// lockDeclarations locks declarations in the order of their identifiers, the first kind in the lock order of every
// change, and returns those that exist.
func (t *tx) lockDeclarations(identifiers ...string) (map[string]declarationRow, error) {
	slices.Sort(identifiers)
	locked := make(map[string]declarationRow, len(identifiers))
	for chunk := range slices.Chunk(slices.Compact(identifiers), chunkSize) {
		err := queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
			var identifier string
			var row declarationRow
			if err := rows.Scan(&identifier, &row.serverToken, &row.contentHash, &row.touches); err != nil {
				return err
			}
			locked[identifier] = row
			return nil
		}, `SELECT identifier, server_token, content_hash, touches FROM declarations
			WHERE identifier IN `+list(len(chunk))+` ORDER BY identifier`+t.dialect.Lock, args(nil, chunk)...)
		if err != nil {
			return nil, err
		}
	}
	return locked, nil
}

// PutDeclaration implements storage.Declarations.
func (s *Store) PutDeclaration(
	ctx context.Context, declaration *ddm.Declaration, options storage.ChangeOptions,
) (changed bool, err error) {
	content := contentOf(declaration)
	err = s.inTxAt(ctx, []string{ofDeclaration(declaration.Identifier)}, "putting a declaration", func(t *tx) error {
		changed, err = t.putContent(content, storage.ActionPutDeclaration, options)
		return err
	})
	return changed, err
}

// RollbackDeclaration implements storage.Declarations.
func (s *Store) RollbackDeclaration(
	ctx context.Context, identifier, serverToken string, options storage.ChangeOptions,
) (changed bool, err error) {
	err = s.inTxAt(ctx, []string{ofDeclaration(identifier)}, "rolling a declaration back", func(t *tx) error {
		version, err := readVersion(t.ctx, t, identifier, serverToken)
		if err != nil {
			return err
		}
		changed, err = t.putContent(contentOf(version), storage.ActionRollbackDeclaration, options)
		return err
	})
	return changed, err
}

// content is what is to become of a declaration, and what follows from it.
type content struct {
	*ddm.Declaration
	contentHash string
	references  []string
}

func contentOf(declaration *ddm.Declaration) content {
	return content{declaration, declaration.ContentHash(), declaration.References()}
}

// putContent creates or replaces a declaration, and reports whether anything changed.
func (t *tx) putContent(c content, action storage.Action, options storage.ChangeOptions) (changed bool, err error) {
	locked, err := t.lockDeclarations(append(slices.Clone(c.references), c.Identifier)...)
	if err != nil {
		return false, err
	}
	missing := slices.DeleteFunc(slices.Clone(c.references), func(identifier string) bool {
		_, exists := locked[identifier]
		return exists
	})
	if len(missing) > 0 {
		return false, &storage.MissingReferencesError{Identifier: c.Identifier, Missing: missing}
	}
	row, exists := locked[c.Identifier]
	if exists && row.contentHash == c.contentHash {
		return false, nil
	}
	serverToken, touches, err := t.nextToken(c.Identifier, c.contentHash, row.touches, row.serverToken)
	if err != nil {
		return false, err
	}
	if err := t.writeDeclaration(c.Declaration, row, exists, serverToken, c.contentHash, touches, options.By); err != nil {
		return false, err
	}
	if err := t.replaceReferences(c.Identifier, c.references); err != nil {
		return false, err
	}
	return true, t.recordContent(options, changeEntry{
		action: action, declaration: c.Identifier, from: row.serverToken, to: serverToken,
	})
}

// nextToken returns the ServerToken of a content that was touched so often, and how often it was. A token that was imported
// can be any: it must not be taken for a new one, nor for that of another content.
func (t *tx) nextToken(
	identifier, contentHash string, touches int64, current string,
) (serverToken string, touched int64, err error) {
	for ; ; touches++ {
		serverToken = ddm.ServerToken(contentHash, touches)
		if serverToken == current {
			continue
		}
		version, err := readVersion(t.ctx, t, identifier, serverToken)
		if errors.Is(err, storage.ErrNotFound) {
			return serverToken, touches, nil
		}
		if err != nil || version.ContentHash() == contentHash {
			return serverToken, touches, err
		}
	}
}

// writeDeclaration makes a declaration what it is to be now, its references aside. The row is what it was until now, if it
// existed.
func (t *tx) writeDeclaration(
	declaration *ddm.Declaration, row declarationRow, exists bool, serverToken, contentHash string, touches int64, by string,
) error {
	t.touchedDeclarations = append(t.touchedDeclarations, declaration.Identifier)
	if exists {
		if _, err := t.exec(`UPDATE declarations SET type = ?, class = ?, server_token = ?, content_hash = ?, touches = ?,
				changed_at = `+t.now+` WHERE identifier = ?`, declaration.Type, string(declaration.Class), serverToken,
			contentHash, touches, declaration.Identifier); err != nil {
			return err
		}
		if err := t.retireVersion(declaration.Identifier, row.serverToken); err != nil {
			return err
		}
	} else if _, err := t.exec(`INSERT INTO declarations
			(identifier, type, class, server_token, content_hash, touches, created_at, changed_at)
			VALUES (?, ?, ?, ?, ?, ?, `+t.now+`, `+t.now+`)`, declaration.Identifier, declaration.Type,
		string(declaration.Class), serverToken, contentHash, touches); err != nil {
		return err
	} else if err := t.createSummary(declaration.Identifier, serverToken); err != nil {
		return err
	}
	return t.insertVersion(declaration, serverToken, by)
}

func (t *tx) replaceReferences(identifier string, references []string) error {
	if _, err := t.exec(`DELETE FROM declaration_references WHERE identifier = ?`, identifier); err != nil {
		return err
	}
	for chunk := range slices.Chunk(references, chunkSize) {
		var values []any
		for _, referred := range chunk {
			values = append(values, identifier, referred)
		}
		if _, err := t.exec(`INSERT INTO declaration_references (identifier, referred)
			VALUES `+rowsOf(len(chunk), 2), values...); err != nil {
			return err
		}
	}
	return nil
}

// recordContent follows a change of a declaration's content to the sets that hold it, and records it. The caller holds the
// declaration's lock: only then do the sets stay what they are.
func (t *tx) recordContent(options storage.ChangeOptions, e changeEntry) (err error) {
	e.fanouts, err = t.strings(`SELECT set_name FROM set_declarations WHERE identifier = ? ORDER BY set_name`, e.declaration)
	if err != nil {
		return err
	}
	if err := t.changeSets(e.fanouts, options); err != nil {
		return err
	}
	return t.record(options, e)
}

// TouchDeclaration implements storage.Declarations.
func (s *Store) TouchDeclaration(ctx context.Context, identifier string, options storage.ChangeOptions) error {
	return s.inTxAt(ctx, []string{ofDeclaration(identifier)}, "touching a declaration", func(t *tx) error {
		locked, err := t.lockDeclarations(identifier)
		if err != nil {
			return err
		}
		row, exists := locked[identifier]
		if !exists {
			return storage.ErrNotFound
		}
		declaration, err := readVersion(t.ctx, t, identifier, row.serverToken)
		if err != nil {
			return err
		}
		serverToken, touches, err := t.nextToken(identifier, row.contentHash, row.touches+1, row.serverToken)
		if err != nil {
			return err
		}
		if err := t.writeDeclaration(
			declaration, row, true, serverToken, row.contentHash, touches, options.By,
		); err != nil {
			return err
		}
		return t.recordContent(options, changeEntry{
			action: storage.ActionTouchDeclaration, declaration: identifier, from: row.serverToken, to: serverToken,
		})
	})
}

// maxUses is how many sets and declarations an InUseError names.
const maxUses = 100

// DeleteDeclaration implements storage.Declarations.
func (s *Store) DeleteDeclaration(
	ctx context.Context, identifier string, options storage.ChangeOptions,
) (changed bool, err error) {
	options.Held = false // there is nobody to be told
	err = s.inTxAt(ctx, []string{ofDeclaration(identifier)}, "deleting a declaration", func(t *tx) error {
		changed = false
		locked, err := t.lockDeclarations(identifier)
		if err != nil {
			return err
		}
		row, exists := locked[identifier]
		if !exists {
			return nil
		}
		inUse := &storage.InUseError{Identifier: identifier}
		if inUse.Sets, err = t.strings(`SELECT set_name FROM set_declarations WHERE identifier = ?
			ORDER BY set_name LIMIT ?`, identifier, maxUses); err != nil {
			return err
		}
		if inUse.Declarations, err = t.strings(`SELECT identifier FROM declaration_references WHERE referred = ?
			AND identifier <> ? ORDER BY identifier LIMIT ?`, identifier, identifier, maxUses); err != nil {
			return err
		}
		if len(inUse.Sets) > 0 || len(inUse.Declarations) > 0 {
			return inUse
		}
		changed = true
		if err := t.replaceReferences(identifier, nil); err != nil {
			return err
		}
		if err := t.retireVersion(identifier, row.serverToken); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM declaration_summaries WHERE identifier = ?`, identifier); err != nil {
			return err
		}
		if _, err = t.exec(`DELETE FROM declarations WHERE identifier = ?`, identifier); err != nil {
			return err
		}
		return t.record(options, changeEntry{
			action: storage.ActionDeleteDeclaration, declaration: identifier, from: row.serverToken,
		})
	})
	return changed, err
}

// Declaration implements storage.Declarations.
func (s *Store) Declaration(ctx context.Context, identifier string) (*ddm.Declaration, error) {
	return scanDeclaration(s.read.QueryRowContext(ctx, `SELECT v.identifier, v.type, v.class, v.payload, v.server_token
		FROM declarations d
		JOIN declaration_versions v ON v.identifier = d.identifier AND v.server_token = d.server_token
		WHERE d.identifier = ?`, identifier))
}

// DeclarationIdentifiers implements storage.Declarations.
func (s *Store) DeclarationIdentifiers(ctx context.Context, page storage.Page) ([]string, error) {
	return queryStrings(ctx, s.read, `SELECT identifier FROM declarations WHERE identifier > ?
		ORDER BY identifier LIMIT ?`, page.After, page.Limit)
}

// DeclarationSets implements storage.Declarations.
func (s *Store) DeclarationSets(ctx context.Context, identifier string, page storage.Page) ([]string, error) {
	return queryStrings(ctx, s.read, `SELECT set_name FROM set_declarations WHERE identifier = ? AND set_name > ?
		ORDER BY set_name LIMIT ?`, identifier, page.After, page.Limit)
}
