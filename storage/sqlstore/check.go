package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

var _ storage.Checks = (*Store)(nil)

// ReadSchemaVersion returns the version of the schema that a database has.
func ReadSchemaVersion(ctx context.Context, db *sql.DB) (int64, error) {
	var version sql.NullInt64
	if err := db.QueryRowContext(ctx, `SELECT MAX(version_id) FROM goose_db_version`).Scan(&version); err != nil {
		return 0, fmt.Errorf("it is no database of Decree's, or cannot be read: %w", err)
	}
	return version.Int64, nil
}

// RequireSchema returns an error unless the database has exactly the schema that this program works with.
func RequireSchema(ctx context.Context, db *sql.DB, dialect *Dialect) error {
	version, err := ReadSchemaVersion(ctx, db)
	if err == nil && version != dialect.SchemaVersion {
		advice := "a server migrates it when it starts"
		if version > dialect.SchemaVersion {
			advice = "it is of a newer Decree, use that one"
		}
		err = fmt.Errorf("its schema has version %d, and this program works with %d: %s", version, dialect.SchemaVersion, advice)
	}
	return err
}

// inSnapshot runs fn in a transaction that reads, all of it from one state of the database. Fn must use the context that it
// gets, which bounds how long it takes.
func (s *Store) inSnapshot(
	ctx context.Context, operation string, fn func(ctx context.Context, raw *sql.Tx) error,
) error {
	v, err := s.guard.enter(ctx, foreground)
	if err == nil {
		err = v.leave(s.snapshot(v.ctx, fn))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// snapshot is inSnapshot for those who have entered.
func (s *Store) snapshot(ctx context.Context, fn func(ctx context.Context, raw *sql.Tx) error) error {
	// SQLite has no other kind, and a plain one on MySQL would have a snapshot for each statement.
	raw, err := s.read.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return err
	}
	err = fn(ctx, raw)
	if endErr := raw.Rollback(); endErr != nil && !errors.Is(endErr, sql.ErrTxDone) {
		err = errors.Join(err, endErr)
	}
	return err
}

// DatabaseErrors implements storage.Checks.
func (s *Store) DatabaseErrors(ctx context.Context) ([]string, error) {
	if s.dialect.SelfCheck == "" {
		return nil, nil
	}
	found, err := queryStrings(ctx, s.read, s.dialect.SelfCheck)
	if err != nil && s.dialect.Damaged(err) {
		return append(found, err.Error()), nil // too much to say where
	}
	if err != nil {
		return nil, fmt.Errorf("having the database check itself: %w", err)
	}
	return slices.DeleteFunc(found, func(text string) bool { return text == "ok" }), nil
}

// reference is a column whose values name rows of another table.
type reference struct {
	table, column, target, key string
	number                     bool // they are numbers above 0, and not texts
}

func (r reference) name() string { return r.table + "." + r.column + " in " + r.target }

// references are all that there are. Fan-outs are left out: one may be asked for a set that nobody ever made, and ends at
// once.
var references = []reference{
	{table: "set_declarations", column: "identifier", target: "declarations", key: "identifier"},
	{table: "set_declarations", column: "set_name", target: "sets", key: "name"},
	{table: "declaration_references", column: "identifier", target: "declarations", key: "identifier"},
	{table: "declaration_references", column: "referred", target: "declarations", key: "identifier"},
	{table: "declaration_summaries", column: "identifier", target: "declarations", key: "identifier"},
	{table: "enrollment_sets", column: "set_name", target: "sets", key: "name"},
	{table: "enrollment_sets", column: "enrollment_id", target: "enrollments", key: "id"},
	{table: "early_results", column: "enrollment_id", target: "enrollments", key: "id"},
	{table: "status_reports", column: "enrollment_id", target: "enrollments", key: "id"},
	{table: "status_values", column: "enrollment_id", target: "enrollments", key: "id"},
	{table: "status_declarations", column: "enrollment_id", target: "enrollments", key: "id"},
	{table: "status_errors", column: "enrollment_id", target: "enrollments", key: "id"},
	{table: "problems", column: "enrollment_id", target: "enrollments", key: "id"},
	{table: "facts", column: "enrollment_id", target: "enrollments", key: "id"},
	{table: "facts", column: "capabilities", target: "capabilities", key: "id"},
	{table: "capabilities", column: "id", target: "facts", key: "capabilities"},
	{table: "change_fanouts", column: "set_name", target: "fanouts", key: "set_name"},
	{table: "change_fanouts", column: "change_row", target: "changes", key: "id", number: true},
}

// References implements storage.Checks.
func (s *Store) References() []string {
	names := make([]string, 0, len(references))
	for _, r := range references {
		names = append(names, r.name())
	}
	return names
}

// DanglingReferences implements storage.Checks.
func (s *Store) DanglingReferences(
	ctx context.Context, name string, page storage.Page,
) (dangling []string, last string, err error) {
	i := slices.IndexFunc(references, func(r reference) bool { return r.name() == name })
	if i < 0 {
		return nil, "", fmt.Errorf("there is no kind of reference %q", name)
	}
	r := references[i]
	var after any = page.After
	if r.number {
		number, err := strconv.ParseInt(cmp.Or(page.After, "0"), 10, 64)
		if err != nil {
			return nil, "", fmt.Errorf("checking references: %w", err)
		}
		after = number
	}
	read := 0
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var there bool
		if err := rows.Scan(&last, &there); err != nil {
			return err
		}
		if read++; !there {
			dangling = append(dangling, last)
		}
		return nil
	}, `SELECT named.name, EXISTS (SELECT 1 FROM `+r.target+` t WHERE t.`+r.key+` = named.name)
		FROM (SELECT DISTINCT `+r.column+` AS name FROM `+r.table+` WHERE `+r.column+` > ? ORDER BY `+r.column+` LIMIT ?) named
		ORDER BY named.name`, after, page.Limit)
	if err != nil {
		return nil, "", fmt.Errorf("checking references: %w", err)
	}
	if read < page.Limit {
		last = ""
	}
	return dangling, last, nil
}

