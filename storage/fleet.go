package storage

import (
	"context"
	"time"
)

// DeclarationSummary is how many enrollments should have a declaration and what they say of it, as it was counted last.
type DeclarationSummary struct {
	Identifier string
	Type       string
	// ServerToken is the version that was counted; the current one while none was.
	ServerToken string
	// Assigned counts the enrollments whose sets hold it, each once, without those that have left. Current are those of
	// them that speak of ServerToken. The others are of the current ones: Active and Valid are those that say so, Invalid
	// those that have a problem with it, which do not count as valid.
	Assigned, Current, Active, Valid, Invalid int64
	// CountedAt is when the counting began; zero while it never did.
	CountedAt time.Time
}

// Pending is how many of those that should have it do not speak of it.
func (s *DeclarationSummary) Pending() int64 { return s.Assigned - s.Current }

// DeclarationState selects enrollments by what they say of a declaration that they should have.
type DeclarationState string

// The numbers of a DeclarationSummary, as lists.
const (
	StateAssigned DeclarationState = "assigned"
	StateCurrent  DeclarationState = "current"
	StateActive   DeclarationState = "active"
	StateValid    DeclarationState = "valid"
	StateInvalid  DeclarationState = "invalid"
	StatePending  DeclarationState = "pending"
)

// DeclarationStates are all of them.
var DeclarationStates = []DeclarationState{
	StateAssigned, StateCurrent, StateActive, StateValid, StateInvalid, StatePending,
}

// DeclarationEnrollment is an enrollment that should have a declaration, with what it says of it.
type DeclarationEnrollment struct {
	EnrollmentID string
	// Status is what it says of the current version, or else of the one of which it spoke last; nil if it says nothing.
	// Reasons longer than MaxListedReasons octets are left out.
	Status *DeclarationStatus
}

// MaxListedReasons is how long reasons are at most where many are listed.
const MaxListedReasons = 16 << 10

// ValueCount is how often a value is reported.
type ValueCount struct {
	// Key is the place of the value in the list, for Page.After: 32 hexadecimal digits.
	Key string
	// Value is JSON text, or the beginning of it.
	Value []byte
	// Cut says that Value is only the beginning.
	Cut   bool
	Count int64
	// More says that there are more than were counted.
	More bool
}

// MaxListedValue is how long a value is at most where many are listed.
const MaxListedValue = 4 << 10

// ProblemKey is what problems are grouped by.
type ProblemKey struct {
	Code string
	// Kind is what has the problem, "declaration" or "status-item", and Subject is its name.
	Kind, Subject string
}

// ProblemGroup is how many have a problem, with the newest of them as an example.
type ProblemGroup struct {
	ProblemKey
	Count int64
	// More says that there are more than were counted.
	More         bool
	EnrollmentID string
	ReceivedAt   time.Time
	// Error is what the device says of it, as JSON: the reasons of a declaration, the error of a status item. It is nil if
	// that is longer than MaxListedReasons octets, or not kept any more.
	Error []byte
}

// EnrollmentDeclaration is a declaration that an enrollment should have.
type EnrollmentDeclaration struct {
	Identifier, Type, Class, ServerToken string
	// Sets are those through which it should have it, the first MaxListedSets of them.
	Sets []string
}

// Fleet answers questions about what all devices say, each in bounded time. Next is where to go on, and empty or nil at the end;
// a page may be shorter than its limit before that.
type Fleet interface {
	// DeclarationSummaries returns those of the declarations in the order of their identifiers.
	DeclarationSummaries(ctx context.Context, page Page) ([]DeclarationSummary, error)
	// DeclarationSummary returns that of one declaration, or ErrNotFound.
	DeclarationSummary(ctx context.Context, identifier string) (*DeclarationSummary, error)
	// DeclarationEnrollments returns enrollments in the order of their ids. ErrNotFound: there is no such declaration.
	DeclarationEnrollments(ctx context.Context, identifier string, state DeclarationState, page Page) (
		list []DeclarationEnrollment, next string, err error)
	// StatusSummary counts how often each value of a path is reported, in no order that means anything. After is a Key.
	StatusSummary(ctx context.Context, path string, page Page) (list []ValueCount, next string, err error)
	// Problems counts those that there are now, in the order of their keys.
	Problems(ctx context.Context, after ProblemKey, limit int) (list []ProblemGroup, next *ProblemKey, err error)
	// EnrollmentDeclarations lists what an enrollment should have, in the order of identifiers; nothing for an unknown one.
	EnrollmentDeclarations(ctx context.Context, enrollmentID string) ([]EnrollmentDeclaration, error)
}

// Summaries keeps declaration summaries up to date.
type Summaries interface {
	// TouchedDeclarations returns those whose numbers may have changed since it was last called, by what this process did,
	// each once. All means that these are too many to tell.
	TouchedDeclarations(ctx context.Context) (identifiers []string, all bool, err error)
	// StaleSummaries returns declarations that were never counted, or not for so long, those first that wait longest.
	StaleSummaries(ctx context.Context, age time.Duration, limit int) ([]string, error)
	// CountDeclaration counts a declaration, unless that was begun less than an interval ago: then it returns how much of
	// that is left. Those of others that are in the same sets cost little more, and are counted along with it. It returns
	// which were counted. It calls rest between its statements, and ends with the error that rest returns. A declaration
	// that does not exist is none of its business.
	CountDeclaration(
		ctx context.Context, identifier string, others []string, interval time.Duration, rest func(context.Context) error,
	) (counted []string, early time.Duration, err error)
}
