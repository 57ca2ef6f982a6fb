package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// changeRow is a row of the log of changes.
type changeRow struct {
	ID           int64          `json:"id"`
	ChangeID     string         `json:"change_id"`
	At           time.Time      `json:"at"`
	Key          string         `json:"key"`
	Action       storage.Action `json:"action"`
	Declaration  string         `json:"declaration,omitempty"`
	FromToken    string         `json:"from_token,omitempty"`
	ToToken      string         `json:"to_token,omitempty"`
	Set          string         `json:"set,omitempty"`
	EnrollmentID string         `json:"enrollment_id,omitempty"`
	Count        int64          `json:"count,omitempty"`
	NoNotify     bool           `json:"nonotify"`
	*reach
}

// reach is left out of a row where another one tells it.
type reach struct {
	Reached  int64 `json:"reached"`
	Finished bool  `json:"finished"`
}

func changeRowOf(c storage.Change) changeRow {
	row := changeRow{
		ID:           c.ID,
		ChangeID:     c.ChangeID,
		At:           c.At,
		Key:          c.By,
		Action:       c.Action,
		Declaration:  c.Declaration,
		FromToken:    c.FromToken,
		ToToken:      c.ToToken,
		Set:          c.Set,
		EnrollmentID: c.EnrollmentID,
		Count:        c.Amount,
		NoNotify:     c.Held,
	}
	if c.Reach != nil {
		row.reach = &reach{c.Reach.Enrollments, c.Reach.Finished}
	}
	return row
}

// getChanges answers with a page of the log of changes.
func (a *api) getChanges(w http.ResponseWriter, r *http.Request) error {
	q, page, err := pageQuery(r)
	if err != nil {
		return err
	}
	query, err := changeQuery(q)
	if err != nil {
		return err
	}
	query.Limit = page.Limit
	if query.After, err = parseChangePlace(page.After); err != nil {
		return err
	}
	found, last, err := a.Store.Changes(r.Context(), query)
	if err != nil {
		return err
	}
	next := ""
	if last != nil {
		next = changePlaceText(*last)
	}
	return writePage(w, r, q, page.Limit, next, convert(found, changeRowOf))
}

// changeQuery reads the filters.
func changeQuery(q query) (query storage.ChangeQuery, err error) {
	var action string
	texts := map[string]*string{
		"change_id": &query.ChangeID, "key": &query.By, "declaration": &query.Declaration, "set": &query.Set,
		"enrollment_id": &query.EnrollmentID, "action": &action,
	}
	times := map[string]*time.Time{"since": &query.Since, "until": &query.Until}
	for name, into := range texts {
		if *into, err = q.optional(name); err != nil {
			return query, err
		}
	}
	for name, into := range times {
		if *into, err = q.instant(name); err != nil {
			return query, err
		}
	}
	query.Action = storage.Action(action)
	if action != "" && !slices.Contains(storage.Actions, query.Action) {
		return query, invalid("action", "must be one of %s",
			strings.Join(convert(storage.Actions, func(a storage.Action) string { return string(a) }), ", "))
	}
	return query, nil
}

// changePlaceText is a place in the log as it stands in the query.
func changePlaceText(place storage.ChangePlace) string {
	return placeText(place.At, strconv.FormatInt(place.ID, 10))
}

func parseChangePlace(text string) (place storage.ChangePlace, err error) {
	if text == "" {
		return place, nil
	}
	at, rest, err := parsePlace(text)
	if err != nil {
		return place, err
	}
	id, err := strconv.ParseInt(rest, 10, 64)
	if err != nil || id <= 0 {
		return place, errNoPlace
	}
	return storage.ChangePlace{At: at, ID: id}, nil
}