// CheckedDeclarations implements storage.Checks.
func (s *Store) CheckedDeclarations(ctx context.Context, page storage.Page) (list []storage.CheckedDeclaration, err error) {
	err = s.inSnapshot(ctx, "reading declarations", func(ctx context.Context, raw *sql.Tx) error {
		places := map[string]int{}
		err := queryRows(ctx, raw, func(rows *sql.Rows) error {
			var d storage.CheckedDeclaration
			var class, versionType, versionClass string
			var payload []byte
			if err := rows.Scan(&d.Identifier, &d.Type, &class, &d.ServerToken, &d.ContentHash,
				text{&versionType}, text{&versionClass}, &payload); err != nil {
				return err
			}
			d.Class = ddm.Class(class)
			if payload != nil {
				d.Version = &ddm.Declaration{Identifier: d.Identifier, Type: versionType, Class: ddm.Class(versionClass),
					Payload: payload, ServerToken: d.ServerToken}
			}
			places[d.Identifier] = len(list)
			list = append(list, d)
			return nil
		}, `SELECT d.identifier, d.type, d.class, d.server_token, d.content_hash, v.type, v.class, v.payload
			FROM declarations d
			LEFT JOIN declaration_versions v ON v.identifier = d.identifier AND v.server_token = d.server_token
			WHERE d.identifier > ? ORDER BY d.identifier LIMIT ?`, page.After, page.Limit)
		if err != nil || len(list) == 0 {
			return err
		}
		last := list[len(list)-1].Identifier
		err = queryRows(ctx, raw, func(rows *sql.Rows) error {
			var identifier, referred string
			if err := rows.Scan(&identifier, &referred); err != nil {
				return err
			}
			if place, there := places[identifier]; there {
				list[place].References = append(list[place].References, referred)
			}
			return nil
		}, `SELECT identifier, referred FROM declaration_references WHERE identifier > ? AND identifier <= ?
			ORDER BY identifier, referred`, page.After, last)
		if err != nil {
			return err
		}
		// The row with the highest id of a declaration is the last of those that change its content.
		return queryRows(ctx, raw, func(rows *sql.Rows) error {
			var identifier, token string
			if err := rows.Scan(&identifier, text{&token}); err != nil {
				return err
			}
			if place, there := places[identifier]; there {
				list[place].Logged, list[place].LoggedToken = true, token
			}
			return nil
		}, `SELECT c.declaration, c.to_token FROM (
				SELECT MAX(id) AS id FROM changes`+s.dialect.ReadBy("changes_declaration")+`
				WHERE declaration > ? AND declaration <= ? AND (to_token IS NOT NULL OR action = ?)
				GROUP BY declaration) newest
			JOIN changes c ON c.id = newest.id`, page.After, last, string(storage.ActionDeleteDeclaration))
	})
	return list, err
}

