// Package importer takes over declarations, sets and the sets of enrollments from another server. It holds what the
// order is, what is tried again and what is refused; where rows come from is a Source (storage/importer/remote and
// storage/importer/kmfddm), and where they go to is a Target. Besides a batch of rows it keeps in memory only the names of
// declarations that refer to others which come later.
package importer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"unicode"
	"unicode/utf8"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// MaxDeclarationBytes is how large a declaration may be, which is what the API takes.
const MaxDeclarationBytes = 4 << 20

// Batches are transactions: large enough to be fast, and short enough not to keep a running server waiting.
const (
	batchRows  = 400
	batchBytes = 4 << 20
	// maxServerToken is Apple's limit. Apple: declarations/declarationbase.yaml.
	maxServerToken = 64
)

// Kind is what an import is about, in the order in which it is taken.
type Kind int

// The kinds.
const (
	Declarations Kind = iota
	SetDeclarations
	EnrollmentSets
)

// Kinds are all of them.
var Kinds = []Kind{Declarations, SetDeclarations, EnrollmentSets}

// String names the rows of a kind.
func (k Kind) String() string {
	return [...]string{"declarations", "declarations in sets", "sets of enrollments"}[k]
}

// Declaration is a declaration as a source has it, not looked at yet.
type Declaration struct {
	Identifier, Type string
	Payload          []byte
	ServerToken      string
	// Problem is why the source could not read the rest of it.
	Problem string
}

// SetDeclaration says that a set holds a declaration. Problem is why the source could not read the row, or the whole set
// when Identifier is empty.
type SetDeclaration struct {
	Set, Identifier, Problem string
}

// EnrollmentSet says that an enrollment has a set. Problem is why the source could not read the row, or all sets of the
// enrollment when Set is empty.
type EnrollmentSet struct {
	EnrollmentID, Set, Problem string
}

// Source is a server to import from. What is wrong with one row is in the row; an error ends the import. A row may come
// twice, and rows may come in any order.
type Source interface {
	Declarations(ctx context.Context) iter.Seq2[Declaration, error]
	// Declaration reads one again.
	Declaration(ctx context.Context, identifier string) (Declaration, error)
	SetDeclarations(ctx context.Context) iter.Seq2[SetDeclaration, error]
	EnrollmentSets(ctx context.Context) iter.Seq2[EnrollmentSet, error]
	// Count returns how many rows of a kind there are, or -1 if that cannot be told.
	Count(ctx context.Context, kind Kind) (int, error)
}

// UnlistableError is what Source.EnrollmentSets gives when the source cannot say which enrollments there are. The import
// ends there, with one row that was not taken.
type UnlistableError struct{ Reason string }

func (e *UnlistableError) Error() string { return e.Reason }

// Target is where rows go to.
type Target interface {
	storage.Importer
}

// Refusal is a row that was not taken.
type Refusal struct {
	What   string // such as `declaration "com.example.one"`
	Reason string
}

func (r Refusal) String() string { return r.What + ": " + r.Reason }

// Observer is told of what happens, by one goroutine.
type Observer interface {
	// Began says that the rows of a kind come now, and how many, or -1.
	Began(kind Kind, rows int)
	// Advanced says that so many more rows are done.
	Advanced(rows int)
	// Refused says that a row was not taken.
	Refused(refusal Refusal)
}

// Counts are the rows of a kind.
type Counts struct {
	Taken   int
	Present int // were there already
	Refused int
}

// Summary is what an import did, by kind.
type Summary [3]Counts

// Refused is how many rows of any kind were not taken.
func (s *Summary) Refused() int {
	refused := 0
	for _, counts := range s {
		refused += counts.Refused
	}
	return refused
}

// Run imports everything that the source has. It can be run again at any time, also after it was interrupted: what is there
// already is left alone. The summary is right also where there is an error.
func Run(
	ctx context.Context, source Source, target Target, options storage.ImportOptions, observer Observer,
) (Summary, error) {
	r := &run{ctx: ctx, source: source, target: target, options: options, observer: observer, late: map[string][]string{}}
	if options.DryRun {
		r.made = map[string]bool{}
		r.options.Assume = func(identifier string) bool { return r.made[identifier] }
	}
	steps := []func() error{r.declarations, r.setDeclarations, r.enrollmentSets}
	for _, kind := range Kinds {
		rows, err := source.Count(ctx, kind)
		if err != nil {
			return r.summary, fmt.Errorf("counting %s: %w", kind, err)
		}
		observer.Began(kind, rows)
		r.kind = kind
		if err := steps[kind](); err != nil {
			return r.summary, fmt.Errorf("importing %s: %w", kind, err)
		}
	}
	return r.summary, nil
}

// run is one import.
type run struct {
	ctx      context.Context
	source   Source
	target   Target
	options  storage.ImportOptions
	observer Observer
	kind     Kind
	summary  Summary
	// late are declarations that refer to others which were not there yet, and what those are.
	late map[string][]string
	// made is, in a dry run, what would have been made.
	made map[string]bool
}

func (r *run) refuse(what, reason string) {
	r.summary[r.kind].Refused++
	r.observer.Refused(Refusal{What: what, Reason: reason})
	r.observer.Advanced(1)
}

// done counts a row that was not refused.
func (r *run) done(changed bool) {
	if changed {
		r.summary[r.kind].Taken++
	} else {
		r.summary[r.kind].Present++
	}
	r.observer.Advanced(1)
}

