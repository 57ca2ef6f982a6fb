package api

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

// maxValueText is how many octets of a value are shown where values are counted.
const maxValueText = 1000

type declarationSummary struct {
	Identifier  string `json:"identifier"`
	Type        string `json:"type"`
	ServerToken string `json:"server_token"`
	*summaryCounts
}

// summaryCounts are left out of a summary until they are known.
type summaryCounts struct {
	Assigned int64  `json:"assigned"`
	Current  int64  `json:"current"`
	Active   int64  `json:"active"`
	Valid    int64  `json:"valid"`
	Invalid  int64  `json:"invalid"`
	Pending  int64  `json:"pending"`
	AsOf     string `json:"as_of"`
}

func declarationSummaryOf(s storage.DeclarationSummary) declarationSummary {
	answer := declarationSummary{Identifier: s.Identifier, Type: s.Type, ServerToken: s.ServerToken}
	if !s.CountedAt.IsZero() {
		answer.summaryCounts = &summaryCounts{
			Assigned: s.Assigned,
			Current:  s.Current,
			Active:   s.Active,
			Valid:    s.Valid,
			Invalid:  s.Invalid,
			Pending:  s.Pending(),
			AsOf:     timestamp(s.CountedAt),
		}
	}
	return answer
}

func (a *api) getDeclarationSummaries(w http.ResponseWriter, r *http.Request) error {
	q, page, err := pageQuery(r)
	if err != nil {
		return err
	}
	// One more than asked for tells whether there is a next page.
	found, err := a.Store.DeclarationSummaries(r.Context(), storage.Page{After: page.After, Limit: page.Limit + 1})
	if err != nil {
		return err
	}
	next := ""
	if len(found) > page.Limit {
		found = found[:page.Limit]
		next = found[page.Limit-1].Identifier
	}
	return writePage(w, r, q, page.Limit, next, convert(found, declarationSummaryOf))
}

func (a *api) getDeclarationSummary(w http.ResponseWriter, r *http.Request) error {
	id, err := pathName(r, "id")
	if err != nil {
		return err
	}
	found, err := a.Store.DeclarationSummary(r.Context(), id)
	if err != nil {
		return unknownDeclaration(err, id)
	}
	return edge.WriteJSON(w, http.StatusOK, declarationSummaryOf(*found))
}

type declarationEnrollment struct {
	EnrollmentID string `json:"enrollment_id"`
	*saying
}

// saying is what a device says of one version of a declaration.
type saying struct {
	ServerToken    string          `json:"server-token"`
	Current        bool            `json:"current"`
	Active         bool            `json:"active"`
	Valid          string          `json:"valid"`
	Reasons        json.RawMessage `json:"reasons,omitempty"`
	StatusReceived string          `json:"status_received"`
	StatusID       int64           `json:"status_id,string"`
}

func sayingOf(s *storage.DeclarationStatus) *saying {
	if s == nil {
		return nil
	}
	return &saying{
		ServerToken:    s.ServerToken,
		Current:        s.Current,
		Active:         s.Active,
		Valid:          s.Valid,
		Reasons:        s.Reasons,
		StatusReceived: timestamp(s.ReceivedAt),
		StatusID:       s.StatusID,
	}
}

func (a *api) getDeclarationEnrollments(w http.ResponseWriter, r *http.Request) error {
	id, err := pathName(r, "id")
	if err != nil {
		return err
	}
	q, page, err := pageQuery(r)
	if err != nil {
		return err
	}
	name, given, err := q.one("state")
	if err != nil {
		return err
	}
	state := storage.DeclarationState(name)
	if !given {
		state = storage.StateAssigned
	}
	if !slices.Contains(storage.DeclarationStates, state) {
		return invalid("state", "must be one of %s",
			strings.Join(convert(storage.DeclarationStates, func(s storage.DeclarationState) string { return string(s) }), ", "))
	}
	found, next, err := a.Store.DeclarationEnrollments(r.Context(), id, state, page)
	if err != nil {
		return unknownDeclaration(err, id)
	}
	return writePage(w, r, q, page.Limit, next,
		convert(found, func(e storage.DeclarationEnrollment) declarationEnrollment {
			return declarationEnrollment{e.EnrollmentID, sayingOf(e.Status)}
		}))
}

type valueCount struct {
	Value     string `json:"value"`
	Shortened bool   `json:"shortened,omitempty"`
	Count     int64  `json:"count"`
	AtLeast   bool   `json:"at_least,omitempty"`
}

// valueKeyLength is that of the keys of values, as they stand in the query.
const valueKeyLength = 32

func (a *api) getStatusSummary(w http.ResponseWriter, r *http.Request) error {
	q, page, err := pageQuery(r)
	if err != nil {
		return err
	}
	path, err := q.required("path")
	if err != nil {
		return err
	}
	if _, err := hex.DecodeString(page.After); err != nil || page.After != "" && len(page.After) != valueKeyLength {
		return invalid("after", "must be from the Link of another page")
	}
	found, next, err := a.Store.StatusSummary(r.Context(), path, page)
	if err != nil {
		return err
	}
	list := convert(found, func(v storage.ValueCount) valueCount {
		value := valueCount{Value: string(v.Value), Shortened: v.Cut, Count: v.Count, AtLeast: v.More}
		if !v.Cut {
			value.Value = valueText(v.Value)
		}
		value.shorten()
		return value
	})
	// The order of the list means nothing, so that within a page there can be one that does.
	slices.SortStableFunc(list, func(a, b valueCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Value, b.Value))
	})
	return writePage(w, r, q, page.Limit, next, list)
}