// CheckedVersions implements storage.Checks.
func (s *Store) CheckedVersions(ctx context.Context, page storage.Page) (list []storage.CheckedVersions, err error) {
	err = s.inSnapshot(ctx, "reading versions of declarations", func(ctx context.Context, raw *sql.Tx) error {
		identifiers, err := queryStrings(ctx, raw, `SELECT DISTINCT identifier FROM declaration_versions
			WHERE identifier > ? ORDER BY identifier LIMIT ?`, page.After, page.Limit)
		if err != nil || len(identifiers) == 0 {
			return err
		}
		return queryRows(ctx, raw, func(rows *sql.Rows) error {
			var identifier, serverToken, current string
			var replaced, collected bool
			if err := rows.Scan(&identifier, &serverToken, &replaced, &collected, text{&current}); err != nil {
				return err
			}
			if len(list) == 0 || list[len(list)-1].Identifier != identifier {
				list = append(list, storage.CheckedVersions{Identifier: identifier, Current: current})
			}
			versions := &list[len(list)-1]
			versions.Collected = versions.Collected || collected
			if replaced {
				versions.Replaced = append(versions.Replaced, serverToken)
			} else {
				versions.Unreplaced = append(versions.Unreplaced, serverToken)
			}
			return nil
		}, `SELECT v.identifier, v.server_token, v.replaced_at IS NOT NULL, v.collect_from IS NOT NULL, d.server_token
			FROM declaration_versions v LEFT JOIN declarations d ON d.identifier = v.identifier
			WHERE v.identifier > ? AND v.identifier <= ? ORDER BY v.identifier, v.server_token`,
			page.After, identifiers[len(identifiers)-1])
	})
	return list, err
}

// CheckedManifests implements storage.Checks.
func (s *Store) CheckedManifests(ctx context.Context, page storage.Page) (list []storage.CheckedManifest, err error) {
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var m storage.CheckedManifest
		err := rows.Scan(&m.Token, &m.Items)
		list = append(list, m)
		return err
	}, `SELECT token, items FROM manifests WHERE token > ? ORDER BY token LIMIT ?`, page.After, page.Limit)
	if err != nil {
		return nil, fmt.Errorf("reading manifests: %w", err)
	}
	return list, nil
}

