// Package sqlstore implements the storage contract on SQL, once for every database: a Dialect holds what differs. It
// opens nothing and migrates nothing; storage/sqlite and storage/mysql do.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/decree-ddm/decree/storage"
)

// Options are what an operator can set, the same for every database. Zero values mean the defaults.
type Options struct {
	// NotifyDelay is how long a mark waits for more edits. Negative means not at all; the default is 500 ms.
	NotifyDelay time.Duration
	// KeepReports and KeepErrors bound the status reports and errors kept per enrollment; the defaults are 20 and 50.
	KeepReports int
	KeepErrors  int
	// KeepEvents bounds the log of happenings; the default is 100,000.
	KeepEvents int
	// KeepChanges bounds the log of changes: of those that are about one enrollment, and of the others. The default is
	// 100,000.
	KeepChanges int
	// KeepVersions is how many versions of each declaration are kept when they are replaced, besides those that devices may
	// still fetch. Negative means none; the default is 20.
	KeepVersions int
	// MaxLooked is how many enrollments a page of a list looks at, and MaxCounted where counts stop. The defaults are 5000
	// and 10000; less is for tests.
	MaxLooked, MaxCounted int
	// MaxScanned is about how many rows of an index are counted for one page of numbers about the fleet. The default is
	// 1,000,000; less is for tests.
	MaxScanned int
	// Timeout bounds how long somebody waits for an operation, which then fails with *storage.NotReadyError. The default is
	// to wait as long as it takes.
	Timeout time.Duration
	// Clock replaces the database's clock, for tests.
	Clock func() time.Time
	// Logger gets what no caller is told: transactions that had to be tried again. The default discards.
	Logger *slog.Logger
}

// LongestOperation is how long an operation may take that nobody waits for, or 0 where Timeout bounds none.
func (o Options) LongestOperation() time.Duration { return backgroundPatience * o.Timeout }

func (o Options) withDefaults() Options {
	if o.NotifyDelay == 0 {
		o.NotifyDelay = 500 * time.Millisecond
	}
	o.NotifyDelay = max(o.NotifyDelay, 0)
	if o.KeepReports <= 0 {
		o.KeepReports = 20
	}
	if o.KeepErrors <= 0 {
		o.KeepErrors = 50
	}
	if o.KeepEvents <= 0 {
		o.KeepEvents = 100_000
	}
	if o.KeepChanges <= 0 {
		o.KeepChanges = 100_000
	}
	if o.KeepVersions == 0 {
		o.KeepVersions = 20
	}
	o.KeepVersions = max(o.KeepVersions, 0)
	if o.MaxLooked <= 0 {
		o.MaxLooked = 5000
	}
	if o.MaxCounted <= 0 {
		o.MaxCounted = 10000
	}
	if o.MaxScanned <= 0 {
		o.MaxScanned = 1_000_000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Store is a storage.Store on SQL.
type Store struct {
	read    pool    // for what needs no transaction
	write   *sql.DB // the same as read's where any number of connections may write
	probe   *sql.DB // for asking whether the database works
	guard   *guard
	misses  int                // how often in a row Look has got no answer
	asking  singleflight.Group // of those who ask whether the database works
	dialect *Dialect
	options Options
	turns   turns  // where one transaction can write at a time
	queues  queues // where any number can

	touched  touched
	reports  reportQueue
	counters counters
	shared   *shared // the transaction that is shared at the moment, if one is; whoever has the turn may use it

	device  *sql.Stmt   // the statement of DeviceEnrollment, prepared
	moreDue atomic.Bool // the last claim took as many as it might: there is more to claim, most likely
	// insertChange and linkChange, prepared, are run for every change.
	insertChange, linkChange *sql.Stmt
	// writing has an element for each transaction, and inBackground for each that nobody waits for, where any number of
	// connections may write.
	writing, inBackground chan struct{}
}

var _ storage.Store = (*Store)(nil)

// maxInBackground keeps the transactions that nobody waits for from taking the database from those that somebody waits for.
const maxInBackground = 2

// readersOnly is how many connections are kept from transactions, which can wait for locks: who only reads goes on.
const readersOnly = 4

// Handles are what a store works with. They may be one.
type Handles struct {
	// Read is for what needs no transaction, and Write for transactions.
	Read, Write *sql.DB
	// Probe is for asking whether the database works, which must not have to wait for others' connections. Nil: Read.
	Probe *sql.DB
	// ReadOnly says that nothing is going to be written, which the database may not even let be prepared.
	ReadOnly bool
}

// New returns a store over a database with Decree's schema. It owns the handles from then on, also when it fails.
func New(ctx context.Context, handles Handles, dialect *Dialect, options Options) (*Store, error) {
	options = options.withDefaults()
	guard := &guard{dialect: dialect, timeout: options.Timeout, most: maxInside}
	s := &Store{read: pool{guard, handles.Read}, write: handles.Write, probe: handles.Probe, guard: guard, dialect: dialect,
		options: options, writing: make(chan struct{}, maxWriting(handles.Write)),
		inBackground: make(chan struct{}, maxInBackground)}
	if s.probe == nil {
		s.probe = handles.Read
	}
	if s.options.Clock == nil {
		if err := s.prepare(ctx, handles.ReadOnly); err != nil {
			return nil, errors.Join(fmt.Errorf("preparing: %w", err), s.Close())
		}
	}
	return s, nil
}

// prepare prepares the statements that are run most often.
func (s *Store) prepare(ctx context.Context, readOnly bool) (err error) {
	if s.device, err = s.read.db.PrepareContext(ctx, s.deviceQuery()); err != nil || readOnly {
		return err
	}
	if s.insertChange, err = s.write.PrepareContext(ctx, insertChange(s.now())); err != nil {
		return err
	}
	s.linkChange, err = s.write.PrepareContext(ctx, linkChange(1))
	return err
}

// maxWriting is how many transactions may be under way at once over a handle.
func maxWriting(write *sql.DB) int {
	if limit := write.Stats().MaxOpenConnections; limit > 2*readersOnly {
		return limit - readersOnly
	}
	return 2 * readersOnly
}

// Ping implements storage.Store.
func (s *Store) Ping(ctx context.Context) error {
	return s.read.db.PingContext(ctx)
}

// Close implements storage.Store.
func (s *Store) Close() error {
	var errs []error
	for _, prepared := range []*sql.Stmt{s.device, s.insertChange, s.linkChange} {
		if prepared != nil {
			errs = append(errs, prepared.Close())
		}
	}
	errs = append(errs, s.read.db.Close())
	if s.write != s.read.db {
		errs = append(errs, s.write.Close())
	}
	if s.probe != s.read.db {
		errs = append(errs, s.probe.Close())
	}
	return errors.Join(errs...)
}

// now is the SQL expression for the current time, in microseconds since 1970.
func (s *Store) now() string {
	if s.options.Clock != nil {
		return strconv.FormatInt(s.options.Clock().UnixMicro(), 10)
	}
	return s.dialect.Now
}
