package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// Reports that come together are stored together: in one transaction, with one statement for all of them where each would
// have had one. So many devices can report at once as would else wait for one another.
const (
	maxReports = 32
	// maxReportOctets bounds the reports that are stored together, so that a large one makes few others wait.
	maxReportOctets = 1 << 20
	// reportWorkers is how many store reports at once, where any number of connections may write.
	reportWorkers = 4
	// storeTimeout is how long it may take: devices are answered fast, or told to come again.
	storeTimeout = 10 * time.Second
)

// reportJob is a report that waits to be stored.
type reportJob struct {
	status storage.ReceivedStatus
	body   []byte     // compressed
	done   chan error // gets what became of it
}

func (j *reportJob) enrollmentID() string { return j.status.Device.ID }

// reportQueue is what waits to be stored, in the order of arrival. The zero value is ready.
type reportQueue struct {
	mu      sync.Mutex
	waiting []*reportJob
	running map[string]bool // enrollments of which a report is being stored
	workers int
}

// add queues a report, and reports whether another worker is to be started for it.
func (q *reportQueue) add(job *reportJob, maxWorkers int) (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, job)
	if q.workers == maxWorkers {
		return false
	}
	q.workers++
	return true
}

// remove takes a report out of the queue, if it is still in it.
func (q *reportQueue) remove(job *reportJob) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, job); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
}

// release gives back a report that was stored apart from those that it was taken with, and reports whether a worker is to be
// started: others of its enrollment may wait.
func (q *reportQueue) release(job *reportJob, maxWorkers int) (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.running, job.enrollmentID())
	if len(q.waiting) == 0 || q.workers == maxWorkers {
		return false
	}
	q.workers++
	return true
}

// next gives back what a worker has stored and takes more for it: one report of an enrollment at a time, the oldest. When
// there is nothing for it to do, the worker ends.
func (q *reportQueue) next(stored []*reportJob) (jobs []*reportJob) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, job := range stored {
		delete(q.running, job.enrollmentID())
	}
	if q.running == nil {
		q.running = map[string]bool{}
	}
	passed := map[string]bool{}
	octets := 0
	q.waiting = slices.DeleteFunc(q.waiting, func(job *reportJob) bool {
		id, size := job.enrollmentID(), len(job.status.Raw)
		if q.running[id] || passed[id] || len(jobs) == maxReports || len(jobs) > 0 && octets+size > maxReportOctets {
			passed[id] = true
			return false
		}
		octets += size
		q.running[id] = true
		jobs = append(jobs, job)
		return true
	})
	if len(jobs) == 0 {
		q.workers--
	}
	return jobs
}

// PutStatus implements storage.Statuses.
func (s *Store) PutStatus(ctx context.Context, status storage.ReceivedStatus) error {
	body, err := compress(status.Raw)
	if err != nil {
		return fmt.Errorf("compressing a status report: %w", err)
	}
	v, err := s.guard.enter(ctx, foreground)
	if err != nil {
		return fmt.Errorf("storing a status report: %w", err)
	}
	job := &reportJob{status, body, make(chan error, 1)}
	if s.reports.add(job, s.reportWorkers()) {
		go s.storeReports()
	}
	select {
	case err = <-job.done:
	case <-v.ctx.Done():
		s.reports.remove(job) // what is being stored may be stored all the same
		err = v.ctx.Err()
	}
	if err = v.leave(err); err != nil {
		return fmt.Errorf("storing a status report: %w", err)
	}
	return nil
}

// reportWorkers is how many store reports at once.
func (s *Store) reportWorkers() int {
	if s.dialect.OneWriter {
		return 1
	}
	return reportWorkers
}

