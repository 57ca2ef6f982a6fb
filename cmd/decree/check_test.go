package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The enrollments of checkedStory.
const (
	checkedDevice = "CHECKED-DEVICE"
	checkedOther  = "CHECKED-OTHER"
)

// checkedStory leaves something of all that a check looks at.
func checkedStory(s *server) {
	s.t.Helper()
	s.putTest("conf.one", "1")
	s.putTest("conf.two", "2")
	s.putDeclaration("act.one", "com.apple.activation.simple", `{"StandardConfigurations":["conf.one","conf.two"]}`)
	for _, identifier := range []string{"act.one", "conf.one", "conf.two"} {
		s.addToSet("all", identifier)
	}
	s.putTest("conf.two", "2, changed")
	s.change(http.MethodPost, "/v1/declarations/conf.one/touch", "")
	s.assign(checkedDevice, "all")
	s.assign(checkedOther, "all")
	s.waitFanouts()
	for _, path := range []string{"/tokens", "/declaration-items", "/tokens"} {
		code, text := s.device(checkedDevice, http.MethodGet, path, "")
		require.Equal(s.t, http.StatusOK, code, "%s", text)
	}
	for _, report := range []string{
		`{"StatusItems":{"device":{"model":{"identifier":"Mac1,1"},"operating-system":{"version":"26.1","family":"macOS"}},
			"mdm":{"app":[{"identifier":"a","state":1},{"identifier":"b","state":1}]},"test":{"x":{"y":1},"list":[1,2]},
			"management":{"client-capabilities":{"supported-versions":["1.0.0"],
				"supported-payloads":{"status-items":["test.x"],"declarations":{"configurations":["c"]}}},
				"declarations":{"configurations":[{"identifier":"conf.one","server-token":"t","active":true,"valid":"invalid",
					"reasons":[{"code":"Error.Bad"}]}]}}},
		  "Errors":[{"StatusItem":"test.z","Reasons":[{"Code":"Error.Unknown"}]}],"FullReport":true}`,
		`{"StatusItems":{"mdm":{"app":[{"identifier":"b","_removed":true},{"identifier":"c","state":2}]},
			"test":{"x":2,"list":[3],"z.z":1,"z":{"w":[]}}}}`,
		`{"StatusItems":{"mdm":{"app":[]},"device":{"operating-system":{"version":"26.2"}},
			"management":{"declarations":{"configurations":[{"identifier":"conf.one","server-token":"t","active":false,
				"valid":"invalid","reasons":[{"code":"Error.Bad"}]},
				{"identifier":"conf.two","server-token":"t","active":true,"valid":"valid"}]}}},
		  "Errors":[{"StatusItem":"test.v","Reasons":[{"Code":"Error.Other"}]}]}`,
	} {
		code, text := s.device(checkedDevice, http.MethodPut, "/status", report)
		require.Equal(s.t, http.StatusOK, code, "%s", text)
	}
	s.waitInSync(checkedDevice)
	s.eventually(func() bool {
		return s.count(`SELECT COUNT(*) FROM event_outbox`) == 0 && s.count(`SELECT COUNT(*) FROM events`) >= 3
	}, "the log")
}

