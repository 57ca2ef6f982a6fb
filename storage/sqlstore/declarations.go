package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
	contentHash := declaration.ContentHash()
	references := declaration.References()
	err = s.inTx(ctx, foreground, "putting a declaration", func(t *tx) error {
		changed = false
		locked, err := t.lockDeclarations(append(slices.Clone(references), declaration.Identifier)...)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(slices.Clone(references), func(identifier string) bool {
			_, exists := locked[identifier]
			return exists
		})
		if len(missing) > 0 {
			return &storage.MissingReferencesError{Identifier: declaration.Identifier, Missing: missing}
		}
		row, exists := locked[declaration.Identifier]
		if exists && row.contentHash == contentHash {
			return nil
		}
		changed = true
		serverToken, touches := nextToken(contentHash, row.touches, row.serverToken)
		if err := t.writeDeclaration(declaration, row, exists, serverToken, contentHash, touches); err != nil {
			return err
		}
		if err := t.replaceReferences(declaration.Identifier, references); err != nil {
			return err
		}
		return t.recordContent(options, changeEntry{
			action: storage.ActionPutDeclaration, declaration: declaration.Identifier, from: row.serverToken, to: serverToken,
		})
	})
	return changed, err
}

// nextToken returns the ServerToken of a content that was touched so often, and how often it was. A token that was imported
// can be one that another Decree has made, and must not be taken for a new one.
func nextToken(contentHash string, touches int64, current string) (serverToken string, touched int64) {
	serverToken = ddm.ServerToken(contentHash, touches)
	if serverToken == current {
		touches++
		serverToken = ddm.ServerToken(contentHash, touches)
	}
	return serverToken, touches
}

// writeDeclaration makes a declaration what it is to be now, its references aside. The row is what it was until now, if it
// existed.
func (t *tx) writeDeclaration(
	declaration *ddm.Declaration, row declarationRow, exists bool, serverToken, contentHash string, touches int64,
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
	return t.insertVersion(declaration, serverToken)
}

// retireVersion notes that a version is no longer the current one; it can still be fetched for a while.
func (t *tx) retireVersion(identifier, serverToken string) error {
	_, err := t.exec(`UPDATE declaration_versions SET replaced_at = `+t.now+`
		WHERE identifier = ? AND server_token = ?`, identifier, serverToken)
	return err
}

// insertVersion stores the content of the current version. One that was current before may be there still.
func (t *tx) insertVersion(declaration *ddm.Declaration, serverToken string) error {
	_, err := t.exec(`INSERT INTO declaration_versions
		(identifier, server_token, type, class, payload, created_at, replaced_at)
		VALUES (?, ?, ?, ?, ?, `+t.now+`, NULL) `+t.dialect.Upsert("identifier, server_token")+` replaced_at = NULL`,
		declaration.Identifier, serverToken, declaration.Type, string(declaration.Class), string(declaration.Payload))
	return err
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
	return s.inTx(ctx, foreground, "touching a declaration", func(t *tx) error {
		locked, err := t.lockDeclarations(identifier)
		if err != nil {
			return err
		}
		row, exists := locked[identifier]
		if !exists {
			return storage.ErrNotFound
		}
		declaration, err := readVersion(t.ctx, t.raw, identifier, row.serverToken)
		if err != nil {
			return err
		}
		serverToken, touches := nextToken(row.contentHash, row.touches+1, row.serverToken)
		if err := t.writeDeclaration(declaration, row, true, serverToken, row.contentHash, touches); err != nil {
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
	err = s.inTx(ctx, foreground, "deleting a declaration", func(t *tx) error {
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

// DeclarationVersion implements storage.Compositions.
func (s *Store) DeclarationVersion(ctx context.Context, identifier, serverToken string) (*ddm.Declaration, error) {
	return readVersion(ctx, s.read, identifier, serverToken)
}

type rowQueryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func readVersion(ctx context.Context, q rowQueryer, identifier, serverToken string) (*ddm.Declaration, error) {
	return scanDeclaration(q.QueryRowContext(ctx, `SELECT identifier, type, class, payload, server_token
		FROM declaration_versions WHERE identifier = ? AND server_token = ?`, identifier, serverToken))
}

func scanDeclaration(row *sql.Row) (*ddm.Declaration, error) {
	var declaration ddm.Declaration
	var class string
	err := row.Scan(&declaration.Identifier, &declaration.Type, &class, &declaration.Payload, &declaration.ServerToken)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, storage.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading a declaration: %w", err)
	}
	declaration.Class = ddm.Class(class)
	return &declaration, nil
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
