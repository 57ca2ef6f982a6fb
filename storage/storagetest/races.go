package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// Each of these stops transactions at a lock that the test holds, so that they meet in a known order. Where the whole
// database is one lock they meet in any order, and the same must hold.
var raceTests = []test{
	{"ChangeAgainstMembership", changeAgainstMembership},
	{"ChangeAgainstMembershipThatWentFirst", changeAgainstMembershipThatWentFirst},
	{"ReferenceAgainstDeletion", referenceAgainstDeletion},
	{"MarkAgainstFinalise", func(w *world) { markAgainst(w, true, finaliseInSync) }},
	{"FinaliseAgainstMark", func(w *world) { markAgainst(w, false, finaliseInSync) }},
	{"MarkAgainstFetch", func(w *world) { markAgainst(w, true, deviceIsInSync) }},
	{"FetchAgainstMark", func(w *world) { markAgainst(w, false, deviceIsInSync) }},
	{"AssociationBehindTheFanout", associationBehindTheFanout},
	{"NotifyAgainstFanout", notifyAgainstFanout},
	{"CollectAgainstReturn", collectAgainstReturn},
	{"FirstsOfAKind", firstsOfAKind},
}

// sightings is what was seen of sets, by set and version. Nothing seen under one version may ever differ: replicas keep
// it as long as they like.
type sightings map[string][]ddm.Item

func (s sightings) look(ctx context.Context, store storage.Store, enrollment string) error {
	vector, contents, err := store.VectorContents(ctx, enrollment, nil)
	if err != nil {
		return err
	}
	for _, set := range vector {
		key := fmt.Sprintf("version %d of set %q", set.Version, set.Name)
		before, seen := s[key]
		if seen && !slices.Equal(before, contents[set.Name]) {
			return fmt.Errorf("%s held %v and now %v", key, before, contents[set.Name])
		}
		s[key] = contents[set.Name]
	}
	return nil
}

func (w *world) look(s sightings, enrollments ...string) {
	w.Helper()
	if w.database.Lock == "" {
		return // nobody sees anything but whole transactions
	}
	for _, enrollment := range enrollments {
		require.NoError(w, s.look(w.ctx, w.store, enrollment))
	}
}

// changeAgainstMembership: one transaction changes a declaration of set a, while another adds it to set b. Had the first
// read which sets hold the declaration before it locked it, b would stay stale for ever.
func changeAgainstMembership(w *world) {
	w.fill("a", "d")
	w.fill("b", "other")
	w.assign("e", "a")
	w.assign("e", "b")
	w.settle()
	seen := sightings{}
	w.look(seen, "e")
	release := w.hold(`SELECT name FROM sets WHERE name = ?`, "a")
	defer release()
	changed := w.start(func() error {
		_, err := w.store.PutDeclaration(w.ctx, configuration("d", "second"), change)
		return err
	})
	w.await(1)
	w.look(seen, "e")
	replica := w.open(w.options()) // in one process they would take turns
	added := w.start(func() error {
		_, err := replica.PutSetDeclaration(w.ctx, "b", "d", change)
		return err
	})
	w.await(2)
	w.look(seen, "e")
	release()
	require.NoError(w, changed())
	w.look(seen, "e")
	require.NoError(w, added())
	w.look(seen, "e")
	_, contents, err := w.store.VectorContents(w.ctx, "e", nil)
	require.NoError(w, err)
	require.Equal(w, []ddm.Item{w.item("d")}, contents["a"])
	require.Equal(w, []ddm.Item{w.item("d"), w.item("other")}, contents["b"])
	w.drain()
	require.Equal(w, []string{"e"}, w.claim(lease))
}

// changeAgainstMembershipThatWentFirst is the same, with the membership committed while the change waits for the
// declaration: the change must see it.
func changeAgainstMembershipThatWentFirst(w *world) {
	w.fill("a", "d")
	w.assign("e", "b")
	w.settle()
	before := w.vector("e")[0].Version
	membership, err := w.database.SQL.BeginTx(w.ctx, nil)
	require.NoError(w, err)
	defer func() { _ = membership.Rollback() }() // after a Commit it does nothing
	var identifier string
	require.NoError(w, membership.QueryRowContext(w.ctx,
		`SELECT identifier FROM declarations WHERE identifier = 'd'`+w.database.Lock).Scan(&identifier))
	changed := w.start(func() error {
		return w.store.TouchDeclaration(w.ctx, "d", change)
	})
	w.await(1)
	for _, statement := range []string{
		`INSERT INTO set_declarations (set_name, identifier) VALUES ('b', 'd')`,
		`UPDATE sets SET version = 12345 WHERE name = 'b'`,
	} {
		_, err := membership.ExecContext(w.ctx, statement)
		require.NoError(w, err)
	}
	require.NoError(w, membership.Commit())
	require.NoError(w, changed())
	require.NotContains(w, []int64{before, 12345}, w.vector("e")[0].Version, "b got the change, and not its version")
	w.drain()
	require.Equal(w, []string{"e"}, w.claim(lease))
}

