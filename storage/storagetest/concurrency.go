package storagetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var concurrencyTests = []test{
	{"FiftyWriters", fiftyWriters},
}

// crowd is many writers on the same few rows, with readers and notifiers beside them.
type crowd struct {
	*world
	stores       []storage.Store
	declarations []string
	sets         []string
	enrollments  []string

	mu       sync.Mutex
	failures []error
}

func (c *crowd) check(operation string, err error) {
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failures = append(c.failures, fmt.Errorf("%s: %w", operation, err))
	}
}

func (c *crowd) requireNoFailures() {
	c.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.NoError(c, errors.Join(c.failures...))
}

func fiftyWriters(w *world) {
	const writers, changes, readers, notifiers = 50, 12, 2, 2
	w.store = w.open(sqlstore.Options{NotifyDelay: -1})
	c := &crowd{world: w, stores: []storage.Store{w.store, w.store}}
	if w.database.Shared {
		c.stores[1] = w.open(sqlstore.Options{NotifyDelay: -1})
	}
	for i := range 6 {
		c.declarations = append(c.declarations, fmt.Sprintf("d%d", i))
		c.sets = append(c.sets, fmt.Sprintf("s%d", i))
	}
	for i := range 12 {
		c.enrollments = append(c.enrollments, fmt.Sprintf("e%02d", i))
	}

	var writing, others sync.WaitGroup
	over, end := context.WithCancel(w.ctx)
	defer end()
	for i := range writers {
		writing.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i))) // #nosec G404 G115 -- the same in each run
			for range changes {
				c.change(random, c.stores[i%2])
			}
		})
	}
	for i := range readers {
		others.Go(func() { c.read(over, c.stores[i%2]) })
	}
	for i := range notifiers {
		others.Go(func() { c.reconcile(over, c.stores[i%2], int64(i+1)) })
	}
	writing.Wait()
	end()
	others.Wait()
	c.requireNoFailures()

	c.requireSound()
	c.requireEverybodyOutOfSyncIsDue()
	// What is left to do leads to an end, and then everybody is in sync.
	c.reconcile(over, c.store, 99)
	c.requireNoFailures()
	require.Zero(w, w.count(`SELECT COUNT(*) FROM fanouts`))
	for _, id := range c.enrollments {
		e := w.enrollment(id)
		composition := w.compose(id)
		require.True(w, e.InSync(composition.Token, len(composition.Items) == 0), "%s holds %q", id, e.SyncedToken)
		require.Zero(w, e.NotifyAt, id)
	}
}