// storeReports stores what waits, until nothing does. What cannot be stored with others is stored apart: none waits for
// another one's row, or fails for another one's sake.
func (s *Store) storeReports() {
	for jobs := s.reports.next(nil); len(jobs) > 0; jobs = s.reports.next(jobs) {
		began := time.Now()
		apart, err := s.putReports(jobs, len(jobs) > 1)
		if err != nil && len(jobs) > 1 && time.Since(began) < storeTimeout/2 {
			apart, err = slices.Clone(jobs), nil
		}
		for _, job := range apart {
			go s.storeApart(job)
		}
		jobs = slices.DeleteFunc(jobs, func(job *reportJob) bool { return slices.Contains(apart, job) })
		for _, job := range jobs {
			job.done <- err
		}
	}
}

// storeApart stores one report. It is passed over, and tried again, where somebody else has made the enrollment's row
// meanwhile.
func (s *Store) storeApart(job *reportJob) {
	var err error
	for left := []*reportJob{job}; len(left) > 0 && err == nil; {
		left, err = s.putReports(left, false)
	}
	job.done <- err
	if s.reports.release(job, s.reportWorkers()) {
		s.storeReports()
	}
}

// putReports stores reports of different enrollments. If it is to pass over rows that others hold, it returns the reports
// of these.
func (s *Store) putReports(jobs []*reportJob, pass bool) (passed []*reportJob, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	// This is no goroutine of a request's: a panic would end the server, and again when the device comes again.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("storing reports: panic: %v\n%s", p, debug.Stack())
		}
	}()
	// Rows are locked in the order of their ids.
	jobs = slices.SortedFunc(slices.Values(jobs), func(a, b *reportJob) int {
		return cmp.Compare(a.enrollmentID(), b.enrollmentID())
	})
	err = s.transact(ctx, foreground, "storing reports", func(t *tx) error {
		lock := t.dialect.Lock
		if pass {
			lock = t.dialect.LockSkip
		}
		passed, err = t.putReports(jobs, lock)
		return err
	})
	return passed, err
}

// putReports stores and folds reports of different enrollments, and returns those that it has passed over.
func (t *tx) putReports(jobs []*reportJob, lock string) (passed []*reportJob, err error) {
	folds, passed, err := t.beginFolds(jobs, lock)
	if err != nil || len(folds) == 0 {
		return passed, err
	}
	if err := t.insertReports(folds); err != nil {
		return nil, err
	}
	// What a device says while it leaves is kept, and is nothing that the fleet says.
	present := slices.DeleteFunc(slices.Clone(folds), func(f *fold) bool { return f.left && !f.job.status.Device.Back })
	if err := t.foldReports(present); err != nil {
		return nil, err
	}
	for _, f := range folds {
		if f.job.status.NothingNew {
			continue
		}
		if err := t.updateDevice(f.job.status.Device); err != nil {
			return nil, err
		}
	}
	return passed, nil
}

// foldReports folds what reports say into what is known.
func (t *tx) foldReports(folds []*fold) error {
	if err := t.readKnown(folds); err != nil {
		return err
	}
	written := &foldedRows{}
	for _, f := range folds {
		if err := f.fold(written); err != nil {
			return err
		}
	}
	if err := t.writeFolded(written); err != nil {
		return err
	}
	for _, f := range folds {
		if err := f.conclude(); err != nil {
			return err
		}
		if f.leftOut > 0 {
			t.store.counters.leftOut.Add(int64(f.leftOut))
			t.store.options.Logger.WarnContext(t.ctx, "status report is not folded whole: it says more than is kept of a device",
				"enrollment_id", f.enrollmentID, "status_id", f.reportID, "left_out", f.leftOut)
		}
		if err := t.touchSaid(f); err != nil {
			return err
		}
	}
	return nil
}

