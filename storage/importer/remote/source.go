package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/decree-ddm/decree/storage/importer"
)

const (
	// workers is how many requests are under way at once.
	workers = 8
	// atOnce is how many things are asked for before the first of them is handed on.
	atOnce = 2 * workers
	// maxAnswerBytes leaves room around the largest declaration.
	maxAnswerBytes = importer.MaxDeclarationBytes + 64<<10
	// maxListedSets is how many sets Decree lists with an enrollment at most.
	maxListedSets = 1000
)

// Source is an importer.Source over a server's API. It is for one goroutine.
type Source struct {
	client      *client
	enrollments io.Reader
	identifiers []string // of all declarations, once counted
	given       int      // ids of enrollments that were named
	withSets    int      // and how many of those have sets
}

var _ importer.Source = (*Source)(nil)

// Open checks that there is such a server at the address, and that it takes the key. If enrollments is not nil, the sets of
// those whose ids it has, one a line, are read; otherwise the server has to list its enrollments, which KMFDDM cannot.
func Open(ctx context.Context, address, key string, enrollments io.Reader) (*Source, error) {
	c, err := newClient(address, key)
	if err != nil {
		return nil, err
	}
	s := &Source{client: c, enrollments: enrollments}
	const path = "/v1/declarations"
	s.identifiers, err = s.list(ctx, path)
	switch {
	case is(err, http.StatusNotFound):
		return nil, fmt.Errorf("GET %s: %w: is this the address of the server, such as http://127.0.0.1:9002?", path, err)
	case err != nil:
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	return s, nil
}

// Count implements importer.Source.
func (s *Source) Count(_ context.Context, kind importer.Kind) (int, error) {
	if kind == importer.Declarations {
		return len(s.identifiers), nil
	}
	return -1, nil
}

// list returns a whole list of names.
func (s *Source) list(ctx context.Context, path string) ([]string, error) {
	var names []string
	err := pages(ctx, s.client, path, func(page []string) error {
		names = append(names, page...)
		return nil
	})
	return names, err
}

// fetch reads something for each name, several at once, and hands the results on in order.
func fetch[Result any](
	ctx context.Context, names []string, read func(ctx context.Context, name string) (Result, error), yield func(Result) bool,
) error {
	for chunk := range slices.Chunk(names, atOnce) {
		results := make([]Result, len(chunk))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(workers)
		for i, name := range chunk {
			group.Go(func() (err error) {
				results[i], err = read(ctx, name)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for _, result := range results {
			if !yield(result) {
				return errStopped
			}
		}
	}
	return nil
}

// errStopped says that nobody wants more.
var errStopped = errors.New("stopped")

// sequence makes a sequence of what a function hands on.
func sequence[Row any](produce func(yield func(Row) bool) error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		err := produce(func(row Row) bool { return yield(row, nil) })
		if err != nil && !errors.Is(err, errStopped) {
			var none Row
			yield(none, err)
		}
	}
}

// Declarations implements importer.Source.
func (s *Source) Declarations(ctx context.Context) iter.Seq2[importer.Declaration, error] {
	return sequence(func(yield func(importer.Declaration) bool) error {
		return fetch(ctx, s.identifiers, s.Declaration, yield)
	})
}

// Declaration implements importer.Source.
func (s *Source) Declaration(ctx context.Context, identifier string) (importer.Declaration, error) {
	path := "/v1/declarations/" + url.PathEscape(identifier)
	row := importer.Declaration{Identifier: identifier}
	body, _, err := s.client.get(ctx, path, nil, maxAnswerBytes)
	switch {
	case errors.Is(err, errTooLarge):
		row.Problem = importer.TooLargeError(maxAnswerBytes).Error()
		return row, nil
	case err != nil:
		row.Problem, err = ofOne(path, err)
		return row, err
	}
	answer, err := decode[struct {
		Identifier, Type, ServerToken string
		Payload                       json.RawMessage
	}](body)
	switch {
	case err != nil:
		row.Problem = err.Error()
	case answer.Identifier != identifier:
		row.Problem = fmt.Sprintf("the server answers with another declaration, %q", answer.Identifier)
	case answer.Payload == nil:
		row.Problem = "Payload: is missing"
	default:
		row.Type, row.ServerToken, row.Payload = answer.Type, answer.ServerToken, answer.Payload
	}
	return row, nil
}

// ofOne says of an error whether it is about the one thing that was asked for. Otherwise the server, or what is in front
// of it, does not work.
func ofOne(path string, err error) (problem string, whole error) {
	var answered *statusError
	var malformed *malformedError
	if errors.As(err, &malformed) || errors.As(err, &answered) && !is(err, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout) {
		return err.Error(), nil
	}
	return "", fmt.Errorf("GET %s: %w", path, err)
}

// SetDeclarations implements importer.Source.
func (s *Source) SetDeclarations(ctx context.Context) iter.Seq2[importer.SetDeclaration, error] {
	return sequence(func(yield func(importer.SetDeclaration) bool) error {
		const path = "/v1/sets"
		sets, err := s.list(ctx, path)
		if err != nil {
			return fmt.Errorf("GET %s: %w", path, err)
		}
		return fetch(ctx, sets, func(ctx context.Context, set string) (found names, err error) {
			return s.names(ctx, "/v1/set-declarations/", set)
		}, func(found names) bool {
			if found.problem != "" {
				return yield(importer.SetDeclaration{Set: found.of, Problem: found.problem})
			}
			for _, identifier := range found.list {
				if !yield(importer.SetDeclaration{Set: found.of, Identifier: identifier}) {
					return false
				}
			}
			return true
		})
	})
}

// names are the list of names that belong to a set or an enrollment, or why there is none.
type names struct {
	of      string
	list    []string
	problem string
}

// names reads a list of names.
func (s *Source) names(ctx context.Context, prefix, of string) (found names, err error) {
	path := prefix + url.PathEscape(of)
	found.of = of
	if found.list, err = s.list(ctx, path); err != nil {
		found.problem, err = ofOne(path, err)
	}
	return found, err
}

// EnrollmentSets implements importer.Source.
func (s *Source) EnrollmentSets(ctx context.Context) iter.Seq2[importer.EnrollmentSet, error] {
	return sequence(func(yield func(importer.EnrollmentSet) bool) error {
		if s.enrollments != nil {
			return s.namedEnrollments(ctx, yield)
		}
		return s.listedEnrollments(ctx, yield)
	})
}

// Named returns how many ids of enrollments have been read, and how many of those have sets at the server: a server does
// not say of an id that it does not know it.
func (s *Source) Named() (given, withSets int) { return s.given, s.withSets }

// byteOrderMark is what some editors and databases begin a text with.
const byteOrderMark = "\ufeff"

// readID reads the id in a line of the list of those that are named; it is empty if the line is. An id that is written in
// another way than the server's would be one that nobody has.
func readID(line string) (string, error) {
	id := strings.TrimSpace(line)
	switch {
	case !utf8.ValidString(id):
		return "", errors.New("is not valid UTF-8")
	case strings.ContainsRune(id, 0):
		return "", errors.New("has a NUL: is the file in UTF-8?")
	case strings.HasPrefix(id, `"`) || strings.HasPrefix(id, "'"):
		return "", errors.New("is in quotes: write the id as it is")
	}
	return id, nil
}

// namedEnrollments reads the sets of the enrollments that were named.
func (s *Source) namedEnrollments(ctx context.Context, yield func(importer.EnrollmentSet) bool) error {
	lines := bufio.NewScanner(s.enrollments)
	var ids []string
	last := ""
	flush := func() error {
		defer func() { ids = ids[:0] }()
		return s.setsOf(ctx, ids, func(row importer.EnrollmentSet) bool {
			if row.Set != "" && row.EnrollmentID != last {
				s.withSets++
				last = row.EnrollmentID // its rows come one after the other
			}
			return yield(row)
		})
	}
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		if number == 1 {
			line = strings.TrimPrefix(line, byteOrderMark)
		}
		id, err := readID(line)
		if err != nil {
			return fmt.Errorf("reading the enrollments' ids: line %d %w", number, err)
		}
		if id == "" {
			continue
		}
		s.given++
		if ids = append(ids, id); len(ids) == atOnce {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the enrollments' ids: %w", err)
	}
	return flush()
}

// setsOf reads the sets of enrollments.
func (s *Source) setsOf(ctx context.Context, ids []string, yield func(importer.EnrollmentSet) bool) error {
	return fetch(ctx, ids, func(ctx context.Context, id string) (names, error) {
		return s.names(ctx, "/v1/enrollment-sets/", id)
	}, func(found names) bool {
		if found.problem != "" {
			return yield(importer.EnrollmentSet{EnrollmentID: found.of, Problem: found.problem})
		}
		return yieldSets(found.of, found.list, yield)
	})
}

func yieldSets(id string, sets []string, yield func(importer.EnrollmentSet) bool) bool {
	for _, set := range sets {
		if !yield(importer.EnrollmentSet{EnrollmentID: id, Set: set}) {
			return false
		}
	}
	return true
}

// listedEnrollments reads the list of enrollments, which is Decree's own addition.
func (s *Source) listedEnrollments(ctx context.Context, yield func(importer.EnrollmentSet) bool) error {
	type enrollment struct {
		ID   *string   `json:"id"`
		Sets *[]string `json:"sets"`
	}
	const path = "/v1/enrollments"
	err := pages(ctx, s.client, path, func(page []enrollment) error {
		var long []string
		for _, one := range page {
			if one.ID == nil || one.Sets == nil {
				return &importer.UnlistableError{Reason: unlistable}
			}
			if len(*one.Sets) >= maxListedSets {
				long = append(long, *one.ID)
			} else if !yieldSets(*one.ID, *one.Sets, yield) {
				return errStopped
			}
		}
		return s.setsOf(ctx, long, yield)
	})
	var malformed *malformedError
	switch {
	case is(err, http.StatusNotFound, http.StatusMethodNotAllowed), errors.As(err, &malformed):
		return &importer.UnlistableError{Reason: unlistable}
	case err != nil:
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

const unlistable = "the server does not list its enrollments: name them with -enrollments FILE, one id a line"
