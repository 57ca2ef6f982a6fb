package storage

import (
	"context"
	"time"

	"github.com/decree-ddm/decree/ddm"
)

// SetVersion names the content of a set at one time. Versions are random, so that no content ever returns under an
// old version's name.
type SetVersion struct {
	Name      string
	Version   int64
	ChangedAt time.Time
}

// Vector is the versions of an enrollment's sets, sorted by name: what its composition is a pure function of.
type Vector []SetVersion

// ChangedAt is when the newest part of the vector changed; the Unix epoch for an empty one.
func (v Vector) ChangedAt() time.Time {
	newest := time.Unix(0, 0).UTC()
	for _, set := range v {
		if set.ChangedAt.After(newest) {
			newest = set.ChangedAt
		}
	}
	return newest
}

// Composition is what an enrollment should have. It is shared, and must not be changed.
type Composition struct {
	*ddm.Composition
	// DeclarationItems is the manifest, ready to be served.
	DeclarationItems []byte
	// ChangedAt is when the newest part of what it is composed from changed.
	ChangedAt time.Time
}

// Empty reports whether there is nothing to have.
func (c *Composition) Empty() bool { return len(c.Items) == 0 }

// Tokens is the answer to a device's question for its tokens, and the Data of a command.
func (c *Composition) Tokens() []byte { return ddm.TokensJSON(c.Token, c.ChangedAt) }

// Compositions reads what compositions are made of.
type Compositions interface {
	// VectorContents returns an enrollment's vector together with the content of each of its sets, of one snapshot.
	// Content is left out for the sets in known whose version is still the one given there.
	VectorContents(ctx context.Context, enrollmentID string, known Vector) (Vector, map[string][]ddm.Item, error)
	// DeclarationVersion returns a version of a declaration that is current or was less than a day ago, or
	// ErrNotFound.
	DeclarationVersion(ctx context.Context, identifier, serverToken string) (*ddm.Declaration, error)
	// SaveManifest keeps the declaration items that were served under a token for at least a day after the last call.
	SaveManifest(ctx context.Context, token string, declarationItems []byte) error
	// Manifest returns kept declaration items, or ErrNotFound.
	Manifest(ctx context.Context, token string) ([]byte, error)
}
