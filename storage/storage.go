// Package storage is the contract between Decree's adapters and its database: the types, the errors and the
// small interfaces that say what a backend promises. It holds no SQL; storage/sqlstore implements it once for
// every database, and storage/storagetest is the suite that each backend passes.
//
// Every method that changes something does so in one transaction, all of it or none, and is durable when it
// returns nil. Deadlocks, lock time-outs and a busy database are retried inside; callers see neither them nor a
// driver's error value, except wrapped in an error that matches none of this package's, or in a *NotReadyError: that is
// what any method returns when the database is away, too slow, held by somebody or cannot be written to.
//
// All methods are safe for concurrent use, also by several processes over one MySQL or MariaDB database.
package storage

import (
	"context"
	"time"

	"github.com/decree-ddm/decree/ddm"
)

// ChangeOptions says who makes a change, and how it reaches devices.
type ChangeOptions struct {
	// ChangeID names the change in logs and in the log of changes.
	ChangeID string
	// Held is nonotify: what is desired changes, and nobody is told until something else tells them.
	Held bool
	// By is who makes the change, for the log of changes: the name of an API key, or one of ByEvent, ByImport and ByRestore.
	By string
}

// Page selects a piece of a list that is sorted by bytes: at most Limit (which must be positive) elements that
// sort after After.
type Page struct {
	After string
	Limit int
}

// Declarations keeps declarations. Identifiers are compared byte by byte.
type Declarations interface {
	// PutDeclaration creates or replaces a declaration and reports whether anything changed. A different order of
	// keys or other white space is no change. It returns *MissingReferencesError when the declaration refers to
	// declarations that do not exist.
	PutDeclaration(ctx context.Context, declaration *ddm.Declaration, options ChangeOptions) (changed bool, err error)
	// TouchDeclaration gives a declaration a new ServerToken without a change of its content, or returns ErrNotFound.
	TouchDeclaration(ctx context.Context, identifier string, options ChangeOptions) error
	// DeleteDeclaration reports whether there was something to delete. It returns *InUseError while a set holds the
	// declaration or another declaration refers to it.
	DeleteDeclaration(ctx context.Context, identifier string, options ChangeOptions) (changed bool, err error)
	// RollbackDeclaration puts the content of an earlier version, also of a declaration that was deleted, and reports whether
	// that is another one than now. Its ServerToken follows the rules of any content that is put. It returns ErrNotFound when
	// there is no such version, and *MissingReferencesError as PutDeclaration does.
	RollbackDeclaration(ctx context.Context, identifier, serverToken string, options ChangeOptions) (changed bool, err error)
	// DeclarationVersions lists the versions that are kept of a declaration, which may be deleted: the current one, and then
	// the others, those first that were current last. Next is where to go on, nil at the end. ErrNotFound: there are none.
	DeclarationVersions(ctx context.Context, identifier string, after VersionPlace, limit int) (
		list []Version, next *VersionPlace, err error)
	// Declaration returns a declaration as it is now, or ErrNotFound.
	Declaration(ctx context.Context, identifier string) (*ddm.Declaration, error)
	// DeclarationIdentifiers lists all identifiers.
	DeclarationIdentifiers(ctx context.Context, page Page) ([]string, error)
	// DeclarationSets lists the sets that hold a declaration; none for an unknown one.
	DeclarationSets(ctx context.Context, identifier string, page Page) ([]string, error)
}

// Version is a version of a declaration, without its content.
type Version struct {
	ServerToken, Type string
	CreatedAt         time.Time
	ReplacedAt        time.Time // zero: it is the current one
	By                string    // who made it, empty if that is not known
}

// VersionPlace is the place of a version in a list: after the zero value there are all.
type VersionPlace struct {
	ReplacedAt  time.Time
	ServerToken string
}

// Sets keeps which declarations each set holds. A set needs no creation: it exists as long as it holds something.
type Sets interface {
	// PutSetDeclaration adds a declaration to a set and reports whether it was not in it. ErrNotFound: there is no
	// such declaration.
	PutSetDeclaration(ctx context.Context, set, identifier string, options ChangeOptions) (changed bool, err error)
	// DeleteSetDeclaration takes a declaration out of a set and reports whether it was in it.
	DeleteSetDeclaration(ctx context.Context, set, identifier string, options ChangeOptions) (changed bool, err error)
	// SetNames lists the sets that hold at least one declaration.
	SetNames(ctx context.Context, page Page) ([]string, error)
	// SetDeclarations lists what a set holds; nothing for an unknown set.
	SetDeclarations(ctx context.Context, set string, page Page) ([]string, error)
}

// EnrollmentSets keeps which sets each enrollment has.
type EnrollmentSets interface {
	// PutEnrollmentSet assigns a set, which need not hold anything yet, and reports whether it was not assigned.
	PutEnrollmentSet(ctx context.Context, enrollmentID, set string, options ChangeOptions) (changed bool, err error)
	// DeleteEnrollmentSet reports whether the set was assigned.
	DeleteEnrollmentSet(ctx context.Context, enrollmentID, set string, options ChangeOptions) (changed bool, err error)
	// DeleteEnrollmentSets takes all sets away and reports whether there were any.
	DeleteEnrollmentSets(ctx context.Context, enrollmentID string, options ChangeOptions) (changed bool, err error)
	// EnrollmentSets lists the sets of an enrollment; none for an unknown one.
	EnrollmentSets(ctx context.Context, enrollmentID string, page Page) ([]string, error)
}

// Store is everything that a backend provides. Consumers declare the part that they use.
type Store interface {
	Declarations
	Sets
	EnrollmentSets
	Importer
	Enrollments
	Compositions
	Notifications
	Changes
	Serving
	Statuses
	Events
	Happenings
	Overview
	Fleet
	Summaries
	Numbers
	Watched

	// Ping reports whether the database answers.
	Ping(ctx context.Context) error
	// Close waits for nothing: callers stop what uses the store first.
	Close() error
}
