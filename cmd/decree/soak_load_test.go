package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// What admins work with: so many sets, and declarations.
const (
	soakSets         = 20
	soakDeclarations = 60
)

func soakSet(n int) string { return fmt.Sprintf("set-%d", n) }

func soakDeclaration(n int) string { return fmt.Sprintf("test.%d", n) }

// soakAssets are the first declarations, which others refer to.
const soakAssets = 10

// declarationBody is some content of a declaration.
func (k *soak) declarationBody(n, revision int) string {
	switch {
	case n < soakAssets:
		return declarationJSON(soakDeclaration(n), "com.apple.asset.data",
			fmt.Sprintf(`{"Reference":{"DataURL":"https://example.com/%d","ContentType":"text/plain"}}`, revision))
	case n%10 == 0:
		return declarationJSON(soakDeclaration(n), "com.apple.activation.simple",
			fmt.Sprintf(`{"StandardConfigurations":[%q],"Predicate":"@status(device.model.identifier) != 'x%d'"}`,
				soakDeclaration(n+1), revision))
	}
	return declarationJSON(soakDeclaration(n), "com.apple.configuration.management.test",
		fmt.Sprintf(`{"Echo":"revision %d"}`, revision))
}

// prepare makes the declarations and sets, before anybody is at work.
func (k *soak) prepare() {
	for n := soakDeclarations - 1; n >= 0; n-- { // what is referred to comes first
		k.server.change(http.MethodPut, "/v1/declarations", k.declarationBody(n, 0))
		k.server.addToSet(soakSet(n%soakSets), soakDeclaration(n))
	}
}

// adminStep has an admin change something.
func (k *soak) adminStep(ctx context.Context, random *rand.Rand) {
	// An admin does less than a thousand devices do, and what he does reaches many.
	if pause(ctx, time.Duration(random.IntN(1000))*time.Millisecond) != nil {
		return
	}
	n := random.IntN(soakDeclarations)
	declaration, set := soakDeclaration(n), soakSet(random.IntN(soakSets))
	member := "/v1/set-declarations/" + set + "?declaration=" + declaration
	d := k.devices[random.IntN(len(k.devices))]
	if !d.busy.TryLock() { // it may be about to go for good
		return
	}
	defer d.busy.Unlock()
	assigned := "/v1/enrollment-sets/" + d.name() + "?set=" + set
	suffix := ""
	if random.IntN(10) == 0 {
		suffix = "&nonotify=1"
	}
	switch random.IntN(13) {
	case 0, 1, 2:
		k.send(ctx, http.MethodPut, "/v1/declarations?x=1"+suffix, k.declarationBody(n, random.IntN(1_000_000)), nil)
		k.wrote()
	case 3:
		k.send(ctx, http.MethodPost, "/v1/declarations/"+declaration+"/touch", "", nil)
		k.wrote()
	case 4:
		// One that others refer to, or that is in other sets, is refused.
		k.send(ctx, http.MethodDelete, "/v1/set-declarations/"+soakSet(n%soakSets)+"?declaration="+declaration, "", nil)
		k.send(ctx, http.MethodDelete, "/v1/declarations/"+declaration, "", nil)
		k.send(ctx, http.MethodPut, "/v1/declarations", k.declarationBody(n, random.IntN(1_000_000)), nil)
		k.send(ctx, http.MethodPut, "/v1/set-declarations/"+soakSet(n%soakSets)+"?declaration="+declaration, "", nil)
		k.wrote()
	case 5:
		k.send(ctx, http.MethodPut, member+suffix, "", nil)
	case 6:
		k.send(ctx, http.MethodDelete, member+suffix, "", nil)
	case 7, 8:
		k.send(ctx, http.MethodPut, assigned+suffix, "", nil)
	case 9:
		k.send(ctx, http.MethodDelete, assigned+suffix, "", nil)
	case 10:
		k.send(ctx, http.MethodPost, "/v1/enrollments/"+d.name()+"/sync", "", nil)
	case 11:
		k.send(ctx, http.MethodPost, "/v1/notify?set="+set, "", nil)
	case 12:
		k.rollBack(ctx, declaration, suffix)
	}
}

// rollBack goes back to the version of a declaration that was current last.
func (k *soak) rollBack(ctx context.Context, declaration, suffix string) {
	code, text := k.send(ctx, http.MethodGet, "/v1/declaration-versions/"+declaration, "", nil)
	var versions []struct {
		ServerToken string `json:"server_token"`
		Current     bool
	}
	if code == http.StatusNotFound {
		return
	}
	if err := json.Unmarshal(text, &versions); code != http.StatusOK || err != nil {
		k.fail("the versions of %s: %d %s", declaration, code, text)
	}
	for _, version := range versions {
		if !version.Current {
			k.send(ctx, http.MethodPost, "/v1/declarations/"+declaration+"/rollback?to="+version.ServerToken+suffix, "", nil)
			k.wrote()
			return
		}
	}
}

// pause waits, or returns the error of a context that ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// wrote notes that a version of a declaration may have been made.
func (k *soak) wrote() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes = append(k.writes, k.clock.now())
}

