// Package storagetest is the suite that every storage backend passes: what storage promises, as tests. A backend's own
// tests call Run with a way to make databases; what only one kind of database has, such as its schema, they test
// themselves.
package storagetest

import (
	"context"
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// Backend is a kind of database.
type Backend struct {
	// New makes an empty database that is gone after the test. What it registers with the test runs last.
	New func(t *testing.T) Database
}

// Database is one database.
type Database struct {
	// Open opens the database as a process would: several times over, if need be.
	Open func(ctx context.Context, options sqlstore.Options) (storage.Store, error)
	// SQL is a handle of the test's own, to look into tables and to hold locks.
	SQL *sql.DB
	// Lock ends a SELECT through SQL that holds the rows which it returns. It is empty where a transaction through SQL
	// holds the whole database from its beginning.
	Lock string
	// Waiting counts the transactions that wait for others. It is nil where that cannot be told.
	Waiting func(ctx context.Context) (int, error)
	// Shared says that several processes may use the database at the same time.
	Shared bool
}

// Run runs the suite. Each test has a database of its own and runs beside the others.
func Run(t *testing.T, backend Backend) {
	for _, subject := range [][]test{
		declarationTests, setTests, versionTests, importTests, compositionTests,
		claimTests, holdTests, deviceTests, notifyTests, fanoutTests, changeTests, reachTests, changePageTests,
		servingTests,
		overviewTests, numberTests, factTests, summaryTests, summaryPropertyTests, fleetTests,
		deletionTests, progressTests, statusTests, oddStatusTests, foldPropertyTests,
		spentTests, eventTests, happeningTests, raceTests, concurrencyTests, clockTests, transactionTests,
	} {
		for _, test := range subject {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				test.run(newWorld(t, backend.New(t)))
			})
		}
	}
}

type test struct {
	name string
	run  func(w *world)
}

// timeout is how long a test waits for what should happen at once.
const timeout = 20 * time.Second

// world is what a test works with: a database and a store over it, whose clock stands still unless it is moved.
type world struct {
	*testing.T
	ctx      context.Context
	database Database
	clock    *Clock
	store    storage.Store
}

func newWorld(t *testing.T, database Database) *world {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	w := &world{T: t, ctx: ctx, database: database, clock: NewClock()}
	w.store = w.open(w.options())
	return w
}

// options are those of the stores of most tests: marks are due at once.
func (w *world) options() sqlstore.Options {
	return sqlstore.Options{NotifyDelay: -1, Clock: w.clock.Now}
}

// open returns another store over the database.
func (w *world) open(options sqlstore.Options) storage.Store {
	w.Helper()
	store, err := w.database.Open(w.ctx, options)
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, store.Close()) })
	return store
}

// Clock is a clock that moves only by Advance.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at some time.
func NewClock() *Clock {
	return &Clock{now: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)}
}

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// start runs a function beside the test and returns what waits for its end.
func (w *world) start(run func() error) (wait func() error) {
	done := make(chan error, 1)
	go func() { done <- run() }()
	return func() error {
		w.Helper()
		select {
		case err := <-done:
			return err
		case <-time.After(2 * timeout):
			require.Fail(w, "does not end")
			return nil
		}
	}
}

// hold locks what a query returns, in a transaction of the test's own, until release is called. Where a database is
// locked as a whole, it is that.
func (w *world) hold(query string, args ...any) (release func()) {
	w.Helper()
	held, err := w.database.SQL.BeginTx(w.ctx, nil)
	require.NoError(w, err)
	rows, err := held.QueryContext(w.ctx, query+w.database.Lock, args...)
	require.NoError(w, err)
	require.True(w, rows.Next(), "there is nothing to hold")
	require.NoError(w, rows.Close())
	return sync.OnceFunc(func() { require.NoError(w, held.Rollback()) })
}

// await waits until so many transactions wait for others. Where that cannot be told, the test goes on: what it checks
// must hold either way.
func (w *world) await(waiting int) {
	w.Helper()
	if w.database.Waiting == nil {
		return
	}
	deadline := time.Now().Add(timeout)
	for poll := time.NewTicker(2 * time.Millisecond); ; <-poll.C {
		found, err := w.database.Waiting(w.ctx)
		require.NoError(w, err)
		if found >= waiting {
			poll.Stop()
			return
		}
		require.True(w, time.Now().Before(deadline), "%d transactions wait, not %d", found, waiting)
	}
}

// count returns the one number that a query gives.
func (w *world) count(query string, args ...any) int {
	w.Helper()
	var n int
	require.NoError(w, w.database.SQL.QueryRowContext(w.ctx, query, args...).Scan(&n))
	return n
}
