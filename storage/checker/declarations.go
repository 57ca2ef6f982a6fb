package checker

import (
	"context"
	"slices"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// declarations compares what is stored about the content of each declaration with its payload.
func (c *checker) declarations(ctx context.Context) error {
	return c.each(ctx, Declaration, func(
		ctx context.Context, after string, found func(subject, problem string),
	) (last string, rows int, err error) {
		list, err := c.source.CheckedDeclarations(ctx, storage.Page{After: after, Limit: payloadPage})
		for _, declaration := range list {
			checkDeclaration(declaration, func(problem string) { found(declaration.Identifier, problem) })
			last = declaration.Identifier
		}
		return last, len(list), err
	})
}

func checkDeclaration(d storage.CheckedDeclaration, found func(problem string)) {
	if d.Version == nil {
		found("the content of its current version " + d.ServerToken + " is missing")
		return
	}
	if class, err := ddm.ClassOfType(d.Type); err != nil || class != d.Class {
		found("is of the type " + d.Type + " and of the class " + string(d.Class))
	}
	if d.Version.Type != d.Type || d.Version.Class != d.Class {
		found("is of the type " + d.Type + ", and its current version of " + d.Version.Type)
		return
	}
	if d.Version.ContentHash() != d.ContentHash {
		found("its content is not the one that its hash is of")
	}
	if d.Logged && d.LoggedToken != d.ServerToken {
		found("has the ServerToken " + d.ServerToken + ", and the log of changes says " + orNothing(d.LoggedToken))
	}
	if references := d.Version.References(); !slices.Equal(references, d.References) {
		found("refers to [" + strings.Join(references, " ") + "], and is said to refer to [" +
			strings.Join(d.References, " ") + "]")
	}
}

// versions verifies that the current version of each declaration is kept for good, and those of what is deleted are not.
func (c *checker) versions(ctx context.Context) error {
	return c.each(ctx, Declaration, func(
		ctx context.Context, after string, found func(subject, problem string),
	) (last string, rows int, err error) {
		list, err := c.source.CheckedVersions(ctx, storage.Page{After: after, Limit: rowsPage})
		for _, versions := range list {
			if slices.Contains(versions.Replaced, versions.Current) {
				found(versions.Identifier, "its current version "+versions.Current+" is said to be replaced, and will be deleted")
			}
			for _, serverToken := range versions.Unreplaced {
				if serverToken != versions.Current {
					found(versions.Identifier, "its version "+serverToken+" is not current, and not said to be replaced")
				}
			}
			if versions.Current == "" && !versions.Collected {
				found(versions.Identifier, "is deleted, and nobody will look at its versions again")
			}
			last = versions.Identifier
		}
		return last, 0, err
	})
}