// beginFolds locks the enrollments' rows, and makes those that there are not. Reports of an earlier enrollment of a device
// are dropped, and those returned whose rows the lock passes over.
func (t *tx) beginFolds(jobs []*reportJob, lock string) (folds []*fold, passed []*reportJob, err error) {
	byID := make(map[string]*reportJob, len(jobs))
	ids := make([]string, 0, len(jobs))
	for _, job := range jobs {
		ids = append(ids, job.enrollmentID())
		byID[job.enrollmentID()] = job
	}
	var now int64
	read := func(ids []string) error {
		return queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
			f := &fold{tx: t}
			var epoch int64
			if err := rows.Scan(&now, &f.enrollmentID, &epoch, &f.left, &f.hadProblems); err != nil {
				return err
			}
			f.job = byID[f.enrollmentID]
			delete(byID, f.enrollmentID)
			if f.report = f.job.status.Report; epoch == f.job.status.Device.Epoch {
				folds = append(folds, f)
			}
			return nil
		}, `SELECT `+t.now+`, id, enroll_epoch, left_at IS NOT NULL,
				EXISTS (SELECT 1 FROM problems p WHERE p.enrollment_id = enrollments.id)
			FROM enrollments WHERE id IN `+list(len(ids))+` ORDER BY id`+lock, args(nil, ids)...)
	}
	if err := read(ids); err != nil {
		return nil, nil, err
	}
	if missing := slices.DeleteFunc(ids, func(id string) bool { return byID[id] == nil }); len(missing) > 0 {
		held, err := t.strings(`SELECT id FROM enrollments WHERE id IN `+list(len(missing)), args(nil, missing)...)
		if err != nil {
			return nil, nil, err
		}
		for _, id := range held {
			passed = append(passed, byID[id])
			delete(byID, id)
		}
		missing = slices.DeleteFunc(missing, func(id string) bool { return byID[id] == nil })
		if len(missing) > 0 {
			if err := t.createEnrollments(missing); err != nil {
				return nil, nil, err
			}
			if err := read(missing); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, job := range byID { // made by somebody else meanwhile, who holds it
		passed = append(passed, job)
	}
	// All that a report says is of the time at which it came.
	t.now = strconv.FormatInt(now, 10)
	return folds, passed, nil
}

// insertReports keeps the reports as they came, and deletes older ones that are too many.
func (t *tx) insertReports(folds []*fold) error {
	rows := make([][]any, 0, len(folds))
	byID := make(map[string]*fold, len(folds))
	for _, f := range folds {
		rows = append(rows, []any{f.enrollmentID, f.job.body})
		byID[f.enrollmentID] = f
	}
	if err := t.insertRows(`status_reports (enrollment_id, body, received_at)`, "", rows); err != nil {
		return err
	}
	var tooMany []string
	err := queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
		var id string
		var newest int64
		var count int
		if err := rows.Scan(&id, &newest, &count); err != nil {
			return err
		}
		byID[id].reportID = newest
		if count >= t.store.options.KeepReports+pruneAtOnce {
			tooMany = append(tooMany, id)
		}
		return nil
	}, `SELECT enrollment_id, MAX(id), COUNT(*) FROM status_reports WHERE enrollment_id IN `+list(len(folds))+`
		GROUP BY enrollment_id ORDER BY enrollment_id`, enrollmentIDs(folds)...)
	if err != nil {
		return err
	}
	for _, id := range tooMany {
		if err := t.prune("status_reports", id, t.store.options.KeepReports); err != nil {
			return err
		}
	}
	return nil
}

func enrollmentIDs(folds []*fold) []any {
	ids := make([]any, 0, len(folds))
	for _, f := range folds {
		ids = append(ids, f.enrollmentID)
	}
	return ids
}

