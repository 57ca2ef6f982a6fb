package importer

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestImportCircles(t *testing.T) {
	t.Parallel()
	require.Empty(t, circles(nil))
	found := circles(map[string][]string{
		"a": {"b", "elsewhere"}, "b": {"c"}, "c": {"b", "d"}, "d": nil, "self": {"self"}, "z": {"a", "self"},
	})
	for _, group := range found {
		slices.Sort(group)
	}
	require.Equal(t, [][]string{{"d"}, {"b", "c"}, {"a"}, {"self"}, {"z"}}, found)
}

// TestImportCirclesInOrder checks on any graph that everything is there once, and that what is referred to does not come
// later.
func TestImportCirclesInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"})
		graph := rapid.MapOf(name, rapid.SliceOfN(name, 0, 4)).Draw(t, "graph")
		place := map[string]int{}
		for i, group := range circles(graph) {
			for _, node := range group {
				require.NotContains(t, place, node)
				require.Contains(t, graph, node)
				place[node] = i
			}
		}
		require.Len(t, place, len(graph))
		for node, references := range graph {
			for _, referred := range references {
				if _, isNode := graph[referred]; isNode {
					require.LessOrEqual(t, place[referred], place[node], "%s refers to %s", node, referred)
				}
			}
		}
	})
}

// TestImportLongChain checks that a chain of references as long as a fleet is no trouble.
func TestImportLongChain(t *testing.T) {
	t.Parallel()
	const length = 200_000
	graph := make(map[string][]string, length)
	name := func(i int) string { return string([]rune{rune('A' + i%26), rune(0x10000 + i)}) }
	for i := range length {
		graph[name(i)] = []string{name(i + 1)}
	}
	found := circles(graph)
	require.Len(t, found, length)
	require.Equal(t, []string{name(length - 1)}, found[0])
}
