package storage

import (
	"context"
	"time"

	"github.com/decree-ddm/decree/ddm"
)

// Checks reads a whole database for whoever verifies what always holds in it. What one call returns is of one snapshot, so
// that nothing in it is half of a change that is being made. Pages are short: an empty one is the end.
type Checks interface {
	// DatabaseErrors returns what the database finds wrong with itself; nothing where it has no check of its own that a
	// server could work beside.
	DatabaseErrors(ctx context.Context) ([]string, error)
	// References names the kinds of references from some rows to others.
	References() []string
	// DanglingReferences looks at a page of what the references of a kind name, and returns those names that nothing has,
	// with the last one that was looked at. That is empty at the end.
	DanglingReferences(ctx context.Context, reference string, page Page) (dangling []string, last string, err error)
	CheckedDeclarations(ctx context.Context, page Page) ([]CheckedDeclaration, error)
	// CheckedVersions pages by identifier: those of one are never torn apart.
	CheckedVersions(ctx context.Context, page Page) ([]CheckedVersions, error)
	CheckedManifests(ctx context.Context, page Page) ([]CheckedManifest, error)
	// CheckedEnrollments also returns the contents, by name, of the sets in the vectors that are not known.
	CheckedEnrollments(ctx context.Context, page Page, known func(SetVersion) bool) (
		[]CheckedEnrollment, map[string][]ddm.Item, error)
	// CheckStatus has check look at what is known of a device, which must not be kept.
	CheckStatus(ctx context.Context, enrollmentID string, check func(*CheckedStatus) error) error
	CheckedLog(ctx context.Context) (CheckedLog, error)
	// CheckedChanges returns rows of the log of changes behind one, in the order of their ids.
	CheckedChanges(ctx context.Context, after int64, limit int) ([]CheckedChange, error)
}

// CheckedDeclaration is a declaration with all that is stored about its content.
type CheckedDeclaration struct {
	Identifier, Type string
	Class            ddm.Class
	ServerToken      string
	ContentHash      string
	// Version is the content of the current version, nil if there is none.
	Version    *ddm.Declaration
	References []string // sorted
	// Logged says that the log of changes has a change of its content, of which the last was to LoggedToken.
	Logged      bool
	LoggedToken string
}

// CheckedVersions are the versions of a declaration, which may be gone.
type CheckedVersions struct {
	Identifier string
	Current    string   // the current ServerToken, empty if the declaration is gone
	Replaced   []string // ServerTokens of the versions that are said to be replaced
	Unreplaced []string // and of the others
	// Collected says that one of them at least is to be looked at when it is old.
	Collected bool
}

// CheckedManifest is a manifest that was served under a token.
type CheckedManifest struct {
	Token string
	Items []byte
}

// CheckedEnrollment is an enrollment's place in the queue with what it is composed from.
type CheckedEnrollment struct {
	Enrollment
	Vector Vector
	// FanoutPending says that a fan-out of one of its sets is still to reach it.
	FanoutPending     bool
	Priority          int64
	ForceSeq, SentSeq int64
	LeaseID, LeaseSeq bool // whether these are set
	LeaseUntil        time.Time
	HasStatus         bool // there is something for CheckStatus
}

// CheckedStatus is what is known of a device, and what it was made from.
type CheckedStatus struct {
	// Reports are the ids of the reports that are kept, in the order in which they came.
	Reports []int64
	// Report reads one.
	Report func(id int64) ([]byte, error)
	// ItemError returns the status item that an error is about, and the code, if it is about one.
	ItemError func(e *ddm.StatusError) (item, code string, ok bool)

	Values       []CheckedValue
	Declarations []CheckedDeclarationStatus
	Problems     []CheckedProblem
	// Facts are as stored, and Derived as they follow from the values.
	Facts, Derived CheckedFacts
}

// CheckedValue is a value, or an element of a list, that is kept of a device.
type CheckedValue struct {
	Path, Element string
	Value         string // JSON text
	ReportID      int64
	HashesMatch   bool // what it is found and compared by is of this path, element and value
}

// CheckedDeclarationStatus is what is kept of what a device says of a declaration.
type CheckedDeclarationStatus struct {
	Identifier, ServerToken string
	Class, Valid, Reasons   string
	Active                  bool
	ReportID                int64
	Problem                 string // the code of what is wrong by this, if something is
}

// CheckedProblem is a problem that is kept of a device.
type CheckedProblem struct {
	Declaration bool // else it is a status item
	Subject     string
	ServerToken string
	Code        string
}

// CheckedFacts are facts with what they are searched by.
type CheckedFacts struct {
	Facts
	OSOrder      string
	Capabilities string // the id of the list of what is supported
	Confirmed    bool   // ConfirmedAt is set
}

// CheckedChange is a row of the log of changes.
type CheckedChange struct {
	ID       int64
	By       string
	Action   Action
	HasReach bool
	// Waiting is for how many fan-outs it is said to wait, Links is how many are noted, and Fanouts how many of them are there.
	Waiting, Links, Fanouts int64
}

// CheckedLog is the state of the log of happenings.
type CheckedLog struct {
	Lost           bool // nothing says where it ends; the rest is not known then
	LastID         int64
	DeliveredID    int64 // 0 where nothing is delivered
	Oldest, Newest int64 // 0 where there is none
	Count          int64
}
