package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// VectorContents implements storage.Compositions: one statement, so that versions and contents are of one snapshot.
func (s *Store) VectorContents(
	ctx context.Context, enrollmentID string, known storage.Vector,
) (storage.Vector, map[string][]ddm.Item, error) {
	var values []any
	wanted := ""
	for i, set := range known {
		if i == chunkSize {
			break // the rest is read again, which is only slower
		}
		wanted += ` AND NOT (s.name = ? AND s.version = ?)`
		values = append(values, set.Name, set.Version)
	}
	var vector storage.Vector
	contents := map[string][]ddm.Item{}
	err := queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var set storage.SetVersion
		var identifier, class, serverToken string
		if err := rows.Scan(&set.Name, &set.Version, instant{&set.ChangedAt},
			text{&identifier}, text{&class}, text{&serverToken}); err != nil {
			return err
		}
		if len(vector) == 0 || vector[len(vector)-1].Name != set.Name {
			vector = append(vector, set)
		}
		if identifier != "" {
			contents[set.Name] = append(contents[set.Name],
				ddm.Item{Class: ddm.Class(class), Identifier: identifier, ServerToken: serverToken})
		}
		return nil
	}, `SELECT s.name, s.version, s.changed_at, d.identifier, d.class, d.server_token
		FROM enrollment_sets es
		JOIN sets s ON s.name = es.set_name
		LEFT JOIN set_declarations sd ON sd.set_name = s.name`+wanted+`
		LEFT JOIN declarations d ON d.identifier = sd.identifier
		WHERE es.enrollment_id = ?
		ORDER BY s.name, sd.identifier`, append(values, enrollmentID)...)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the contents of sets: %w", err)
	}
	return vector, contents, nil
}

// SaveManifest implements storage.Compositions.
func (s *Store) SaveManifest(ctx context.Context, token string, declarationItems []byte) error {
	return s.inTx(ctx, foreground, "keeping a manifest", func(t *tx) error {
		touched, err := t.exec(`UPDATE manifests SET served_at = `+t.now+` WHERE token = ?`, token)
		if err != nil || touched > 0 {
			return err
		}
		_, err = t.exec(`INSERT INTO manifests (token, items, served_at) VALUES (?, ?, `+t.now+`) `+
			t.dialect.Upsert("token")+` served_at = `+t.dialect.Inserted("served_at"), token, string(declarationItems))
		return err
	})
}

// Manifest implements storage.Compositions.
func (s *Store) Manifest(ctx context.Context, token string) ([]byte, error) {
	var items []byte
	err := s.read.QueryRowContext(ctx, `SELECT items FROM manifests WHERE token = ?`, token).Scan(&items)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, storage.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading a manifest: %w", err)
	}
	return items, nil
}

// Collect implements storage.Notifications. The log of changes comes last, and once: to know what is too many its rows are
// counted, which must neither be done at every step nor keep the rest from being collected.
func (s *Store) Collect(ctx context.Context, age time.Duration, limit int) (more bool, err error) {
	versions, err := s.collectVersions(ctx, age, limit)
	if err != nil {
		return false, err
	}
	others, err := s.collectOthers(ctx, age, limit)
	if err != nil || versions || others {
		return err == nil, err
	}
	return false, s.trimChanges(ctx, limit)
}

// collectOthers deletes manifests and results of commands.
func (s *Store) collectOthers(ctx context.Context, age time.Duration, limit int) (more bool, err error) {
	old := s.now() + fmt.Sprintf(" - %d", age.Microseconds())
	manifests, err := queryStrings(ctx, s.read, `SELECT token FROM manifests WHERE served_at < `+old+`
		ORDER BY served_at LIMIT ?`, limit)
	if err != nil {
		return false, fmt.Errorf("looking for old manifests: %w", err)
	}
	type early struct{ commandUUID, enrollmentID string }
	var results []early
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var r early
		if err := rows.Scan(&r.commandUUID, &r.enrollmentID); err != nil {
			return err
		}
		results = append(results, r)
		return nil
	}, `SELECT command_uuid, enrollment_id FROM early_results WHERE received_at < `+old+`
		ORDER BY received_at LIMIT ?`, limit)
	if err != nil {
		return false, fmt.Errorf("looking for old results of commands: %w", err)
	}
	if len(manifests) == 0 && len(results) == 0 {
		return false, nil
	}
	err = s.inTx(ctx, background, "collecting", func(t *tx) error {
		// The age is compared again: a manifest may have been served.
		for _, token := range manifests {
			if _, err := t.exec(`DELETE FROM manifests WHERE token = ? AND served_at < `+old, token); err != nil {
				return err
			}
		}
		for _, r := range results {
			if _, err := t.exec(`DELETE FROM early_results WHERE enrollment_id = ? AND command_uuid = ?`,
				r.enrollmentID, r.commandUUID); err != nil {
				return err
			}
		}
		return nil
	})
	return err == nil && max(len(manifests), len(results)) == limit, err
}
