package storage

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNotFound says that the thing which a call is about does not exist.
var ErrNotFound = errors.New("not found")

// MissingReferencesError says that a declaration refers to declarations that do not exist.
type MissingReferencesError struct {
	Identifier string   // the declaration that refers
	Missing    []string // sorted
}

func (e *MissingReferencesError) Error() string {
	return fmt.Sprintf("declaration %q refers to declarations that do not exist: %s",
		e.Identifier, strings.Join(e.Missing, ", "))
}

// InUseError says that a declaration cannot go because it is in use. The lists are sorted and cut at 100 names each.
type InUseError struct {
	Identifier   string
	Sets         []string // that hold it
	Declarations []string // that refer to it
}

func (e *InUseError) Error() string {
	var uses []string
	if len(e.Sets) > 0 {
		uses = append(uses, "held by sets: "+strings.Join(e.Sets, ", "))
	}
	if len(e.Declarations) > 0 {
		uses = append(uses, "referred to by declarations: "+strings.Join(e.Declarations, ", "))
	}
	return fmt.Sprintf("declaration %q is in use: %s", e.Identifier, strings.Join(uses, "; "))
}