// readKnown reads what is known of the devices, as far as their reports may change it.
func (t *tx) readKnown(folds []*fold) error {
	byID := make(map[string]*fold, len(folds))
	var withDeclarations, withValues []*fold
	for _, f := range folds {
		byID[f.enrollmentID] = f
		f.knownDeclarations = map[declarationKey]declarationContent{}
		f.known = &knownValues{values: map[valueKey]hash{}, byPath: map[hash][]hash{}}
		if f.saysDeclarations() {
			withDeclarations = append(withDeclarations, f)
		}
		if f.saysValues() {
			withValues = append(withValues, f)
		}
	}
	if len(withDeclarations) > 0 {
		err := queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
			var id string
			var key declarationKey
			var c declarationContent
			if err := rows.Scan(&id, &key.identifier, &key.serverToken, &c.class, &c.active, &c.valid,
				text{&c.reasons}); err != nil {
				return err
			}
			byID[id].knownDeclarations[key] = c
			return nil
		}, `SELECT enrollment_id, identifier, server_token, class, active, valid, reasons FROM status_declarations
			WHERE enrollment_id IN `+list(len(withDeclarations)), enrollmentIDs(withDeclarations)...)
		if err != nil {
			return err
		}
	}
	if len(withValues) == 0 {
		return nil
	}
	err := queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
		var id, name sql.RawBytes
		var path, element, value sql.RawBytes
		if err := rows.Scan(&id, &name, &path, &element, &value); err != nil {
			return err
		}
		byID[string(id)].known.add(string(name), hash(path), hash(element), hash(value))
		return nil
	}, `SELECT enrollment_id, path, path_hash, element_hash, value_hash FROM status_values
		WHERE enrollment_id IN `+list(len(withValues)), enrollmentIDs(withValues)...)
	for _, f := range withValues {
		slices.Sort(f.known.paths)
	}
	return err
}

// foldedRows are the rows that folds write, of several enrollments together.
type foldedRows struct{ declarations, values, happenings [][]any }

func (t *tx) writeFolded(written *foldedRows) error {
	if err := t.upsertRows(`status_declarations (enrollment_id, identifier, server_token, class, active, valid, reasons,
		report_id, received_at)`, "enrollment_id, identifier, server_token",
		[]string{"class", "active", "valid", "reasons", "report_id", "received_at"}, written.declarations); err != nil {
		return err
	}
	if err := t.upsertRows(`status_values (enrollment_id, path_hash, element_hash, value_hash, path, element, value,
		report_id, changed_at)`, "enrollment_id, path_hash, element_hash",
		[]string{"value_hash", "value", "report_id", "changed_at"}, written.values); err != nil {
		return err
	}
	return t.insertRows(`event_outbox (kind, enrollment_id, detail, at)`, "", written.happenings)
}

// foldAgain folds once more the reports of an enrollment that came after a time until which it was voided: they may have
// repeated what was known before. Then it makes the facts anew.
func (t *tx) foldAgain(enrollmentID string, after int64) error {
	type kept struct {
		id, receivedAt int64
		body           []byte
	}
	var reports []kept
	err := queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
		var r kept
		if err := rows.Scan(&r.id, &r.receivedAt, &r.body); err != nil {
			return err
		}
		reports = append(reports, r)
		return nil
	}, `SELECT id, received_at, body FROM status_reports
		WHERE enrollment_id = ? AND received_at > ? AND received_at <= `+t.now+` ORDER BY id`,
		enrollmentID, after)
	if err != nil {
		return err
	}
	now := t.now
	defer func() { t.now = now }()
	for _, r := range reports {
		raw, err := decompress(r.body)
		if err != nil {
			return err
		}
		report, err := ddm.ParseStatusReport(raw)
		if err != nil {
			continue // an earlier version took what this one does not: no event fails for it
		}
		t.now = strconv.FormatInt(r.receivedAt, 10)
		f := &fold{tx: t, enrollmentID: enrollmentID, reportID: r.id, report: report, hadProblems: true}
		written := &foldedRows{}
		if err := t.readKnown([]*fold{f}); err != nil {
			return err
		}
		if err := f.fold(written); err != nil {
			return err
		}
		written.happenings = nil // they were told of when the report came
		if err := t.writeFolded(written); err != nil {
			return err
		}
		if len(report.Errors) > 0 {
			if f.newErrors, err = t.exists(`SELECT 1 FROM status_errors WHERE enrollment_id = ? AND report_id = ? LIMIT 1`,
				enrollmentID, r.id); err != nil {
				return err
			}
		}
		if err := f.problems(); err != nil {
			return err
		}
		if err := t.touchSaid(f); err != nil {
			return err
		}
	}
	t.now = now
	return t.refreshFacts(enrollmentID)
}
