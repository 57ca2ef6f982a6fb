package ddm

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTokensAreStable pins tokens to what they have always been. A different
// token makes every device of every fleet synchronize again: if this fails, the
// code is wrong and not the test.
func TestTokensAreStable(t *testing.T) {
	declaration := parse(t, `{"Identifier":"com.example.é","Type":"com.apple.configuration.passcode.settings","Payload":{"b":[0.10,1e400,null],"a":"\u2028\ud800😀"}}`)
	require.Equal(t, "e8f6e667beced3876d4303c6a77c1dfeea5464da", declaration.ContentHash())
	require.Equal(t, "72dbe620f0fd8cf7bd90cb704c498f66df395c12", ServerToken(declaration.ContentHash(), 0))
	require.Equal(t, "0ecf6d3226236dda86c87a98ea0457fb2302c3b0", ServerToken(declaration.ContentHash(), 1))
	require.Equal(t, "26fdefb331313e3bec4592ec5231f974264c55ee", DeclarationsToken(nil))
	require.Equal(t, "b5a6e6209ef979b784f7b649ed54d399525dcd26", DeclarationsToken([]Item{itemC, itemA, itemB, itemE, itemD}))
	require.Equal(t, "b5a6e6209ef979b784f7b649ed54d399525dcd26", Compose([]Item{itemC, itemA}, []Item{itemB, itemE, itemD, itemA}).Token)
	require.Equal(t, strings.Repeat("é", 119)+"~a100f47a12971dc7", boundedName(strings.Repeat("é", 200)))
}

func TestServerToken(t *testing.T) {
	seen := make(map[string]bool)
	for _, contentHash := range []string{"", "0", "00", "a", "b"} {
		for _, touches := range []int64{0, 1, 2, 255, 256, -1, 1 << 40} {
			token := ServerToken(contentHash, touches)
			require.Len(t, token, 40)
			require.False(t, seen[token])
			seen[token] = true
		}
	}
}

func TestShard(t *testing.T) {
	require.Equal(t, 35, Shard("A1B2C3"))
	require.Equal(t, 20, Shard("DEVICE-UDID:USER-GUID"))
	require.Equal(t, 94, Shard(""))

	counts := make([]int, 101)
	const perShard = 200
	for i := range perShard * len(counts) {
		counts[Shard("enrollment-"+strconv.Itoa(i))]++
	}
	for shard, count := range counts {
		require.InDelta(t, perShard, count, perShard/2, shard)
	}
}

func TestShardDeclaration(t *testing.T) {
	declaration := ShardDeclaration("A1B2C3")
	require.Equal(t, &Declaration{
		Identifier:  "com.github.decree-ddm.shard",
		Type:        "com.apple.management.properties",
		Class:       ClassManagement,
		Payload:     []byte(`{"shard":` + strconv.Itoa(Shard("A1B2C3")) + `}`),
		ServerToken: "c341dff63acbb19dd04eba00a0b7190d0ea57ab9",
	}, declaration)
	class, err := ClassOfType(declaration.Type)
	require.NoError(t, err)
	require.Equal(t, declaration.Class, class)
	require.Nil(t, ValidateIdentifier("", ShardIdentifier))

	byShard := make(map[int]*Declaration)
	for i := range 1000 {
		id := strconv.Itoa(i)
		declaration := ShardDeclaration(id)
		if other, ok := byShard[Shard(id)]; ok {
			require.Equal(t, other, declaration)
		}
		byShard[Shard(id)] = declaration
	}
	require.Len(t, byShard, 101)
}