// change makes one change of a random kind.
func (c *crowd) change(random *rand.Rand, store storage.Store) {
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	// What others delete and use in the meantime makes some of these impossible, which is no failure.
	var missing *storage.MissingReferencesError
	var inUse *storage.InUseError
	var err error
	kind := random.IntN(20)
	switch kind {
	case 0, 1, 2, 3:
		_, err = store.PutDeclaration(c.ctx, configuration(pick(c.declarations), fmt.Sprint(random.IntN(5))), change)
	case 4, 5:
		declaration := activation("a"+pick(c.declarations), pick(c.declarations), pick(c.declarations))
		_, err = store.PutDeclaration(c.ctx, declaration, change)
		if errors.As(err, &missing) {
			err = nil
		}
	case 6:
		identifier := pick(c.declarations)
		if random.IntN(2) == 0 {
			identifier = "a" + identifier
		}
		_, err = store.DeleteDeclaration(c.ctx, identifier, change)
		if errors.As(err, &inUse) {
			err = nil
		}
	case 7:
		identifier := pick(c.declarations)
		var versions []storage.Version
		versions, _, err = store.DeclarationVersions(c.ctx, identifier, storage.VersionPlace{}, 3)
		if err == nil {
			_, err = store.RollbackDeclaration(c.ctx, identifier, versions[len(versions)-1].ServerToken, change)
		}
		if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
	case 8:
		err = store.TouchDeclaration(c.ctx, pick(c.declarations), change)
		if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
	case 9, 10, 11:
		identifier := pick(c.declarations)
		if random.IntN(3) == 0 {
			identifier = "a" + identifier
		}
		_, err = store.PutSetDeclaration(c.ctx, pick(c.sets), identifier, change)
		if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
	case 12:
		_, err = store.DeleteSetDeclaration(c.ctx, pick(c.sets), pick(c.declarations), change)
	case 13, 14, 15:
		_, err = store.PutEnrollmentSet(c.ctx, pick(c.enrollments), pick(c.sets), change)
	case 16:
		_, err = store.DeleteEnrollmentSet(c.ctx, pick(c.enrollments), pick(c.sets), change)
	case 17:
		_, err = store.DeleteEnrollmentSets(c.ctx, pick(c.enrollments), change)
	case 18:
		err = store.Notify(c.ctx, storage.NotifyTargets{
			Enrollments: []string{pick(c.enrollments)}, Sets: []string{pick(c.sets), pick(c.sets)},
			Declarations: []string{pick(c.declarations)},
		}, change)
	case 19:
		id := pick(c.enrollments)
		raw := fmt.Appendf(nil, `{"StatusItems":{"n":%d,"apps":[{"identifier":"%d"}]}}`, random.IntN(9), random.IntN(9))
		var report *ddm.StatusReport
		if report, err = ddm.ParseStatusReport(raw); err == nil {
			err = store.PutStatus(c.ctx, storage.ReceivedStatus{
				Raw: raw, Report: report, Device: storage.DeviceUpdate{ID: id},
			})
		}
	}
	c.check(fmt.Sprintf("change of kind %d", kind), err)
}

// read composes over and over, as replicas with caches do.
func (c *crowd) read(over context.Context, store storage.Store) {
	seen := sightings{}
	for over.Err() == nil {
		for _, id := range c.enrollments {
			c.check("reading", seen.look(c.ctx, store, id))
			_, _, err := store.Enrollment(c.ctx, id)
			c.check("reading an enrollment", err)
			_, err = store.DeclarationStatuses(c.ctx, id)
			c.check("reading a status", err)
		}
	}
}

// reconcile does what notifiers and devices do until nothing is left to do and the others are over.
func (c *crowd) reconcile(over context.Context, store storage.Store, leaseID int64) {
	lease := storage.Lease{ID: leaseID, Duration: time.Minute}
	for range 1_000_000 {
		last := over.Err() != nil
		page, err := store.AdvanceFanout(c.ctx, 5)
		c.check("advancing a fan-out", err)
		claimed, claimErr := store.Claim(c.ctx, lease, 7)
		c.check("claiming", claimErr)
		for _, one := range claimed {
			c.check("reconciling", c.tell(store, lease, &one.Enrollment))
		}
		if err != nil || claimErr != nil || last && page == nil && len(claimed) == 0 {
			return
		}
	}
	c.check("reconciling", errors.New("does not end"))
}

// tell has an enrollment told if need be, and its device finish at once.
func (c *crowd) tell(store storage.Store, lease storage.Lease, e *storage.Enrollment) error {
	vector, contents, err := store.VectorContents(c.ctx, e.ID, nil)
	if err != nil {
		return err
	}
	composition := composeContents(vector, contents)
	outcome := storage.Outcome{
		Kind: storage.OutcomeSent, IDs: []string{e.ID}, DesiredToken: composition.Token, CommandUUID: "u",
	}
	if e.InSync(composition.Token, len(composition.Items) == 0) && !e.Forced {
		outcome.Kind = storage.OutcomeInSync
		return store.Finalise(c.ctx, lease, []storage.Outcome{outcome})
	}
	if err := store.Finalise(c.ctx, lease, []storage.Outcome{outcome}); err != nil {
		return err
	}
	// The device synchronizes, with whatever is there by then.
	now, _, err := store.Enrollment(c.ctx, e.ID)
	if err != nil {
		return err
	}
	vector, contents, err = store.VectorContents(c.ctx, e.ID, nil)
	if err != nil {
		return err
	}
	token := composeContents(vector, contents).Token
	if err := store.SaveManifest(c.ctx, token, []byte("{}")); err != nil {
		return err
	}
	return store.UpdateDevice(c.ctx, storage.DeviceUpdate{
		ID: e.ID, Epoch: now.Epoch, NotifySeq: now.NotifySeq, SyncedToken: token, Acknowledged: true, Check: storage.CheckClear,
	})
}

