package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// keepDeleted is how long the versions of a declaration are kept after its deletion: there can be any number of identifiers.
const keepDeleted = 90 * 24 * time.Hour

// retireVersion notes that a version is no longer the current one; it can still be fetched for a while.
func (t *tx) retireVersion(identifier, serverToken string) error {
	_, err := t.exec(`UPDATE declaration_versions SET replaced_at = `+t.now+`, collect_from = `+t.now+`
		WHERE identifier = ? AND server_token = ?`, identifier, serverToken)
	return err
}

// insertVersion stores the content of the current version. One that was current before may be there still, and then stays
// that of who made it.
func (t *tx) insertVersion(declaration *ddm.Declaration, serverToken, by string) error {
	_, err := t.exec(`INSERT INTO declaration_versions
		(identifier, server_token, type, class, key_name, created_at, replaced_at, payload)
		VALUES (?, ?, ?, ?, ?, `+t.now+`, NULL, ?) `+t.dialect.Upsert("identifier, server_token")+`
			replaced_at = NULL, collect_from = NULL`,
		declaration.Identifier, serverToken, declaration.Type, string(declaration.Class), by, string(declaration.Payload))
	return err
}

// DeclarationVersion implements storage.Compositions.
func (s *Store) DeclarationVersion(ctx context.Context, identifier, serverToken string) (*ddm.Declaration, error) {
	return readVersion(ctx, s.read, identifier, serverToken)
}

type rowQueryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) scanner
}

func readVersion(ctx context.Context, q rowQueryer, identifier, serverToken string) (*ddm.Declaration, error) {
	return scanDeclaration(q.QueryRowContext(ctx, `SELECT identifier, type, class, payload, server_token
		FROM declaration_versions WHERE identifier = ? AND server_token = ?`, identifier, serverToken))
}