// shorten cuts a value that is too long, between two characters.
func (v *valueCount) shorten() {
	if len(v.Value) <= maxValueText {
		return
	}
	end := maxValueText
	for end > maxValueText-utf8.UTFMax && !utf8.RuneStart(v.Value[end]) {
		end--
	}
	v.Value, v.Shortened = v.Value[:end], true
}

type problemGroup struct {
	Code           string         `json:"code"`
	Kind           string         `json:"kind"`
	Subject        string         `json:"subject"`
	Count          int64          `json:"count"`
	AtLeast        bool           `json:"at_least,omitempty"`
	NewestReceived string         `json:"newest_received"`
	Example        problemExample `json:"example"`
}

type problemExample struct {
	EnrollmentID string          `json:"enrollment_id"`
	Reasons      json.RawMessage `json:"reasons,omitempty"`
	Error        json.RawMessage `json:"error,omitempty"`
}

const kindDeclaration = "declaration"

func (a *api) getProblems(w http.ResponseWriter, r *http.Request) error {
	q, page, err := pageQuery(r)
	if err != nil {
		return err
	}
	after, err := parseProblemKey(page.After)
	if err != nil {
		return err
	}
	found, last, err := a.Store.Problems(r.Context(), after, page.Limit)
	if err != nil {
		return err
	}
	next := ""
	if last != nil {
		next = problemKeyText(*last)
	}
	return writePage(w, r, q, page.Limit, next, convert(found, func(p storage.ProblemGroup) problemGroup {
		answer := problemGroup{
			Code:           p.Code,
			Kind:           p.Kind,
			Subject:        p.Subject,
			Count:          p.Count,
			AtLeast:        p.More,
			NewestReceived: timestamp(p.ReceivedAt),
			Example:        problemExample{EnrollmentID: p.EnrollmentID},
		}
		if p.Kind == kindDeclaration {
			answer.Example.Reasons = p.Error
		} else {
			answer.Example.Error = p.Error
		}
		return answer
	}))
}

// problemKeyText is a key as it stands in the query: what is in it can be any text.
func problemKeyText(key storage.ProblemKey) string {
	text, err := json.Marshal([]string{key.Code, key.Kind, key.Subject})
	if err != nil {
		panic(err) // never fails for texts
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseProblemKey(text string) (key storage.ProblemKey, err error) {
	if text == "" {
		return key, nil
	}
	var parts []string
	content, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(content, &parts) != nil || len(parts) != 3 {
		return key, invalid("after", "must be from the Link of another page")
	}
	return storage.ProblemKey{Code: parts[0], Kind: parts[1], Subject: parts[2]}, nil
}

type enrollmentDeclaration struct {
	Identifier  string   `json:"identifier"`
	Type        string   `json:"type,omitempty"`
	Class       string   `json:"class,omitempty"`
	ServerToken string   `json:"server_token,omitempty"`
	Sets        []string `json:"sets"`
	// Wanted is whether the device should have it.
	Wanted bool      `json:"wanted"`
	Status []*saying `json:"status"`
}

// getEnrollmentDeclarations answers with what a device should have and what it says of that, and of anything else.
func (a *api) getEnrollmentDeclarations(w http.ResponseWriter, r *http.Request) error {
	id, err := pathName(r, "id")
	if err != nil {
		return err
	}
	e, _, err := a.Store.Enrollment(r.Context(), id)
	if err != nil {
		return err
	}
	if !e.Known {
		return unknownEnrollment(id)
	}
	wanted, err := a.Store.EnrollmentDeclarations(r.Context(), id)
	if err != nil {
		return err
	}
	statuses, err := a.Store.DeclarationStatuses(r.Context(), id)
	if err != nil {
		return err
	}
	list := convert(wanted, func(d storage.EnrollmentDeclaration) *enrollmentDeclaration {
		return &enrollmentDeclaration{d.Identifier, d.Type, d.Class, d.ServerToken, d.Sets, true, []*saying{}}
	})
	if a.Shard {
		shard := ddm.ShardDeclaration(id)
		list = append(list, &enrollmentDeclaration{
			shard.Identifier, shard.Type, string(shard.Class), shard.ServerToken, []string{}, true, []*saying{},
		})
	}
	known := map[string]*enrollmentDeclaration{}
	for _, d := range list {
		known[d.Identifier] = d
	}
	for i := range statuses {
		d := known[statuses[i].Identifier]
		if d == nil {
			d = &enrollmentDeclaration{Identifier: statuses[i].Identifier, Sets: []string{}}
			known[d.Identifier] = d
			list = append(list, d)
		}
		d.Status = append(d.Status, sayingOf(&statuses[i]))
	}
	slices.SortFunc(list, func(a, b *enrollmentDeclaration) int { return strings.Compare(a.Identifier, b.Identifier) })
	return edge.WriteJSON(w, http.StatusOK, list)
}

// pageQuery reads the query string of a list that has pages always.
func pageQuery(r *http.Request) (q query, page storage.Page, err error) {
	if q, err = parseQuery(r); err == nil {
		page, err = q.page(usualPage, maxPage)
	}
	return q, page, err
}

// writePage answers with a page of a list, and says where the next one is, if there is one.
func writePage(w http.ResponseWriter, r *http.Request, q query, limit int, next string, list any) error {
	if next != "" {
		linkNext(w, r, q, storage.Page{After: next, Limit: limit})
	}
	return edge.WriteJSON(w, http.StatusOK, list)
}
