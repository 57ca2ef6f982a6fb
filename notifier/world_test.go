package notifier_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/notifier"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/compositor"
	"github.com/decree-ddm/decree/storage/mysql"
	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// patience is how long tests wait for what must happen.
const patience = 30 * time.Second

var discard = slog.New(slog.DiscardHandler)

// opener opens one database, again and again.
type opener func(options sqlstore.Options) (*sqlstore.Store, error)

func newSQLite(t *testing.T) opener {
	path := filepath.Join(t.TempDir(), "decree.db")
	return func(options sqlstore.Options) (*sqlstore.Store, error) {
		return sqlite.Open(context.Background(), path, options)
	}
}

func newMySQL(t *testing.T) opener {
	dsn := mysqltest.DSN(t)
	return func(options sqlstore.Options) (*sqlstore.Store, error) {
		return mysql.Open(context.Background(), dsn, options)
	}
}

// eachStore runs a test on every kind of database.
func eachStore(t *testing.T, test func(w *world)) {
	t.Parallel()
	for name, database := range map[string]func(*testing.T) opener{"SQLite": newSQLite, "MySQL": newMySQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newWorld(t, database(t)))
		})
	}
}

// world is a database whose clock stands still unless it is moved, with a notifier over it and an MDM.
type world struct {
	*testing.T
	open     opener
	clock    *clock
	delay    time.Duration // NotifyDelay; negative: none
	store    *sqlstore.Store
	mdm      *scriptedMDM
	queue    *watchedQueue
	notifier *notifier.Notifier
}

func newWorld(t *testing.T, open opener) *world {
	w := &world{
		T: t, open: open, delay: -1,
		clock: &clock{now: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)},
		mdm:   &scriptedMDM{},
	}
	w.openStore()
	t.Cleanup(w.close)
	return w
}

func (w *world) openStore() {
	w.Helper()
	store, err := w.open(sqlstore.Options{NotifyDelay: w.delay, Clock: w.clock.Now})
	require.NoError(w, err)
	w.store = store
}

// start makes a notifier, which may differ from the usual one, and starts it.
func (w *world) start(changes ...func(*notifier.Config)) {
	w.Helper()
	config := notifier.Config{
		Queue: w.store, Compositor: compositor.New(w.store, compositor.Options{}), MDM: w.mdm,
		Logger: discard,
	}
	for _, change := range changes {
		change(&config)
	}
	w.queue = newWatchedQueue(config.Queue)
	config.Queue = w.queue
	w.notifier = notifier.New(config)
	w.notifier.SetClock(w.clock.Now)
	w.notifier.Start()
}

// stop stops the notifier, which must not take long.
func (w *world) stop() {
	w.Helper()
	if w.notifier == nil {
		return
	}
	stopped := make(chan struct{})
	go func() {
		w.notifier.Stop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(patience * 2 / 3): // less than a request to the MDM may last
		require.Fail(w, "the notifier does not stop")
	}
	w.notifier = nil
}

func (w *world) close() {
	w.stop()
	if w.store != nil {
		require.NoError(w, w.store.Close())
		w.store = nil
	}
}

// restart is what happens to all state in memory when the process is replaced.
func (w *world) restart() {
	w.Helper()
	w.close()
	w.openStore()
	w.start()
}

// settle waits until the notifier has done all that can be done now.
func (w *world) settle() {
	w.Helper()
	require.True(w, w.queue.settle(w.notifier.Wake, w.resting), "the notifier does not come to rest")
}

// resting reports whether the notifier leaves the MDM alone, until the clock is moved.
func (w *world) resting() bool { return w.notifier.Breaker().NextProbe.After(w.clock.Now()) }

// The steps below must work.

var (
	change = storage.ChangeOptions{ChangeID: "change"}
	held   = storage.ChangeOptions{ChangeID: "held", Held: true}
)

func (w *world) put(identifier, echo string, options storage.ChangeOptions) (changed bool) {
	w.Helper()
	changed, err := w.store.PutDeclaration(w.Context(), &ddm.Declaration{
		Identifier: identifier, Type: "com.apple.configuration.management.test", Class: ddm.ClassConfiguration,
		Payload: fmt.Appendf(nil, `{"Echo":%q}`, echo),
	}, options)
	require.NoError(w, err)
	return changed
}

// fill puts declarations, each new, into a set.
func (w *world) fill(set string, identifiers ...string) {
	w.Helper()
	for _, identifier := range identifiers {
		w.put(identifier, "first", change)
		w.add(set, identifier)
	}
}

func (w *world) add(set, identifier string) {
	w.Helper()
	_, err := w.store.PutSetDeclaration(w.Context(), set, identifier, change)
	require.NoError(w, err)
}