// soakQuestions are those that readers ask: of the fleet, of a device (%d) and of a declaration (%s).
var soakQuestions = []string{
	"/v1/declarations", "/v1/sets", "/v1/declaration-summary", "/v1/problems", "/v1/notifications", "/metrics", "/version",
	"/readyz", "/livez", "/v1/enrollments", "/v1/enrollments?in_sync=0", "/v1/enrollments?failing=1", "/v1/enrollments?state=left",
	"/v1/enrollments?os_family=macOS&os_version_lt=15.7", "/v1/enrollments?model=Mac3,1&limit=20",
	"/v1/enrollments?supports=com.apple.configuration.soak1",
	"/v1/status-summary?path=.StatusItems.device.operating-system.version", "/v1/status-summary?path=.StatusItems.mdm.app",
	"/v1/declarations/%s", "/v1/declaration-sets/%s", "/v1/declaration-summary/%s", "/v1/declaration-enrollments/%s?state=invalid",
	"/v1/declaration-enrollments/%s?state=pending", "/v1/set-declarations/set-1",
	"/v1/enrollments/%d", "/v1/enrollment-sets/%d", "/v1/enrollment-declarations/%d", "/v1/declaration-status/%d",
	"/v1/changes", "/v1/changes?declaration=%s", "/v1/changes?enrollment_id=%d&key=api", "/v1/declaration-versions/%s",
	"/v1/status-errors/%d", "/v1/status-values/%d?prefix=.StatusItems.%%25", "/v1/status-report/%d",
}

// readerStep asks a question.
func (k *soak) readerStep(ctx context.Context, random *rand.Rand) {
	if pause(ctx, 300*time.Millisecond) != nil {
		return
	}
	path := strings.NewReplacer(
		"%%", "%", "%d", k.devices[random.IntN(len(k.devices))].name(), "%s", soakDeclaration(random.IntN(soakDeclarations)),
	).Replace(soakQuestions[random.IntN(len(soakQuestions))])
	if code, text := k.send(ctx, http.MethodGet, path, "", nil); code >= 400 && code != http.StatusNotFound {
		k.fail("GET %s: %d %s", path, code, text)
	}
}

// readEvents reads the log as it grows, and checks that every event is there once and in order.
func (k *soak) readEvents(ctx context.Context) {
	var next int64
	for ctx.Err() == nil && pause(ctx, 200*time.Millisecond) == nil {
		code, text := k.send(ctx, http.MethodGet, fmt.Sprintf("/v1/events?after=%d&limit=500", next), "", nil)
		var page struct {
			Events []happening
			Next   int64
		}
		if err := json.Unmarshal(text, &page); code != http.StatusOK || err != nil {
			k.fail("events after %d: %d %s", next, code, text)
			return
		}
		for i, event := range page.Events {
			if event.ID != next+int64(i)+1 {
				k.fail("event %d where %d should be", event.ID, next+int64(i)+1)
			}
		}
		if page.Next != next+int64(len(page.Events)) {
			k.fail("%d events after %d, and then those after %d", len(page.Events), next, page.Next)
		}
		next = page.Next
	}
	if next == 0 {
		k.fail("no event was read")
	}
}

// requireBounds checks every table against what bounds it, none of which is how much was done. What goes by age is what a
// day and some hours have brought.
func (k *soak) requireBounds() {
	const age = 30 * time.Hour
	recent := 0
	for _, at := range k.writes {
		if k.clock.now().Sub(at) < age {
			recent++
		}
	}
	fleet := len(k.devices)
	bounds := map[string]int{
		"declarations":           soakDeclarations,
		"declaration_versions":   soakDeclarations*(1+soakKeepVersions) + recent,
		"declaration_references": soakDeclarations,
		"declaration_summaries":  soakDeclarations,
		"sets":                   soakSets,
		"set_declarations":       soakSets * soakDeclarations,
		"fanouts":                2 * soakSets,
		"enrollments":            fleet,
		"enrollment_sets":        fleet * soakSets,
		"facts":                  fleet,
		"status_reports":         fleet * (soakKeepReports + 8), // deleted eight at a time
		"status_errors":          fleet * (soakKeepErrors + 8),
		"status_declarations":    fleet * soakDeclarations,
		"status_values":          fleet * 200,
		"problems":               fleet * (soakDeclarations + 6),
		"capabilities":           5 * 4,
		"early_results":          fleet,
		"event_outbox":           fleet,
		"events":                 soakKeepEvents + 400,
		"event_log":              1,
		"serving":                1,
		"clock":                  1,
		"changes":                2*soakKeepChanges + recent, // trimmed once a minute
		"change_fanouts":         0,                          // of fan-outs that are not over
	}
	for _, table := range k.server.tables() {
		bound, known := bounds[table]
		if table == "manifests" {
			continue
		}
		if !known {
			k.t.Errorf("nothing is said about the table %s", table)
		}
		rows := k.server.count(`SELECT COUNT(*) FROM ` + table)
		k.t.Logf("%-22s %8d rows, bound %d", table, rows, bound)
		if rows > bound {
			k.t.Errorf("%s has %d rows, more than %d", table, rows, bound)
		}
	}
	old := k.clock.now().Add(-age).UnixMicro()
	for _, what := range []string{
		`manifests WHERE served_at <`, `early_results WHERE received_at <`,
	} {
		require.Zero(k.t, k.server.count(fmt.Sprintf(`SELECT COUNT(*) FROM %s %d`, what, old)), what)
	}
	k.t.Logf("%d manifests, %d told", k.server.count(`SELECT COUNT(*) FROM manifests`), k.mdm.told.Load())
}

// tables lists what Decree keeps in the database.
func (s *server) tables() (names []string) {
	s.t.Helper()
	query := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose%'`
	if onMySQL(s.args) {
		query = `SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name NOT LIKE 'goose%'`
	}
	rows, err := s.database.Query(query)
	require.NoError(s.t, err)
	defer rows.Close()
	for rows.Next() {
		var name string
		require.NoError(s.t, rows.Scan(&name))
		names = append(names, name)
	}
	require.NoError(s.t, rows.Err())
	return names
}