// TestCheck corrupts one thing after the other, and has each found, and nothing else.
func TestCheck(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, flags...)
		checkedStory(s)
		s.check()
		s.stop()
		s.check()
		const device = `'` + checkedDevice + `'`
		only := func(kind, subject, problem string) []string { return []string{kind, subject, problem} }
		for _, story := range []struct {
			damage, repair string
			found          []string
		}{
			{`INSERT INTO set_declarations (set_name, identifier) VALUES ('empty', 'conf.one')`,
				`DELETE FROM set_declarations WHERE set_name = 'empty'`, only("reference", "empty", "set_declarations.set_name")},
			{`INSERT INTO declaration_references (identifier, referred) VALUES ('gone', 'conf.one')`,
				`DELETE FROM declaration_references WHERE identifier = 'gone'`, only("reference", "gone", "declaration_references.identifier")},
			{`INSERT INTO enrollment_sets (enrollment_id, set_name) VALUES ('nobody', 'all')`,
				`DELETE FROM enrollment_sets WHERE enrollment_id = 'nobody'`, only("reference", "nobody", "enrollment_sets.enrollment_id")},
			{`INSERT INTO enrollment_sets (enrollment_id, set_name) VALUES (` + device + `, 'none')`,
				`DELETE FROM enrollment_sets WHERE set_name = 'none'`, only("reference", "none", "enrollment_sets.set_name")},
			{`INSERT INTO early_results (enrollment_id, command_uuid, outcome, received_at) VALUES ('nobody', 'u', 'Error', 1)`,
				`DELETE FROM early_results`, only("reference", "nobody", "early_results.enrollment_id")},
			{`INSERT INTO status_errors (enrollment_id, path, error, report_id, received_at) VALUES ('nobody', 'p', '{}', 1, 1)`,
				`DELETE FROM status_errors WHERE enrollment_id = 'nobody'`, only("reference", "nobody", "status_errors.enrollment_id")},
			{`UPDATE declarations SET content_hash = 'x' || content_hash WHERE identifier = 'conf.one'`,
				`UPDATE declarations SET content_hash = SUBSTR(content_hash, 2) WHERE identifier = 'conf.one'`,
				only("declaration", "conf.one", "hash")},
			{`UPDATE declarations SET class = 'asset' WHERE identifier = 'act.one'`,
				`UPDATE declarations SET class = 'activation' WHERE identifier = 'act.one'`, nil},
			{`DELETE FROM declaration_references WHERE identifier = 'act.one' AND referred = 'conf.two'`,
				`INSERT INTO declaration_references (identifier, referred) VALUES ('act.one', 'conf.two')`,
				only("declaration", "act.one", "refers to")},
			{`UPDATE declaration_versions SET replaced_at = 1 WHERE identifier = 'act.one'`,
				`UPDATE declaration_versions SET replaced_at = NULL WHERE identifier = 'act.one'`,
				only("declaration", "act.one", "said to be replaced")},
			{`INSERT INTO declaration_versions (identifier, server_token, type, class, payload, created_at)
				VALUES ('conf.one', 'other', 'com.apple.configuration.management.test', 'configuration', '{}', 1)`,
				`DELETE FROM declaration_versions WHERE server_token = 'other'`, only("declaration", "conf.one", "not current")},
			{`INSERT INTO declaration_versions (identifier, server_token, type, class, payload, created_at, replaced_at)
				VALUES ('conf.gone', 'x', 'com.apple.configuration.management.test', 'configuration', '{}', 1, 2)`,
				`DELETE FROM declaration_versions WHERE identifier = 'conf.gone'`, only("declaration", "conf.gone", "deleted")},
			{`UPDATE changes SET to_token = 'x' WHERE action = 'declaration.touch'`,
				`UPDATE changes SET to_token = (SELECT server_token FROM declarations WHERE identifier = 'conf.one')
				WHERE to_token = 'x'`, only("declaration", "conf.one", "the log of changes says x")},
			{`UPDATE changes SET key_name = '' WHERE action = 'declaration.touch'`,
				`UPDATE changes SET key_name = 'api' WHERE key_name = ''`, only("change", "", "nobody")},
			{`UPDATE changes SET action = 'odd' WHERE action = 'declaration.touch'`,
				`UPDATE changes SET action = 'declaration.touch' WHERE action = 'odd'`, only("change", "", "odd")},
			{`UPDATE changes SET waiting = 2 WHERE action = 'declaration.touch'`,
				`UPDATE changes SET waiting = 0`, only("change", "", "is said to wait for 2 fan-outs, and 0 are noted")},
			{`UPDATE changes SET reached = NULL, waiting = 1 WHERE action = 'declaration.touch'`,
				`UPDATE changes SET reached = 2, waiting = 0 WHERE action = 'declaration.touch'`, nil},
			{`INSERT INTO change_fanouts (set_name, run, change_row) VALUES ('nowhere', 1, 1)`,
				`DELETE FROM change_fanouts`, nil},
			{`INSERT INTO change_fanouts (set_name, run, change_row)
				SELECT 'nowhere', 1, id FROM changes WHERE action = 'declaration.touch'`,
				`DELETE FROM change_fanouts`, nil},
			{`INSERT INTO manifests (token, items, served_at)
				SELECT 'token', items, served_at FROM manifests WHERE token <> 'token' LIMIT 1`,
				`DELETE FROM manifests WHERE token = 'token'`, only("manifest", "token", "items")},
			{`UPDATE enrollments SET priority = 2 WHERE id = ` + device,
				`UPDATE enrollments SET priority = 0 WHERE id = ` + device, only("enrollment", checkedDevice, "priority")},
			{`UPDATE enrollments SET lease_id = 1 WHERE id = ` + device,
				`UPDATE enrollments SET lease_id = NULL WHERE id = ` + device, only("enrollment", checkedDevice, "half a lease")},
			{`UPDATE enrollments SET lease_id = 1, lease_seq = 1, lease_until = 9000000000000000 WHERE id = ` + device,
				`UPDATE enrollments SET lease_id = NULL, lease_seq = NULL, lease_until = NULL WHERE id = ` + device,
				only("enrollment", checkedDevice, "leased until March 2255")},
			{`UPDATE enrollments SET sent_seq = notify_seq + 1 WHERE id = ` + device,
				`UPDATE enrollments SET sent_seq = 0 WHERE id = ` + device, only("enrollment", checkedDevice, "told of a mark")},
			{`UPDATE enrollments SET force_seq = notify_seq + 1 WHERE id = ` + device,
				`UPDATE enrollments SET force_seq = 0 WHERE id = ` + device, only("enrollment", checkedDevice, "forced")},
			{`UPDATE enrollments SET out_of_sync = 1 WHERE id = ` + device,
				`UPDATE enrollments SET out_of_sync = 0 WHERE id = ` + device, only("enrollment", checkedDevice, "nothing is due")},
			{`UPDATE enrollments SET out_of_sync = 1, notify_at = 9000000000000000 WHERE id = ` + device,
				`UPDATE enrollments SET out_of_sync = 0, notify_at = NULL WHERE id = ` + device, only("enrollment", checkedDevice, "March 2255")},
			{`UPDATE enrollments SET synced_token = 'x' WHERE id = ` + device,
				`UPDATE enrollments SET synced_token = desired_token WHERE id = ` + device, only("enrollment", checkedDevice, "said to be in sync")},
			{`UPDATE enrollments SET desired_token = 'x', synced_token = 'x' WHERE id = ` + device,
				`UPDATE enrollments SET desired_token = fetched_token, synced_token = fetched_token WHERE id = ` + device,
				only("enrollment", checkedDevice, "compose to")},
			{`UPDATE status_values SET element = 'q' WHERE enrollment_id = ` + device + ` AND path = '.StatusItems.test.x'`,
				`UPDATE status_values SET element = '' WHERE element = 'q'`, nil},
			{`DELETE FROM problems WHERE kind = 'declaration'`,
				`INSERT INTO problems (kind, subject, enrollment_id, server_token, code, received_at)
				VALUES ('declaration', 'conf.one', ` + device + `, 't', 'Error.Bad', 1)`, only("status", checkedDevice, "lacks the problem")},
			{`UPDATE problems SET code = 'Error.Else' WHERE subject = 'test.v'`,
				`UPDATE problems SET code = 'Error.Other' WHERE subject = 'test.v'`, only("status", checkedDevice, "test.v")},
			{`UPDATE facts SET model = 'Mac2,2'`, `UPDATE facts SET model = 'Mac1,1'`, only("status", checkedDevice, "facts")},
			{`UPDATE status_declarations SET active = 1 WHERE identifier = 'conf.one'`,
				`UPDATE status_declarations SET active = 0 WHERE identifier = 'conf.one'`, only("status", checkedDevice, "conf.one")},
			{`UPDATE event_log SET last_id = last_id + 1`, `UPDATE event_log SET last_id = last_id - 1`, only("log", "", "last id")},
			{`UPDATE event_log SET delivered_id = last_id + 1`, `UPDATE event_log SET delivered_id = NULL`, only("log", "", "posted")},
			{`UPDATE event_log SET id = 2`, `UPDATE event_log SET id = 1`, only("log", "", "where it ends")},
			{`DELETE FROM events WHERE id = 2`, ``, only("log", "", "1 events are missing")},
		} {
			damage := story.damage
			if onMySQL(flags) {
				damage = strings.ReplaceAll(damage, `'x' || content_hash`, `CONCAT('x', content_hash)`)
			}
			_, err := s.database.Exec(damage)
			require.NoError(t, err, damage)
			output, _, err := runCommand(t, nil, append([]string{"check"}, storageArguments(flags)...)...)
			require.Equal(t, exitFindings, exitCode(err), "%s: %v", damage, err)
			lines := strings.Split(strings.TrimSpace(output), "\n")
			if story.found != nil {
				require.Len(t, lines, 1, "%s: %s", damage, output)
				for _, text := range story.found {
					require.Contains(t, lines[0], text, damage)
				}
			}
			if story.repair != "" {
				_, err = s.database.Exec(story.repair)
				require.NoError(t, err, story.repair)
				s.check()
			}
		}
	})
}

