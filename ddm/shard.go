package ddm

import (
	"encoding/binary"
	"fmt"
)

// ShardIdentifier is the identifier of the declaration that tells a device its
// shard number. It is reserved: ParseDeclaration refuses it.
const ShardIdentifier = "com.github.decree-ddm.shard"

// shards is how many shard numbers there are: 0 to 100, so that a predicate
// such as "shard <= 10" reads as a percentage.
const shards = 101

// Shard returns an enrollment's shard number, from 0 to 100. It depends on the
// id alone and spreads enrollments evenly.
func Shard(enrollmentID string) int {
	h := newFieldHash(purposeShard)
	h.field([]byte(enrollmentID))
	return int(binary.BigEndian.Uint64(h.Sum(nil)) % shards)
}

// ShardDeclaration returns the declaration that tells a device its shard number
// as a property, for use in the predicates of activations. It depends on the
// shard number alone, ServerToken included.
// Apple: declarations/management/properties.yaml.
func ShardDeclaration(enrollmentID string) *Declaration {
	declaration := &Declaration{
		Identifier: ShardIdentifier,
		Type:       "com.apple.management.properties",
		Class:      ClassManagement,
		Payload:    fmt.Appendf(nil, `{"shard":%d}`, Shard(enrollmentID)),
	}
	declaration.ServerToken = ServerToken(declaration.ContentHash(), 0)
	return declaration
}