// referenceAgainstDeletion: whichever comes first, nothing refers to what is gone.
func referenceAgainstDeletion(w *world) {
	for _, deletionFirst := range []bool{true, false} {
		w.put(configuration("d", "x"))
		release := w.hold(`SELECT identifier FROM declarations WHERE identifier = ?`, "d")
		remove := func() error {
			_, err := w.store.DeleteDeclaration(w.ctx, "d", change)
			return err
		}
		refer := func() error {
			_, err := w.store.PutDeclaration(w.ctx, activation("a", "d"), change)
			return err
		}
		var removed, referred func() error
		if deletionFirst {
			removed = w.start(remove)
			w.await(1)
			referred = w.start(refer)
		} else {
			referred = w.start(refer)
			w.await(1)
			removed = w.start(remove)
		}
		w.await(2)
		release()
		var inUse *storage.InUseError
		var missing *storage.MissingReferencesError
		removeErr, referErr := removed(), referred()
		if removeErr == nil {
			require.ErrorAs(w, referErr, &missing)
		} else {
			require.ErrorAs(w, removeErr, &inUse)
			require.NoError(w, referErr)
			require.True(w, w.deleteDeclaration("a"))
		}
	}
}

func finaliseInSync(w *world, _ int64) error {
	return w.store.Finalise(w.ctx, lease, []storage.Outcome{{Kind: storage.OutcomeInSync, IDs: []string{"e"}}})
}

func deviceIsInSync(w *world, seq int64) error {
	return w.store.UpdateDevice(w.ctx, storage.DeviceUpdate{
		ID: "e", NotifySeq: seq, SyncedToken: "t", Check: storage.CheckClear,
	})
}

// markAgainst lets a mark and what clears an older mark wait for the same enrollment. Whichever comes first, the
// enrollment must be due.
func markAgainst(w *world, markFirst bool, clear func(w *world, seq int64) error) {
	w.assign("e", "s")
	require.Equal(w, []string{"e"}, w.claim(lease))
	seq := w.enrollment("e").NotifySeq
	release := w.hold(`SELECT id FROM enrollments WHERE id = ?`, "e")
	defer release()
	mark := func() error {
		_, err := w.store.PutEnrollmentSet(w.ctx, "e", "t", change)
		return err
	}
	other := func() error { return clear(w, seq) }
	steps := []func() error{other, mark}
	if markFirst {
		steps = []func() error{mark, other}
	}
	first := w.start(steps[0])
	w.await(1)
	second := w.start(steps[1])
	w.await(2)
	release()
	require.NoError(w, first())
	require.NoError(w, second())
	e := w.enrollment("e")
	require.False(w, e.NotifyAt.IsZero(), "the mark is lost")
	require.Equal(w, seq+1, e.NotifySeq)
	w.clock.Advance(lease.Duration)
	require.Equal(w, []string{"e"}, w.claim(lease))
}

// associationBehindTheFanout: a set is being assigned to an enrollment whom the fan-out has passed. The fan-out cannot see
// it; it must be marked all the same.
func associationBehindTheFanout(w *world) {
	w.assignAll("s", "b", "c", "d")
	w.assign("a", "other")
	w.settle()
	w.fill("s", "x")
	require.NotNil(w, w.advance(2))
	release := w.hold(`SELECT id FROM enrollments WHERE id = ?`, "a")
	defer release()
	assigned := w.start(func() error {
		_, err := w.store.PutEnrollmentSet(w.ctx, "a", "s", change)
		return err
	})
	w.await(1)
	if w.database.Lock != "" {
		w.drain()
		require.Zero(w, w.enrollment("a").NotifyAt)
	}
	release()
	require.NoError(w, assigned())
	w.drain()
	require.Equal(w, []string{"a", "b", "c", "d"}, w.claim(lease))
	vector, contents, err := w.store.VectorContents(w.ctx, "a", nil)
	require.NoError(w, err)
	require.Len(w, vector, 2)
	require.Equal(w, []ddm.Item{w.item("x")}, contents["s"])
}

