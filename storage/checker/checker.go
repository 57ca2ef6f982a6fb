// Package checker verifies what must always hold in a database, page by page, also while servers work on it. It repairs
// nothing, and knows no SQL: storage.Checks reads for it.
package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// Kind is what a finding is about.
type Kind string

// What Finding.Kind may be.
const (
	Database    Kind = "database"
	Reference   Kind = "reference"
	Declaration Kind = "declaration"
	Manifest    Kind = "manifest"
	Enrollment  Kind = "enrollment"
	Status      Kind = "status"
	Log         Kind = "log"
	Change      Kind = "change"
)

// Finding is something that should not be so.
type Finding struct {
	Kind    Kind
	Subject string // which one
	Problem string
}

func (f Finding) String() string {
	if f.Subject == "" {
		return fmt.Sprintf("%s: %s", f.Kind, f.Problem)
	}
	return fmt.Sprintf("%s %q: %s", f.Kind, f.Subject, f.Problem)
}

// Options of Run.
type Options struct {
	// Shard says that the servers compose with it.
	Shard bool
	// Found gets each finding.
	Found func(Finding)
	// Progress, if not nil, gets how many declarations, enrollments and so on were looked at since the last call.
	Progress func(kind Kind, rows int)
}

// Pages are short enough that the snapshot of one is over soon, and that little has to be read again.
const (
	rowsPage    = 1000
	payloadPage = 50 // payloads and manifests can be large, and so can what is known of a device
)

type checker struct {
	source  storage.Checks
	options Options
	composer
}

// Run verifies a whole database. An error means that it could not be done.
func Run(ctx context.Context, source storage.Checks, options Options) error {
	if options.Progress == nil {
		options.Progress = func(Kind, int) {}
	}
	c := &checker{source: source, options: options, composer: newComposer(options.Shard)}
	for _, part := range []func(context.Context) error{
		c.database, c.references, c.declarations, c.versions, c.manifests, c.enrollments, c.statuses, c.log, c.changes,
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// page looks at what comes after a name, and returns the last name that it looked at; empty at the end.
type page func(ctx context.Context, after string, found func(subject, problem string)) (last string, rows int, err error)

// each looks at all pages. Servers work meanwhile: where a page has findings, it is read once more, and what is not found
// again has been somebody's change under way.
func (c *checker) each(ctx context.Context, kind Kind, look page) error {
	for after := ""; ; {
		var findings []Finding
		last, rows, err := look(ctx, after, func(subject, problem string) {
			findings = append(findings, Finding{kind, subject, problem})
		})
		if err != nil {
			return err
		}
		if len(findings) > 0 {
			again := map[Finding]bool{}
			if _, _, err := look(ctx, after, func(subject, problem string) {
				again[Finding{kind, subject, problem}] = true
			}); err != nil {
				return err
			}
			for _, finding := range findings {
				if again[finding] {
					c.options.Found(finding)
				}
			}
		}
		c.options.Progress(kind, rows)
		if last == "" {
			return nil
		}
		after = last
	}
}

// once is each for what is looked at as a whole.
func (c *checker) once(ctx context.Context, kind Kind, look func(found func(subject, problem string)) error) error {
	return c.each(ctx, kind, func(_ context.Context, _ string, found func(subject, problem string)) (string, int, error) {
		return "", 1, look(found)
	})
}

func (c *checker) database(ctx context.Context) error {
	return c.once(ctx, Database, func(found func(subject, problem string)) error {
		problems, err := c.source.DatabaseErrors(ctx)
		for _, problem := range problems {
			found("", problem)
		}
		return err
	})
}

func (c *checker) references(ctx context.Context) error {
	for _, reference := range c.source.References() {
		err := c.each(ctx, Reference, func(
			ctx context.Context, after string, found func(subject, problem string),
		) (string, int, error) {
			dangling, last, err := c.source.DanglingReferences(ctx, reference, storage.Page{After: after, Limit: rowsPage})
			for _, name := range dangling {
				found(name, "is named by "+reference+", where it is not")
			}
			return last, 0, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) manifests(ctx context.Context) error {
	return c.each(ctx, Manifest, func(
		ctx context.Context, after string, found func(subject, problem string),
	) (last string, rows int, err error) {
		list, err := c.source.CheckedManifests(ctx, storage.Page{After: after, Limit: payloadPage})
		for _, manifest := range list {
			items, err := ddm.ParseDeclarationItems(manifest.Items)
			switch {
			case err != nil:
				found(manifest.Token, "cannot be read: "+err.Error())
			case ddm.DeclarationsToken(items) != manifest.Token:
				found(manifest.Token, "has not the items of its token")
			}
			last = manifest.Token
		}
		return last, len(list), err
	})
}

func (c *checker) log(ctx context.Context) error {
	return c.once(ctx, Log, func(found func(subject, problem string)) error {
		log, err := c.source.CheckedLog(ctx)
		if err != nil {
			return err
		}
		if log.Lost {
			found("", "nothing says where it ends")
			return nil
		}
		if log.Newest != log.LastID {
			found("", fmt.Sprintf("its last id is %d, and the newest event has %d", log.LastID, log.Newest))
		}
		if log.Count > 0 && log.Newest-log.Oldest+1 != log.Count {
			found("", fmt.Sprintf("%d events are missing between %d and %d",
				log.Newest-log.Oldest+1-log.Count, log.Oldest, log.Newest))
		}
		if log.DeliveredID > log.LastID {
			found("", fmt.Sprintf("events up to %d are said to be posted, and the last one has %d", log.DeliveredID, log.LastID))
		}
		return nil
	})
}

// changes verifies that each change is somebody's, and counts whom it has reached.
func (c *checker) changes(ctx context.Context) error {
	return c.each(ctx, Change, func(
		ctx context.Context, after string, found func(subject, problem string),
	) (last string, rows int, err error) {
		id, err := strconv.ParseInt(cmp.Or(after, "0"), 10, 64)
		if err != nil {
			return "", 0, err
		}
		list, err := c.source.CheckedChanges(ctx, id, rowsPage)
		for _, change := range list {
			last = strconv.FormatInt(change.ID, 10)
			checkChange(change, func(problem string) { found(last, problem) })
		}
		return last, len(list), err
	})
}

func checkChange(change storage.CheckedChange, found func(problem string)) {
	if change.By == "" {
		found("nobody has made it")
	}
	if !slices.Contains(storage.Actions, change.Action) {
		found("is of a kind that there is not: " + string(change.Action))
	}
	if change.Waiting > 0 && !change.HasReach {
		found("waits for fan-outs, and does not count whom they reach")
	}
	switch {
	case change.Waiting != change.Links:
		found(fmt.Sprintf("is said to wait for %d fan-outs, and %d are noted", change.Waiting, change.Links))
	case change.Links != change.Fanouts:
		found(fmt.Sprintf("waits for %d fan-outs, of which %d are there", change.Links, change.Fanouts))
	}
}