// read turns what the source has into a declaration, or says why it is none.
func read(row Declaration) (*ddm.Declaration, error) {
	switch {
	case row.Problem != "":
		return nil, errors.New(row.Problem)
	case len(row.Payload) > MaxDeclarationBytes:
		return nil, TooLargeError(len(row.Payload))
	case !utf8.ValidString(row.Identifier):
		return nil, invalid("Identifier", "must be valid UTF-8")
	case !utf8.ValidString(row.Type):
		return nil, invalid("Type", "must be valid UTF-8")
	case !json.Valid(row.Payload):
		// What is put together below would otherwise depend on what else the text holds.
		return nil, invalid("Payload", "is not JSON")
	}
	if err := checkServerToken(row.ServerToken); err != nil {
		return nil, err
	}
	var body []byte
	for _, part := range []struct {
		key   string
		value any
	}{{`{"Identifier":`, row.Identifier}, {`,"Type":`, row.Type}} {
		text, err := json.Marshal(part.value)
		if err != nil {
			return nil, err
		}
		body = append(append(body, part.key...), text...)
	}
	body = append(append(append(body, `,"Payload":`...), row.Payload...), '}')
	if len(body) > MaxDeclarationBytes {
		return nil, TooLargeError(len(body))
	}
	declaration, _, err := ddm.ParseDeclaration(body)
	if err != nil {
		return nil, err
	}
	declaration.ServerToken = row.ServerToken
	return declaration, nil
}

// invalid is the error for one field.
func invalid(field, message string) error {
	return &ddm.InvalidError{Problems: []ddm.Problem{{Field: field, Message: message}}}
}

// TooLargeError says that a declaration has too many octets.
type TooLargeError int

func (e TooLargeError) Error() string {
	return fmt.Sprintf("is too large: has %d octets or more, at most %d are taken", int(e), MaxDeclarationBytes)
}

// checkServerToken says what keeps a ServerToken from being one. Without it, every device would fetch the declaration again.
func checkServerToken(token string) error {
	switch {
	case token == "":
		return invalid("ServerToken", "is missing")
	case len(token) > maxServerToken:
		return invalid("ServerToken", fmt.Sprintf("must not be longer than %d octets, has %d", maxServerToken, len(token)))
	case !utf8.ValidString(token):
		return invalid("ServerToken", "must be valid UTF-8")
	}
	for _, character := range token {
		if unicode.IsControl(character) {
			return invalid("ServerToken", "must not contain control characters")
		}
	}
	return nil
}

// setDeclarations takes what sets hold.
func (r *run) setDeclarations() error {
	return take(r, r.source.SetDeclarations(r.ctx), func(row SetDeclaration) (storage.SetDeclaration, string, string) {
		reason := row.Problem
		if reason == "" {
			reason = problems(ddm.ValidateName("set", row.Set), ddm.ValidateIdentifier("declaration", row.Identifier))
		}
		return storage.SetDeclaration{Set: row.Set, Identifier: row.Identifier}, inSet(row.Set, row.Identifier), reason
	}, r.target.ImportSetDeclarations)
}

// enrollmentSets takes what sets enrollments have.
func (r *run) enrollmentSets() error {
	err := take(r, r.source.EnrollmentSets(r.ctx), func(row EnrollmentSet) (storage.EnrollmentSet, string, string) {
		reason := row.Problem
		if reason == "" {
			reason = problems(ddm.ValidateEnrollmentID("enrollment", row.EnrollmentID), ddm.ValidateName("set", row.Set))
		}
		return storage.EnrollmentSet{EnrollmentID: row.EnrollmentID, Set: row.Set}, ofEnrollment(row.EnrollmentID, row.Set), reason
	}, r.target.ImportEnrollmentSets)
	var unlistable *UnlistableError
	if errors.As(err, &unlistable) {
		r.refuse("the sets of enrollments", unlistable.Reason)
		return nil
	}
	return err
}

// take takes rows batch by batch. What comes of a row is what is to be put, how it is called, and what is wrong with it.
func take[Row, Put any](
	r *run, rows iter.Seq2[Row, error], look func(Row) (put Put, name, reason string),
	target func(context.Context, []Put, storage.ImportOptions) ([]storage.ImportResult, error),
) error {
	var batch []Put
	var names []string
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		results, err := target(r.ctx, batch, r.options)
		if err != nil {
			return err
		}
		for i, result := range results {
			switch {
			case errors.Is(result.Err, storage.ErrNotFound):
				r.refuse(names[i], "there is no such declaration here")
			case result.Err != nil:
				r.refuse(names[i], result.Err.Error())
			default:
				r.done(result.Changed)
			}
		}
		batch, names = batch[:0], names[:0]
		return nil
	}
	for row, err := range rows {
		if err != nil {
			return errors.Join(flush(), err)
		}
		put, name, reason := look(row)
		if reason != "" {
			r.refuse(name, reason)
			continue
		}
		batch, names = append(batch, put), append(names, name)
		if len(batch) == batchRows {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// inSet names a row. Names are quoted, whatever octets they have.
func inSet(set, identifier string) string {
	if identifier == "" {
		return fmt.Sprintf("set %q", set)
	}
	return fmt.Sprintf("declaration %q in set %q", identifier, set)
}

func ofEnrollment(id, set string) string {
	if set == "" {
		return fmt.Sprintf("enrollment %q", id)
	}
	return fmt.Sprintf("set %q of enrollment %q", set, id)
}

// problems joins what is wrong with the names of a row; it is empty if nothing is.
func problems(found ...*ddm.Problem) string {
	text := ""
	for _, problem := range found {
		if problem == nil {
			continue
		}
		if text != "" {
			text += "; "
		}
		text += problem.String()
	}
	return text
}