// notifyAgainstFanout: a notification of an enrollment and of its set meets the set's fan-out, which waits for that very
// enrollment.
func notifyAgainstFanout(w *world) {
	w.assign("e", "s")
	w.settle()
	before := w.enrollment("e").NotifySeq
	w.fill("s", "d")
	release := w.hold(`SELECT id FROM enrollments WHERE id = ?`, "e")
	defer release()
	notified := w.start(func() error {
		return w.store.Notify(w.ctx, storage.NotifyTargets{Enrollments: []string{"e"}, Sets: []string{"s"}}, change)
	})
	w.await(1)
	advanced := w.start(func() error {
		_, err := w.store.AdvanceFanout(w.ctx, 10)
		return err
	})
	if w.database.Lock == "" {
		release()
	}
	require.NoError(w, advanced(), "it passes over what the other holds")
	release()
	require.NoError(w, notified())
	w.drain()
	require.Greater(w, w.enrollment("e").NotifySeq, before)
	require.True(w, w.enrollment("e").Forced)
	require.Equal(w, []string{"e"}, w.claim(lease))
}

// collectAgainstReturn: what is about to be collected becomes current, or is served, again.
func collectAgainstReturn(w *world) {
	w.put(configuration("d", "first"))
	first := w.declaration("d").ServerToken
	w.put(configuration("d", "second"))
	require.NoError(w, w.store.SaveManifest(w.ctx, "token", []byte("{}")))
	w.clock.Advance(time.Hour)
	used, err := w.database.SQL.BeginTx(w.ctx, nil)
	require.NoError(w, err)
	defer func() { _ = used.Rollback() }() // after a Commit it does nothing
	for _, statement := range []string{
		`UPDATE declaration_versions SET replaced_at = NULL WHERE server_token = '` + first + `'`,
		fmt.Sprintf(`UPDATE manifests SET served_at = %d`, w.clock.Now().UnixMicro()),
	} {
		_, err := used.ExecContext(w.ctx, statement)
		require.NoError(w, err)
	}
	collected := w.start(func() error {
		_, err := w.store.Collect(w.ctx, time.Minute, 100)
		return err
	})
	w.await(1)
	require.NoError(w, used.Commit())
	require.NoError(w, collected())
	_, err = w.store.DeclarationVersion(w.ctx, "d", first)
	require.NoError(w, err)
	_, err = w.store.Manifest(w.ctx, "token")
	require.NoError(w, err)
}

// firstsOfAKind makes the same rows many times at once: all callers must succeed, and one must have changed something.
func firstsOfAKind(w *world) {
	w.put(configuration("known", "x"))
	for name, create := range map[string]func() (bool, error){
		"declaration": func() (bool, error) {
			return w.store.PutDeclaration(w.ctx, configuration("d", "x"), change)
		},
		"set":        func() (bool, error) { return w.store.PutSetDeclaration(w.ctx, "s", "known", change) },
		"enrollment": func() (bool, error) { return w.store.PutEnrollmentSet(w.ctx, "e", "s", change) },
		"set of an enrollment": func() (bool, error) {
			return w.store.PutEnrollmentSet(w.ctx, "f", "t", change)
		},
		"manifest": func() (bool, error) { return false, w.store.SaveManifest(w.ctx, "token", []byte("{}")) },
		"notified": func() (bool, error) {
			return false, w.store.Notify(w.ctx, storage.NotifyTargets{Enrollments: []string{"n"}, Sets: []string{"n"}}, change)
		},
	} {
		type result struct {
			changed bool
			err     error
		}
		const callers = 8
		results := make([]result, callers)
		var waits []func() error
		for i := range callers {
			waits = append(waits, w.start(func() error {
				results[i].changed, results[i].err = create()
				return results[i].err
			}))
		}
		var errs []error
		for _, wait := range waits {
			errs = append(errs, wait())
		}
		require.NoError(w, errors.Join(errs...), name)
		changed := 0
		for _, result := range results {
			if result.changed {
				changed++
			}
		}
		if name != "manifest" && name != "notified" {
			require.Equal(w, 1, changed, name)
		}
	}
}
