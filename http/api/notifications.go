package api

import (
	"net/http"

	"github.com/decree-ddm/decree/http/edge"
)

type notifications struct {
	Due       int      `json:"due"`
	Leased    int      `json:"leased"`
	Waiting   int      `json:"waiting"`
	Failing   failing  `json:"failing"`
	OldestDue string   `json:"oldest_due,omitempty"`
	Fanouts   int      `json:"fanouts"`
	Bound     int      `json:"bound"`
	Rate      *float64 `json:"rate,omitempty"`
	Breaker   *breaker `json:"breaker,omitempty"`
}

type failing struct {
	Total   int            `json:"total"`
	ByError []failingError `json:"by_error"`
}

type failingError struct {
	Error string `json:"error"`
	Count int    `json:"count"`
}

type breaker struct {
	Open      bool   `json:"open"`
	Failures  int    `json:"failures"`
	NextProbe string `json:"next_probe,omitempty"`
}

// getNotifications answers with the queue in numbers.
func (a *api) getNotifications(w http.ResponseWriter, r *http.Request) error {
	numbers, err := a.Store.QueueNumbers(r.Context())
	if err != nil {
		return err
	}
	answer := notifications{
		Due:       numbers.Due,
		Leased:    numbers.Leased,
		Waiting:   numbers.Waiting,
		Failing:   failing{numbers.Failing, []failingError{}},
		OldestDue: timestamp(numbers.OldestDue),
		Fanouts:   numbers.Fanouts,
		Bound:     numbers.Bound,
	}
	for _, by := range numbers.FailingBy {
		answer.Failing.ByError = append(answer.Failing.ByError, failingError(by))
	}
	if a.Rate != nil {
		rate := a.Rate()
		answer.Rate = &rate
	}
	if a.Breaker != nil {
		open, failures, next := a.Breaker()
		answer.Breaker = &breaker{open, failures, timestamp(next)}
	}
	return edge.WriteJSON(w, http.StatusOK, answer)
}
