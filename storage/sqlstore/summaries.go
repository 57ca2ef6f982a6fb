package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// createSummary makes the row of a declaration that is new: one that was never counted.
func (t *tx) createSummary(identifier, serverToken string) error {
	_, err := t.exec(`INSERT INTO declaration_summaries
			(identifier, server_token, assigned, current, active, valid, invalid, counted_at)
		VALUES (?, ?, 0, 0, 0, 0, 0, 0) `+t.dialect.KeepExisting("identifier"), identifier, serverToken)
	return err
}

const summaryColumns = `d.identifier, d.type, CASE WHEN c.counted_at > 0 THEN c.server_token ELSE d.server_token END,
	c.assigned, c.current, c.active, c.valid, c.invalid, c.counted_at
	FROM declarations d LEFT JOIN declaration_summaries c ON c.identifier = d.identifier`

func scanSummary(row scanner) (storage.DeclarationSummary, error) {
	var summary storage.DeclarationSummary
	var assigned, current, active, valid, invalid, countedAt sql.NullInt64
	err := row.Scan(&summary.Identifier, &summary.Type, text{&summary.ServerToken},
		&assigned, &current, &active, &valid, &invalid, &countedAt)
	if err == nil && countedAt.Int64 > 0 {
		summary.Assigned, summary.Current, summary.Active = assigned.Int64, current.Int64, active.Int64
		summary.Valid, summary.Invalid = valid.Int64, invalid.Int64
		summary.CountedAt = time.UnixMicro(countedAt.Int64).UTC()
	}
	return summary, err
}

// DeclarationSummaries implements storage.Fleet.
func (s *Store) DeclarationSummaries(ctx context.Context, page storage.Page) ([]storage.DeclarationSummary, error) {
	var list []storage.DeclarationSummary
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		summary, err := scanSummary(rows)
		list = append(list, summary)
		return err
	}, `SELECT `+summaryColumns+` WHERE d.identifier > ? ORDER BY d.identifier LIMIT ?`, page.After, page.Limit)
	if err != nil {
		return nil, fmt.Errorf("reading summaries: %w", err)
	}
	return list, nil
}

// DeclarationSummary implements storage.Fleet.
func (s *Store) DeclarationSummary(ctx context.Context, identifier string) (*storage.DeclarationSummary, error) {
	summary, err := scanSummary(s.read.QueryRowContext(ctx, `SELECT `+summaryColumns+` WHERE d.identifier = ?`, identifier))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, storage.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading a summary: %w", err)
	}
	return &summary, nil
}

// TouchedDeclarations implements storage.Summaries.
func (s *Store) TouchedDeclarations(ctx context.Context) (identifiers []string, all bool, err error) {
	declarations, sets, all := s.touched.take()
	if all {
		return nil, true, nil
	}
	found := map[string]bool{}
	add := func(query string, names []string) {
		for chunk := range slices.Chunk(names, chunkSize) {
			if err != nil || all {
				return
			}
			var some []string
			if some, err = queryStrings(ctx, s.read, query+list(len(chunk))+` LIMIT ?`,
				append(args(nil, chunk), maxTouched)...); err != nil {
				return
			}
			for _, identifier := range some {
				found[identifier] = true
			}
			all = len(found) >= maxTouched
		}
	}
	// Devices also speak of declarations that do not exist.
	add(`SELECT identifier FROM declaration_summaries WHERE identifier IN `, slices.Sorted(maps.Keys(declarations)))
	add(`SELECT DISTINCT identifier FROM set_declarations WHERE set_name IN `, slices.Sorted(maps.Keys(sets)))
	if err != nil {
		s.touched.everything()
		return nil, false, fmt.Errorf("reading what was touched: %w", err)
	}
	if all {
		return nil, true, nil
	}
	return slices.Sorted(maps.Keys(found)), false, nil
}

// StaleSummaries implements storage.Summaries.
func (s *Store) StaleSummaries(ctx context.Context, age time.Duration, limit int) ([]string, error) {
	list, err := queryStrings(ctx, s.read, `SELECT identifier FROM declaration_summaries WHERE counted_at < `+s.now()+` - ?
		ORDER BY counted_at LIMIT ?`, age.Microseconds(), limit)
	if err != nil {
		return nil, fmt.Errorf("looking for old summaries: %w", err)
	}
	return list, nil
}