// CheckedLog implements storage.Checks.
func (s *Store) CheckedLog(ctx context.Context) (log storage.CheckedLog, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT l.last_id, COALESCE(l.delivered_id, 0),
			COALESCE(MIN(e.id), 0), COALESCE(MAX(e.id), 0), COUNT(e.id)
		FROM event_log l LEFT JOIN events e ON e.id > 0 WHERE l.id = 1 GROUP BY l.id, l.last_id, l.delivered_id`).
		Scan(&log.LastID, &log.DeliveredID, &log.Oldest, &log.Newest, &log.Count)
	if errors.Is(err, sql.ErrNoRows) {
		return storage.CheckedLog{Lost: true}, nil
	}
	if err != nil {
		return log, fmt.Errorf("reading the log of happenings: %w", err)
	}
	return log, nil
}

// CheckedChanges implements storage.Checks.
func (s *Store) CheckedChanges(ctx context.Context, after int64, limit int) (list []storage.CheckedChange, err error) {
	err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
		var c storage.CheckedChange
		var action string
		err := rows.Scan(&c.ID, &c.By, &action, &c.HasReach, &c.Waiting, &c.Links, &c.Fanouts)
		c.Action = storage.Action(action)
		list = append(list, c)
		return err
	}, `SELECT c.id, c.key_name, c.action, c.reached IS NOT NULL, c.waiting, COALESCE(l.links, 0), COALESCE(l.fanouts, 0)
		FROM (SELECT id, key_name, action, reached, waiting FROM changes WHERE id > ? ORDER BY id LIMIT ?) c
		LEFT JOIN (SELECT n.change_row, COUNT(*) AS links, COUNT(f.run) AS fanouts
			FROM change_fanouts n LEFT JOIN fanouts f ON f.set_name = n.set_name AND f.run = n.run
			WHERE n.change_row > ? GROUP BY n.change_row) l ON l.change_row = c.id
		ORDER BY c.id`, after, limit, after)
	if err != nil {
		return nil, fmt.Errorf("reading the log of changes: %w", err)
	}
	return list, nil
}

// CheckedEnrollments implements storage.Checks.
func (s *Store) CheckedEnrollments(ctx context.Context, page storage.Page, known func(storage.SetVersion) bool) (
	list []storage.CheckedEnrollment, contents map[string][]ddm.Item, err error,
) {
	contents = map[string][]ddm.Item{}
	err = s.inSnapshot(ctx, "reading enrollments", func(ctx context.Context, raw *sql.Tx) error {
		wanted := map[string]bool{}
		err := queryRows(ctx, raw, func(rows *sql.Rows) error {
			e, set, err := scanChecked(rows)
			if err != nil {
				return err
			}
			if last := len(list) - 1; last < 0 || list[last].ID != e.ID {
				list = append(list, e)
			} else {
				list[last].FanoutPending = list[last].FanoutPending || e.FanoutPending
			}
			if set.Name != "" {
				last := &list[len(list)-1]
				last.Vector = append(last.Vector, set)
				wanted[set.Name] = wanted[set.Name] || !known(set)
			}
			return nil
		}, checkedEnrollmentsQuery, page.After, page.Limit)
		if err != nil {
			return err
		}
		var missing []string
		for name, want := range wanted {
			if want {
				missing = append(missing, name)
			}
		}
		for chunk := range slices.Chunk(missing, chunkSize) {
			if err := readContents(ctx, raw, chunk, contents); err != nil {
				return err
			}
		}
		return nil
	})
	return list, contents, err
}

var checkedEnrollmentsQuery = `SELECT e.id, e.left_at, e.notify_at, e.notify_seq, e.force_seq, e.sent_seq, e.priority, e.held,
		e.lease_id IS NOT NULL, e.lease_seq IS NOT NULL, e.lease_until, e.command_sent_at,
		e.desired_token, e.asked_token, e.fetched_token, e.synced_token, e.out_of_sync,
		` + hasStatus + `, s.name, s.version,
		EXISTS (SELECT 1 FROM fanouts f WHERE f.set_name IN (es.set_name, '')
			AND (f.pending = 1 OR f.done = 0 AND f.position < e.id))
	FROM (SELECT id FROM enrollments WHERE id > ? ORDER BY id LIMIT ?) p
	JOIN enrollments e ON e.id = p.id
	LEFT JOIN enrollment_sets es ON es.enrollment_id = e.id
	LEFT JOIN sets s ON s.name = es.set_name
	ORDER BY e.id, es.set_name`

var hasStatus = func() string {
	var parts []string
	for _, table := range []string{"status_reports", "status_values", "status_declarations", "problems", "facts"} {
		parts = append(parts, `EXISTS (SELECT 1 FROM `+table+` WHERE enrollment_id = e.id)`)
	}
	return "(" + strings.Join(parts, " OR ") + ")"
}()

// scanChecked reads one of an enrollment's rows, one for each of its sets.
func scanChecked(rows *sql.Rows) (e storage.CheckedEnrollment, set storage.SetVersion, err error) {
	var version sql.NullInt64
	err = rows.Scan(&e.ID, instant{&e.LeftAt}, instant{&e.NotifyAt}, &e.NotifySeq, &e.ForceSeq, &e.SentSeq, &e.Priority, &e.Held,
		&e.LeaseID, &e.LeaseSeq, instant{&e.LeaseUntil}, instant{&e.CommandSentAt},
		text{&e.DesiredToken}, text{&e.AskedToken}, text{&e.FetchedToken}, text{&e.SyncedToken}, &e.OutOfSync,
		&e.HasStatus, text{&set.Name}, &version, &e.FanoutPending)
	set.Version = version.Int64
	return e, set, err
}

// readContents reads what sets hold; one that holds nothing has an empty list.
func readContents(ctx context.Context, raw *sql.Tx, names []string, contents map[string][]ddm.Item) error {
	for _, name := range names {
		contents[name] = nil
	}
	return queryRows(ctx, raw, func(rows *sql.Rows) error {
		var name, class string
		var item ddm.Item
		if err := rows.Scan(&name, &class, &item.Identifier, &item.ServerToken); err != nil {
			return err
		}
		item.Class = ddm.Class(class)
		contents[name] = append(contents[name], item)
		return nil
	}, `SELECT sd.set_name, d.class, d.identifier, d.server_token
		FROM set_declarations sd JOIN declarations d ON d.identifier = sd.identifier
		WHERE sd.set_name IN `+list(len(names)), args(nil, names)...)
}