func (w *world) remove(set, identifier string) {
	w.Helper()
	changed, err := w.store.DeleteSetDeclaration(w.Context(), set, identifier, change)
	require.NoError(w, err)
	require.True(w, changed)
}

func (w *world) assign(set string, ids ...string) {
	w.Helper()
	for _, id := range ids {
		_, err := w.store.PutEnrollmentSet(w.Context(), id, set, change)
		require.NoError(w, err)
	}
}

// drain follows the changes so far, so that what comes is marked by nothing else.
func (w *world) drain() {
	w.Helper()
	for {
		page, err := w.store.AdvanceFanout(w.Context(), 1000)
		require.NoError(w, err)
		if page == nil {
			return
		}
	}
}

func (w *world) enrollment(id string) *storage.Enrollment {
	w.Helper()
	enrollment, _, err := w.store.Enrollment(w.Context(), id)
	require.NoError(w, err)
	return enrollment
}

func (w *world) compose(id string) *storage.Composition {
	w.Helper()
	_, vector, err := w.store.Enrollment(w.Context(), id)
	require.NoError(w, err)
	composition, err := compositor.New(w.store, compositor.Options{}).Compose(w.Context(), id, vector)
	require.NoError(w, err)
	return composition
}

// sync has devices finish with what they should have.
func (w *world) sync(ids ...string) {
	w.Helper()
	for _, id := range ids {
		e, token := w.enrollment(id), w.compose(id).Token
		require.NoError(w, w.store.UpdateDevice(w.Context(), storage.DeviceUpdate{
			ID: id, Epoch: e.Epoch, NotifySeq: e.NotifySeq, DesiredToken: token, FetchedToken: token, SyncedToken: token,
			Acknowledged: true, Check: storage.CheckClear,
		}))
	}
}

// clock moves only by advance.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// watchedQueue knows when there is nothing left to do.
type watchedQueue struct {
	notifier.Queue

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	round   int
	held    map[string]bool // claimed and not finalised
	fanouts int             // the round in which there was no fan-out to advance
	claims  int             // the round in which there was nothing to claim, and nothing claimed
}

func newWatchedQueue(queue notifier.Queue) *watchedQueue {
	return &watchedQueue{Queue: queue, changed: make(chan struct{}), held: map[string]bool{}}
}

func (q *watchedQueue) update(change func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	change()
	close(q.changed)
	q.changed = make(chan struct{})
}

func (q *watchedQueue) AdvanceFanout(ctx context.Context, limit int) (*storage.FanoutPage, error) {
	q.mu.Lock()
	round := q.round
	q.mu.Unlock()
	page, err := q.Queue.AdvanceFanout(ctx, limit)
	if page == nil && err == nil {
		q.update(func() { q.fanouts = round })
	}
	return page, err
}

func (q *watchedQueue) Claim(ctx context.Context, lease storage.Lease, limit int) ([]storage.Claimed, error) {
	q.mu.Lock()
	round, idle := q.round, len(q.held) == 0
	q.mu.Unlock()
	claimed, err := q.Queue.Claim(ctx, lease, limit)
	q.update(func() {
		for _, c := range claimed {
			q.held[c.Enrollment.ID] = true
		}
		if idle && len(claimed) == 0 && err == nil {
			q.claims = round
		}
	})
	return claimed, err
}

func (q *watchedQueue) Finalise(ctx context.Context, lease storage.Lease, outcomes []storage.Outcome) error {
	err := q.Queue.Finalise(ctx, lease, outcomes)
	if err != nil { // it is tried again
		return err
	}
	q.update(func() {
		for _, outcome := range outcomes {
			for _, id := range outcome.IDs {
				delete(q.held, id)
			}
		}
	})
	return nil
}

// settle waits until there was first no fan-out to advance, and then nothing to claim, or the notifier rests. A claim leaves out
// what is locked at that moment, so there must be nothing twice.
func (q *watchedQueue) settle(wake func(), resting func() bool) bool {
	return q.wait(&q.fanouts, wake, nil) && q.wait(&q.claims, wake, resting) && q.wait(&q.claims, wake, resting)
}

// wait waits until what is counted reaches a round that begins now, or nothing is held and the notifier rests.
func (q *watchedQueue) wait(reached *int, wake func(), resting func() bool) bool {
	deadline := time.After(patience)
	var round int
	q.update(func() {
		q.round++
		round = q.round
	})
	for {
		wake()
		q.mu.Lock()
		done, idle, changed := *reached >= round, len(q.held) == 0, q.changed
		q.mu.Unlock()
		if done || idle && resting != nil && resting() {
			return true
		}
		select {
		case <-changed:
		case <-deadline:
			return false
		}
	}
}
