package storage

import (
	"context"
	"errors"

	"github.com/decree-ddm/decree/ddm"
)

// What keeps a declaration from being imported, besides *MissingReferencesError.
var (
	// ErrConflict says that the declaration is there with another content, which is not known to be an import's.
	ErrConflict = errors.New("it exists here with another content, which may have been made here")
	// ErrTouched says that the declaration is there with the same content, and was touched: what it has now is newer.
	ErrTouched = errors.New("it exists here with the same content, and was touched here since")
	// ErrTokenTaken says that devices may know another content of the declaration by the same ServerToken.
	ErrTokenTaken = errors.New("its ServerToken belongs to another content of it here")
)

// ImportOptions says how rows of another server are taken over.
type ImportOptions struct {
	ChangeOptions
	// Overwrite replaces declarations that are there already, in spite of ErrConflict and ErrTouched.
	Overwrite bool
	// DryRun has nothing written: the results say what would be.
	DryRun bool
	// Assume tells, in a dry run, which declarations an earlier call would have made. It may be nil.
	Assume func(identifier string) bool
}

// ImportResult is what became of one row. Changed is false for what was there already, and where Err says why the row was
// not taken.
type ImportResult struct {
	Changed bool
	Err     error
}

// SetDeclaration says that a set holds a declaration.
type SetDeclaration struct {
	Set, Identifier string
}

// EnrollmentSet says that an enrollment has a set.
type EnrollmentSet struct {
	EnrollmentID, Set string
}

// Importer takes over what another server has. Each call is one transaction, which takes those of its rows that can be
// taken, and returns a result for each. An error besides means that none was. What changes follows the rules of any change:
// set versions are renewed, and enrollments marked. In the log of changes each call that changes something has a row with
// ActionImport, which tells whom it has reached, and besides a row for each declaration and each member of a set.
type Importer interface {
	// ImportDeclarations puts declarations, of which no two have the same identifier, with the ServerTokens that they
	// come with. A declaration with the same content takes the ServerToken that comes, and one that is known to be as
	// an import left it takes everything. They may refer to each other, in circles too. A row's error is ErrConflict, ErrTouched, ErrTokenTaken or a *MissingReferencesError.
	ImportDeclarations(ctx context.Context, declarations []*ddm.Declaration, options ImportOptions) ([]ImportResult, error)
	// ImportSetDeclarations adds declarations to sets. A row's error is ErrNotFound: there is no such declaration.
	ImportSetDeclarations(ctx context.Context, rows []SetDeclaration, options ImportOptions) ([]ImportResult, error)
	// ImportEnrollmentSets assigns sets to enrollments. Rows have no errors.
	ImportEnrollmentSets(ctx context.Context, rows []EnrollmentSet, options ImportOptions) ([]ImportResult, error)
}
