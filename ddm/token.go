package ddm

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"
	"strings"
)

// Purposes keep hashes of different things apart, whatever the things are.
// Changing one changes that token for the whole fleet.
const (
	purposeContent      = "decree.content.v1"
	purposeServerToken  = "decree.server-token.v1"
	purposeDeclarations = "decree.declarations-token.v1"
	purposeShard        = "decree.shard.v1"
	purposeLongName     = "decree.long-name.v1"
)

// tokenLength is how many octets of a hash a token is made of. Its hexadecimal
// form has 40 octets, below Apple's limit of 64 for a ServerToken.
// Apple: declarations/declarationbase.yaml.
const tokenLength = 20

// fieldHash hashes a sequence of fields. Each field goes in with its length, so
// that no two sequences look alike.
type fieldHash struct{ hash.Hash }

func newFieldHash(purpose string) fieldHash {
	h := fieldHash{sha256.New()}
	h.field([]byte(purpose))
	return h
}

func (h fieldHash) field(value []byte) {
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(value)))) // a hash never fails
	_, _ = h.Write(value)
}

// token returns the hash of the fields so far in hexadecimal.
func (h fieldHash) token() string {
	return hex.EncodeToString(h.Sum(nil)[:tokenLength])
}

// ServerToken returns the token of a version of a declaration: a hash over its
// content hash and how often it was touched, which makes a device fetch the
// same content again. It is never the same for two different pairs.
// Apple: declarations/declarationbase.yaml limits it to 64 octets.
func ServerToken(contentHash string, touches int64) string {
	h := newFieldHash(purposeServerToken)
	h.field([]byte(contentHash))
	h.field(binary.BigEndian.AppendUint64(nil, uint64(touches))) // #nosec G115 -- it is never negative
	return h.token()
}

// DeclarationsToken returns the token of a composition: a hash over the set of
// (class, identifier, ServerToken) triples and nothing else. Neither the order
// of the items nor repetitions matter.
// Apple: protocol/tokensresponse.yaml, protocol/declarationitemsresponse.yaml.
func DeclarationsToken(items []Item) string {
	return sortedToken(slices.Compact(slices.SortedFunc(slices.Values(items), compareItems)))
}

// sortedToken is DeclarationsToken for items that are sorted and unique.
func sortedToken(items []Item) string {
	h := newFieldHash(purposeDeclarations)
	for _, item := range items {
		h.field([]byte(item.Class))
		h.field([]byte(item.Identifier))
		h.field([]byte(item.ServerToken))
	}
	return h.token()
}

// compareItems orders items as declaration items list them: by class, then by
// identifier, then by ServerToken. The names of the classes are in manifest
// order.
func compareItems(a, b Item) int {
	if order := strings.Compare(string(a.Class), string(b.Class)); order != 0 {
		return order
	}
	if order := strings.Compare(a.Identifier, b.Identifier); order != 0 {
		return order
	}
	return strings.Compare(a.ServerToken, b.ServerToken)
}
