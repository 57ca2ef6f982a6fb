package storage

import (
	"context"
	"time"
)

// Action is what a change does.
type Action string

// The actions.
const (
	ActionPutDeclaration      Action = "declaration.put"
	ActionTouchDeclaration    Action = "declaration.touch"
	ActionDeleteDeclaration   Action = "declaration.delete"
	ActionRollbackDeclaration Action = "declaration.rollback"
	ActionPutSetDeclaration   Action = "set-declaration.put"
	ActionDropSetDeclaration  Action = "set-declaration.delete"
	ActionPutEnrollmentSet    Action = "enrollment-set.put"
	ActionDropEnrollmentSet   Action = "enrollment-set.delete"
	ActionDropEnrollmentSets  Action = "enrollment-sets.delete"
	ActionDeleteEnrollment    Action = "enrollment.delete"
	ActionNotify              Action = "notify"
	ActionImport              Action = "import"
	ActionRestore             Action = "restore"
)

// Actions are all the actions.
var Actions = []Action{
	ActionPutDeclaration, ActionTouchDeclaration, ActionDeleteDeclaration, ActionRollbackDeclaration,
	ActionPutSetDeclaration, ActionDropSetDeclaration, ActionPutEnrollmentSet, ActionDropEnrollmentSet, ActionDropEnrollmentSets, ActionDeleteEnrollment, ActionNotify,
	ActionImport, ActionRestore,
}

// Who changes something without an API key. No key has such a name, since these have spaces in them.
const (
	ByEvent   = "mdm event"
	ByImport  = "decree import"
	ByRestore = "decree restore"
)

// Change is a row of the log of changes. Empty texts are what the change is not about.
type Change struct {
	// ID is of this row. Rows that are made one after the other, such as those of one declaration, have ascending ids.
	ID int64
	// ChangeID is that of the ChangeOptions. The rows of an import share it, and so do those of the sets that are lost at once.
	ChangeID string
	At       time.Time
	By       string
	Action   Action

	Declaration, Set, EnrollmentID string
	// FromToken and ToToken are the ServerTokens of the declaration before and after; empty where there was, or is, none.
	FromToken, ToToken string
	// Held says that nobody is told because of it.
	Held bool
	// Amount is how many things it is about, where it is not one.
	Amount int64
	// Reach is nil where another row with the same ChangeID tells that of all: of a batch that with ActionImport, of the sets
	// that an enrollment lost at once that with ActionDropEnrollmentSets or ActionDeleteEnrollment.
	Reach *Reach
}

// Reach is how many enrollments a change has marked. One that has several of the sets that changed counts for each.
type Reach struct {
	Enrollments int64
	// Finished says that all are marked, and counted.
	Finished bool
}

// ChangePlace is a place in the log of changes.
type ChangePlace struct {
	At time.Time
	ID int64
}

// ChangeQuery selects rows of the log of changes. Zero values select all.
type ChangeQuery struct {
	ChangeID, By, Declaration, Set, EnrollmentID string
	Action                                       Action
	// Since is the first time, and Until the first beyond the last.
	Since, Until time.Time
	// After is the row after which to go on.
	After ChangePlace
	// Limit must be positive.
	Limit int
}

// Changes is the log of changes: what was changed, by whom, and from what to what. Each change of declarations, sets and the
// sets of enrollments writes it in its own transaction, so that it tells all that was committed and nothing else. How many
// enrollments a change has reached is written when that is known.
type Changes interface {
	// Changes returns a page of the log, the newest first. It looks at a bounded number of rows: next is where to go on, nil
	// at the end, and a page may be shorter than its limit before that.
	Changes(ctx context.Context, query ChangeQuery) (list []Change, next *ChangePlace, err error)
}