func scanDeclaration(row scanner) (*ddm.Declaration, error) {
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

// DeclarationVersions implements storage.Declarations.
func (s *Store) DeclarationVersions(
	ctx context.Context, identifier string, after storage.VersionPlace, limit int,
) (list []storage.Version, next *storage.VersionPlace, err error) {
	// One state of the database: a version that is replaced meanwhile would be there twice.
	err = s.inSnapshot(ctx, "listing versions of a declaration", func(ctx context.Context, raw *sql.Tx) error {
		const columns = `SELECT server_token, type, created_at, replaced_at, key_name FROM declaration_versions`
		index := s.dialect.ReadBy("declaration_versions_history")
		scan := func(rows *sql.Rows) error {
			var v storage.Version
			err := rows.Scan(&v.ServerToken, &v.Type, instant{&v.CreatedAt}, instant{&v.ReplacedAt}, &v.By)
			list = append(list, v)
			return err
		}
		before := int64(math.MaxInt64)
		if after == (storage.VersionPlace{}) {
			if err := queryRows(ctx, raw, scan, columns+index+` WHERE identifier = ? AND replaced_at IS NULL
				ORDER BY server_token`, identifier); err != nil {
				return err
			}
		} else if !after.ReplacedAt.IsZero() {
			before = after.ReplacedAt.UnixMicro()
		}
		// One more tells whether there is a next page.
		if err := queryRows(ctx, raw, scan, columns+index+` WHERE identifier = ?
				AND replaced_at <= ? AND (replaced_at < ? OR server_token < ?)
			ORDER BY replaced_at DESC, server_token DESC LIMIT ?`,
			identifier, before, before, after.ServerToken, limit+1); err != nil || len(list) > 0 {
			return err
		}
		known, err := queryStrings(ctx, raw, `SELECT identifier FROM declaration_versions WHERE identifier = ? LIMIT 1`, identifier)
		if err == nil && len(known) == 0 {
			err = storage.ErrNotFound
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if len(list) > limit {
		list = list[:limit]
		next = &storage.VersionPlace{ReplacedAt: list[limit-1].ReplacedAt, ServerToken: list[limit-1].ServerToken}
	}
	return list, next, nil
}

// collectVersions deletes versions that were replaced longer ago than age and are not among the newest of their
// declaration. Each is looked at when it has come of age (collect_from), together with the others of its declaration, and then
// not again before another one comes of age, or before its declaration has been deleted for long.
func (s *Store) collectVersions(ctx context.Context, age time.Duration, limit int) (more bool, err error) {
	old := s.now() + fmt.Sprintf(" - %d", age.Microseconds())
	due, err := queryStrings(ctx, s.read, `SELECT identifier FROM declaration_versions WHERE collect_from < `+old+`
		ORDER BY collect_from LIMIT ?`, limit)
	if err != nil {
		return false, fmt.Errorf("looking for old versions: %w", err)
	}
	if len(due) == 0 {
		return false, nil
	}
	identifiers := slices.Compact(slices.Sorted(slices.Values(due)))
	err = s.inTx(ctx, background, "deleting old versions", func(t *tx) error {
		more = len(due) == limit
		left := limit
		for _, identifier := range identifiers {
			deleted, err := t.collectVersionsOf(identifier, age, left)
			if err != nil {
				return err
			}
			if left -= deleted; left <= 0 {
				more = true
				break
			}
		}
		return nil
	})
	return more && err == nil, err
}

// collectVersionsOf deletes at most limit versions of a declaration. When there are fewer, it notes when to look at the others
// again. A version that becomes current meanwhile is not replaced any more, and stays.
func (t *tx) collectVersionsOf(identifier string, age time.Duration, limit int) (deleted int, err error) {
	var now int64
	var exists bool
	var last sql.NullInt64
	if err := t.raw.QueryRowContext(t.ctx, `SELECT `+t.now+`, EXISTS (SELECT 1 FROM declarations WHERE identifier = ?),
			(SELECT MAX(replaced_at) FROM declaration_versions WHERE identifier = ?)`, identifier, identifier).
		Scan(&now, &exists, &last); err != nil {
		return 0, err
	}
	keep, old := t.store.options.KeepVersions, now-age.Microseconds()
	var again any // when to look at those that are kept, by the clock of collect_from
	if !exists {
		// The last one was replaced by the deletion.
		gone := last.Int64 + keepDeleted.Microseconds()
		if again = gone - age.Microseconds(); gone < now {
			keep = 0
		}
	}
	var newest int64
	var newestToken string
	err = t.raw.QueryRowContext(t.ctx, `SELECT replaced_at, server_token
		FROM declaration_versions`+t.dialect.ReadBy("declaration_versions_history")+`
		WHERE identifier = ? AND replaced_at IS NOT NULL
		ORDER BY replaced_at DESC, server_token DESC LIMIT 1 OFFSET ?`, identifier, keep).Scan(&newest, &newestToken)
	var surplus []string
	if err == nil {
		surplus, err = t.strings(`SELECT server_token
			FROM declaration_versions`+t.dialect.ReadBy("declaration_versions_history")+`
			WHERE identifier = ? AND replaced_at < ? AND replaced_at <= ? AND (replaced_at < ? OR server_token <= ?)
			ORDER BY replaced_at, server_token LIMIT ?`, identifier, old, newest, newest, newestToken, limit)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	for chunk := range slices.Chunk(surplus, chunkSize) {
		if _, err := t.exec(`DELETE FROM declaration_versions WHERE identifier = ? AND replaced_at < ?
			AND server_token IN `+list(len(chunk)), args([]any{identifier, old}, chunk)...); err != nil {
			return 0, err
		}
	}
	if len(surplus) == limit {
		return limit, nil
	}
	_, err = t.exec(`UPDATE declaration_versions SET collect_from = ? WHERE identifier = ? AND replaced_at < ?`,
		again, identifier, old)
	return len(surplus), err
}
