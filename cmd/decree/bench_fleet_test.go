package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	questionedFleet   = 100_000
	fleetDeclarations = 20
)

// seedStatus makes enrollments that have the set "fleet", and puts what they say into the database: of each declaration, and
// of themselves. Of a hundred enrollments one has left, one says that a declaration is invalid, one speaks of an old version
// of it, and one of none.
func (s *server) seedStatus(identifiers, tokens []string) {
	s.t.Helper()
	s.seed(questionedFleet)
	tx, err := s.database.Begin()
	require.NoError(s.t, err)
	insert := func(table, columns string, rows [][]any) {
		row := "(" + strings.TrimSuffix(strings.Repeat("?,", len(rows[0])), ",") + ")"
		_, err := tx.Exec(`INSERT INTO `+table+` (`+columns+`) VALUES `+
			strings.TrimSuffix(strings.Repeat(row+",", len(rows)), ","), slices.Concat(rows...)...)
		require.NoError(s.t, err)
	}
	const chunk = 50
	for first := 0; first < questionedFleet; first += chunk {
		var declarations, problems, values, facts [][]any
		for i := first; i < first+chunk; i++ {
			id := fleetID(i)
			for d, identifier := range identifiers {
				token, valid, reasons := tokens[d], "valid", "[]"
				switch (i + d) % 100 {
				case 1:
					valid, reasons = "invalid", `[{"code":"Error.ConfigurationCannotBeApplied","description":"It cannot."}]`
					problems = append(problems, []any{"declaration", identifier, id, token,
						"Error.ConfigurationCannotBeApplied", i})
				case 2:
					token = "old"
				case 3:
					continue
				}
				declarations = append(declarations, []any{id, identifier, token, "configuration", 1, valid, reasons, 1, i})
			}
			for path, value := range map[string]string{
				".StatusItems.device.identifier.serial-number":  fmt.Sprintf(`"SERIAL%06d"`, i),
				".StatusItems.device.model.identifier":          fmt.Sprintf(`"Mac%d,1"`, i%40),
				".StatusItems.device.operating-system.version":  fmt.Sprintf(`"15.%d"`, i*i%12),
				".StatusItems.device.operating-system.family":   `"macOS"`,
				".StatusItems.softwareupdate.install-state":     fmt.Sprintf(`"state%d"`, i%3),
				".StatusItems.diskmanagement.filevault.enabled": fmt.Sprint(i%2 == 0),
			} {
				values = append(values, []any{id, halfHash(path), make([]byte, 16), halfHash(value), path, "", []byte(value), 1, i})
			}
			facts = append(facts, []any{id, fmt.Sprintf("SERIAL%06d", i), fmt.Sprintf("Mac%d,1", i%40), "macOS",
				fmt.Sprintf("15.%d", i*i%12), fmt.Sprintf("000000000015.%012d", i*i%12), "24A1", "", 1})
		}
		insert("status_declarations", "enrollment_id, identifier, server_token, class, active, valid, reasons, report_id, received_at",
			declarations)
		insert("problems", "kind, subject, enrollment_id, server_token, code, received_at", problems)
		insert("status_values", "enrollment_id, path_hash, element_hash, value_hash, path, element, value, report_id, changed_at",
			values)
		insert("facts", "enrollment_id, serial_number, model, os_family, os_version, os_order, os_build, capabilities, confirmed_at",
			facts)
	}
	require.NoError(s.t, tx.Commit())
}

// halfHash is how paths and values are named in the database.
func halfHash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:16]
}

// BenchmarkFleetQuestions asks each question about a fleet of 100,000 enrollments with 20 declarations each, and counts their
// numbers afresh. How the statements are read is printed by BenchmarkFleetPlans of
// the databases' packages.
func BenchmarkFleetQuestions(b *testing.B) {
	for _, db := range databases() {
		b.Run(db.name, func(b *testing.B) {
			s := startDecree(b, db.flags(b)...)
			var identifiers, tokens []string
			for i := range fleetDeclarations {
				identifier := fmt.Sprintf("com.example.declaration.%02d", i)
				s.putTest(identifier, "fleet")
				s.addToSet("fleet", identifier)
				var declaration struct{ ServerToken string }
				s.get("/v1/declarations/"+identifier, &declaration)
				identifiers, tokens = append(identifiers, identifier), append(tokens, declaration.ServerToken)
			}
			s.waitFanouts()
			s.seedStatus(identifiers, tokens)
			s.settle()

			// All declarations are counted afresh after a restart. It lasts too long to be done more than once.
			began := time.Now()
			s.restart()
			s.countedSince(b, began)
			counting := time.Since(began)
			b.Run("count", func(b *testing.B) { b.ReportMetric(counting.Seconds(), "s") })

			one := "/v1/declaration-enrollments/" + identifiers[3]
			for _, question := range []struct{ name, path string }{
				{"declaration-summary", "/v1/declaration-summary"},
				{"declaration-summary-of-one", "/v1/declaration-summary/" + identifiers[3]},
				{"declaration-enrollments-assigned", one + "?state=assigned"},
				{"declaration-enrollments-invalid", one + "?state=invalid"},
				{"declaration-enrollments-valid", one + "?state=valid"},
				{"declaration-enrollments-pending", one + "?state=pending"},
				{"status-summary-of-versions", "/v1/status-summary?path=.StatusItems.device.operating-system.version"},
				{"status-summary-of-families", "/v1/status-summary?path=.StatusItems.device.operating-system.family"},
				{"status-summary-of-serials", "/v1/status-summary?path=.StatusItems.device.identifier.serial-number"},
				{"problems", "/v1/problems"},
				{"enrollment-declarations", "/v1/enrollment-declarations/" + fleetID(4711)},
				{"enrollments-by-serial", "/v1/enrollments?serial=SERIAL004711"},
				{"enrollments-by-model", "/v1/enrollments?model=Mac7,1"},
				{"enrollments-by-version", "/v1/enrollments?os_version_lt=15.3"},
				{"enrollments-by-version-none", "/v1/enrollments?os_version_lt=15"},
			} {
				b.Run(question.name, func(b *testing.B) { ask(b, s, question.path) })
			}
		})
	}
}

// countedSince waits until all declarations have been counted since a time.
func (s *server) countedSince(b *testing.B, began time.Time) {
	b.Helper()
	for deadline := began.Add(10 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var n int
		require.NoError(b, s.database.QueryRow(`SELECT COUNT(*) FROM declaration_summaries WHERE counted_at >= ?`,
			began.UnixMicro()).Scan(&n))
		if n == fleetDeclarations {
			return
		}
		require.True(b, time.Now().Before(deadline), "only %d declarations were counted", n)
	}
}

// ask asks a question b.N times.
func ask(b *testing.B, s *server, path string) {
	var took []time.Duration
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		code, text := s.do(http.MethodGet, path, "")
		took = append(took, time.Since(began))
		require.Equal(b, http.StatusOK, code, string(text))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