func composeContents(vector storage.Vector, contents map[string][]ddm.Item) *ddm.Composition {
	var sets [][]ddm.Item
	for _, set := range vector {
		sets = append(sets, contents[set.Name])
	}
	return ddm.Compose(sets...)
}

// requireSound checks that everything agrees: compositions with what plain reads of the lists give, references with what
// there is, and the log of changes with all of it.
func (w *world) requireSound() {
	w.Helper()
	identifiers, err := w.store.DeclarationIdentifiers(w.ctx, all)
	require.NoError(w, err)
	for _, identifier := range identifiers {
		for _, reference := range w.declaration(identifier).References() {
			_, err := w.store.Declaration(w.ctx, reference)
			require.NoError(w, err, "%s refers to %s", identifier, reference)
		}
	}
	require.Zero(w, w.count(`SELECT COUNT(*) FROM declaration_references
		WHERE referred NOT IN (SELECT identifier FROM declarations)
			OR identifier NOT IN (SELECT identifier FROM declarations)`))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM set_declarations
		WHERE identifier NOT IN (SELECT identifier FROM declarations) OR set_name NOT IN (SELECT name FROM sets)`))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM enrollment_sets
		WHERE enrollment_id NOT IN (SELECT id FROM enrollments) OR set_name NOT IN (SELECT name FROM sets)`))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM declarations d WHERE NOT EXISTS (SELECT 1 FROM declaration_versions v
		WHERE v.identifier = d.identifier AND v.server_token = d.server_token AND v.replaced_at IS NULL)`))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM declaration_versions v WHERE v.replaced_at IS NULL
		AND NOT EXISTS (SELECT 1 FROM declarations d WHERE v.identifier = d.identifier AND v.server_token = d.server_token)`))
	for _, id := range w.enrollmentIDs() {
		require.Equal(w, w.recompose(id).Items, w.compose(id).Items, id)
	}
	w.requireLogTellsAll()
	require.Zero(w, w.count(`SELECT COUNT(*) FROM changes c
		WHERE c.waiting <> (SELECT COUNT(*) FROM change_fanouts f WHERE f.change_row = c.id)`))
}

func (w *world) enrollmentIDs() []string {
	w.Helper()
	rows, err := w.database.SQL.QueryContext(w.ctx, `SELECT id FROM enrollments ORDER BY id`)
	require.NoError(w, err)
	defer func() { require.NoError(w, rows.Close()) }()
	var ids []string
	for rows.Next() {
		var id string
		require.NoError(w, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(w, rows.Err())
	return ids
}

// recompose composes from the lists that admins read.
func (w *world) recompose(id string) *ddm.Composition {
	w.Helper()
	var sets [][]ddm.Item
	for _, set := range w.enrollmentSets(id) {
		var items []ddm.Item
		for _, identifier := range w.setDeclarations(set) {
			items = append(items, w.item(identifier))
		}
		sets = append(sets, items)
	}
	return ddm.Compose(sets...)
}

// requireEverybodyOutOfSyncIsDue checks that no mark is lost: who should be told is due, or will be by a fan-out.
func (w *world) requireEverybodyOutOfSyncIsDue() {
	w.Helper()
	w.drain()
	for _, id := range w.enrollmentIDs() {
		composition := w.compose(id)
		e := w.enrollment(id)
		if !e.InSync(composition.Token, len(composition.Items) == 0) {
			require.False(w, e.NotifyAt.IsZero(), "%s should have %q, has %q, and nothing is due",
				id, composition.Token, e.SyncedToken)
		}
	}
}
