package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/decree-ddm/decree/storage"
)

var summaryPropertyTests = []test{{"SummariesAfterAnyChange", summariesAfterAnyChange}}

// summariesAfterAnyChange checks that what is touched by a change is all that has to be counted again: then summaries are as
// long as the lists of those that they count, and the problems are those that devices speak of.
func summariesAfterAnyChange(w *world) {
	declarations, sets := []string{"d0", "d1", "d2"}, []string{"s0", "s1"}
	enrollments := []string{"e", "e:user", "f"}
	for i, identifier := range declarations {
		w.fill(sets[i%2], identifier)
	}
	kinds := []storage.EventKind{storage.EventAuthenticate, storage.EventTokenUpdate, storage.EventCheckOut}
	rapid.Check(w.T, func(t *rapid.T) {
		var done []string
		for range rapid.IntRange(1, 12).Draw(t, "changes") {
			w.clock.Advance(time.Minute)
			id := rapid.SampledFrom(enrollments).Draw(t, "enrollment")
			set := rapid.SampledFrom(sets).Draw(t, "set")
			identifier := rapid.SampledFrom(declarations).Draw(t, "declaration")
			var err error
			kind := rapid.IntRange(0, 9).Draw(t, "change")
			done = append(done, fmt.Sprint(kind, id, set, identifier))
			switch kind {
			case 0:
				_, err = w.store.PutEnrollmentSet(w.ctx, id, set, change)
			case 1:
				_, err = w.store.DeleteEnrollmentSet(w.ctx, id, set, change)
			case 2:
				_, err = w.store.PutSetDeclaration(w.ctx, set, identifier, change)
			case 3:
				_, err = w.store.DeleteSetDeclaration(w.ctx, set, identifier, change)
			case 4:
				err = w.store.TouchDeclaration(w.ctx, identifier, change)
			case 5:
				_, err = w.store.DeleteEnrollment(w.ctx, id, storage.ChangeOptions{})
			case 6:
				event := storage.Event{Kind: rapid.SampledFrom(kinds).Draw(t, "event"), ID: id, Tally: 1, At: w.clock.Now()}
				event.ParentID, _, _ = strings.Cut(id, ":")
				if event.ParentID == id {
					event.ParentID = ""
				}
				_, err = w.store.ApplyEvent(w.ctx, event, storage.EventOptions{RemoveSets: rapid.Bool().Draw(t, "remove sets")})
			default:
				var said []string
				for _, declaration := range declarations {
					tokens := []string{w.tokenOf(declaration), "old"}[:rapid.IntRange(0, 2).Draw(t, "versions")]
					for _, token := range tokens {
						said = append(said, status(declaration, token,
							rapid.SampledFrom([]string{"valid", "invalid", "unknown"}).Draw(t, "valid"),
							rapid.SampledFrom([]string{`[]`, `[{"code":"Error.X"}]`, `[{"code":"Info.Predicate"}]`}).Draw(t, "reasons")))
					}
				}
				report := w.received(id, declared(said...))
				e := w.enrollment(id)
				report.Device.Epoch, report.Device.Back = e.Epoch, !e.LeftAt.IsZero()
				err = w.store.PutStatus(w.ctx, report)
			}
			require.NoError(t, err, done)
		}
		touched, all, err := w.store.TouchedDeclarations(w.ctx)
		require.NoError(t, err)
		if all {
			touched = declarations
		}
		for _, identifier := range touched {
			w.counted(identifier)
		}
		for _, identifier := range declarations {
			s, err := w.store.DeclarationSummary(w.ctx, identifier)
			require.NoError(t, err)
			if s.CountedAt.IsZero() {
				continue
			}
			listed := map[storage.DeclarationState]int64{}
			for _, state := range storage.DeclarationStates {
				listed[state] = int64(len(w.enrollmentsOf(w.store, identifier, state, 2)))
			}
			require.Equal(t, map[storage.DeclarationState]int64{
				storage.StateAssigned: s.Assigned, storage.StateCurrent: s.Current, storage.StateActive: s.Active,
				storage.StateValid: s.Valid, storage.StateInvalid: s.Invalid, storage.StatePending: s.Pending(),
			}, listed, "%s after %s", identifier, done)
			require.Equal(t, w.tokenOf(identifier), s.ServerToken, done)
		}
		for _, id := range enrollments {
			var wanted []string
			for _, d := range w.declarationStatuses(id) {
				if d.Valid == "invalid" || strings.Contains(string(d.Reasons), "Error.") {
					wanted = append(wanted, d.Identifier+" "+d.ServerToken)
				}
			}
			var problems []string
			for _, line := range w.problems(id) {
				problems = append(problems, strings.Join(strings.Fields(line)[1:3], " "))
			}
			require.Equal(t, wanted, problems, "%s after %s", id, done)
		}
	})
}