// TestCheckBesideServers: while all kinds of work are under way, a check finds nothing, for there is nothing to find.
func TestCheckBesideServers(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		s := startDecree(t, append(flags, "-notify-delay", "1ms")...)
		s.putTest("shared", "0")
		s.addToSet("shared", "shared")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var group sync.WaitGroup
		for worker := range 4 {
			group.Go(func() {
				id := fmt.Sprint("device-", worker)
				for n := 0; ctx.Err() == nil; n++ {
					own := fmt.Sprintf("own.%d", worker)
					put := func(identifier, echo string) {
						s.do(http.MethodPut, "/v1/declarations", declarationJSON(identifier,
							"com.apple.configuration.management.test", fmt.Sprintf(`{"Echo":%q}`, echo)))
					}
					put(own, fmt.Sprint(n))
					put("shared", fmt.Sprint(worker, n))
					s.do(http.MethodPut, "/v1/set-declarations/"+own+"?declaration="+own, "")
					s.do(http.MethodPut, "/v1/enrollment-sets/"+id+"?set="+own, "")
					s.do(http.MethodPut, "/v1/enrollment-sets/"+id+"?set=shared", "")
					for _, path := range []string{"/tokens", "/declaration-items", "/tokens"} {
						s.device(id, http.MethodGet, path, "")
					}
					s.device(id, http.MethodPut, "/status", fmt.Sprintf(`{"StatusItems":{"test":{"a":%d,"b":{"c":[%d]}},
						"mdm":{"app":[{"identifier":"%d"}]}},"FullReport":%v}`, n, n, n%3, n%5 == 0))
					if n%3 == 2 {
						s.do(http.MethodDelete, "/v1/enrollment-sets/"+id+"?set="+own, "")
						s.do(http.MethodDelete, "/v1/set-declarations/"+own+"?declaration="+own, "")
						s.do(http.MethodDelete, "/v1/declarations/"+own, "")
					}
				}
			})
		}
		checks := 0
		for until := time.Now().Add(2 * time.Second); time.Now().Before(until); checks++ {
			s.check()
		}
		cancel()
		group.Wait()
		s.check()
		require.Positive(t, checks)
	})
}

// TestCheckCannot: what cannot be checked is not taken for sound, and not made either.
func TestCheckCannot(t *testing.T) {
	t.Parallel()
	missing := t.TempDir() + "/decree.db"
	_, _, err := runCommand(t, nil, "check", "-storage-dsn", missing)
	require.Error(t, err)
	require.Equal(t, 1, exitCode(err))
	require.NoFileExists(t, missing)
	_, _, err = runCommand(t, nil, "check", "surplus")
	require.ErrorContains(t, err, "surplus")
}

// TestCheckOfDamagedFiles: what a disk has done to a database is a finding, also where nothing behind it can be read.
func TestCheckOfDamagedFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "decree.db")
	s := startDecree(t, "-storage-dsn", file)
	checkedStory(s)
	s.stop()
	size := s.count(`PRAGMA page_size`)
	pages := map[string]int{}
	for _, table := range []string{"declarations", "enrollments", "events"} {
		pages[table] = s.count(`SELECT rootpage FROM sqlite_master WHERE name = '` + table + `'`)
	}
	require.NoError(t, s.database.Close())
	for table, page := range pages {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		copy(content[(page-1)*size:page*size], bytes.Repeat([]byte{0xaa}, size))
		damaged := filepath.Join(t.TempDir(), "damaged.db")
		require.NoError(t, os.WriteFile(damaged, content, 0o600))
		output, _, err := runCommand(t, nil, "check", "-storage-dsn", damaged)
		require.Equal(t, exitFindings, exitCode(err), "%s: %v", table, err)
		require.Contains(t, output, "database: ", table)
	}
}

// TestCheckOfAnotherSchema: it says whose database it is, and does not judge by rules that are not those of it.
func TestCheckOfAnotherSchema(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "decree.db")
	s := startDecree(t, "-storage-dsn", file)
	s.stop()
	_, err := s.database.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`)
	require.NoError(t, err)
	_, _, err = runCommand(t, nil, "check", "-storage-dsn", file)
	require.ErrorContains(t, err, "version 99")
	require.ErrorContains(t, err, "of a newer Decree")
	require.Equal(t, 1, exitCode(err))
}

// TestCheckShard: what the servers' -shard adds is known to a check that has it, and one that has not says what it lacks.
func TestCheckShard(t *testing.T) {
	t.Parallel()
	s := startDecree(t, append(databases()[0].flags(t), "-shard")...)
	checkedStory(s)
	s.check()
	output, _, err := runCommand(t, nil, append([]string{"check"}, storageArguments(s.args)[:4]...)...)
	require.Equal(t, exitFindings, exitCode(err), output)
	require.Contains(t, output, "needs the servers' -shard")
}
