package ddm

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	itemA = Item{ClassActivation, "z", "t1"}
	itemB = Item{ClassAsset, "y", "t2"}
	itemC = Item{ClassConfiguration, "a", "t3"}
	itemD = Item{ClassConfiguration, "b/\"é", "t4"}
	itemE = Item{ClassManagement, "a!", "t5"}
)

func TestCompose(t *testing.T) {
	composition := Compose([]Item{itemD, itemE, itemB}, nil, []Item{itemC, itemD}, []Item{itemA})
	require.Equal(t, []Item{itemA, itemB, itemC, itemD, itemE}, composition.Items)
	require.Equal(t, DeclarationsToken([]Item{itemE, itemD, itemC, itemB, itemA, itemA}), composition.Token)
	for _, item := range composition.Items {
		found, ok := composition.Lookup(item.Identifier)
		require.True(t, ok)
		require.Equal(t, item, found)
	}
	for _, identifier := range []string{"", "A", "aa", "b", "zz"} {
		_, ok := composition.Lookup(identifier)
		require.False(t, ok, identifier)
	}
	require.Equal(t, `{"Declarations":{"Activations":[{"Identifier":"z","ServerToken":"t1"}],"Assets":[{"Identifier":"y","ServerToken":"t2"}],`+
		`"Configurations":[{"Identifier":"a","ServerToken":"t3"},{"Identifier":"b/\"é","ServerToken":"t4"}],"Management":[{"Identifier":"a!","ServerToken":"t5"}]},`+
		`"DeclarationsToken":"`+composition.Token+`"}`, string(composition.DeclarationItemsJSON()))
}

func TestComposeNothing(t *testing.T) {
	for _, composition := range []*Composition{Compose(), Compose(nil, []Item{})} {
		require.Empty(t, composition.Items)
		require.Equal(t, `{"Declarations":{"Activations":[],"Assets":[],"Configurations":[],"Management":[]},"DeclarationsToken":"`+
			DeclarationsToken(nil)+`"}`, string(composition.DeclarationItemsJSON()))
		_, ok := composition.Lookup("a")
		require.False(t, ok)
	}
}

func TestComposeLeavesSetsAlone(t *testing.T) {
	set := []Item{itemE, itemA, itemC}
	Compose(set)
	DeclarationsToken(set)
	require.Equal(t, []Item{itemE, itemA, itemC}, set)
}

func genItem() *rapid.Generator[Item] {
	return rapid.Custom(func(t *rapid.T) Item {
		return Item{
			Class:       rapid.SampledFrom(Classes()).Draw(t, "class"),
			Identifier:  rapid.StringMatching(`[a-d]{1,3}`).Draw(t, "identifier"),
			ServerToken: rapid.StringMatching(`[xy]{0,2}`).Draw(t, "token"),
		}
	})
}

func TestComposeOrderIndependent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOf(genItem()).Draw(t, "items")
		want := Compose(items)
		shuffled := rapid.Permutation(items).Draw(t, "shuffled")
		cut := rapid.IntRange(0, len(items)).Draw(t, "cut")
		require.Equal(t, want, Compose(shuffled[cut:], items, shuffled[:cut]))
		require.Equal(t, DeclarationsToken(items), DeclarationsToken(shuffled))
		require.Equal(t, want.Token, DeclarationsToken(want.Items))

		seen := make(map[string]bool)
		for _, item := range want.Items {
			require.False(t, seen[item.Identifier])
			seen[item.Identifier] = true
			found, ok := want.Lookup(item.Identifier)
			require.True(t, ok)
			require.Equal(t, item, found)
		}
		for _, item := range items {
			require.True(t, seen[item.Identifier])
		}

		text := want.DeclarationItemsJSON()
		require.True(t, json.Valid(text))
		parsed, err := ParseDeclarationItems(text)
		require.NoError(t, err)
		require.ElementsMatch(t, want.Items, parsed)
		require.Equal(t, want.Token, DeclarationsToken(parsed))
	})
}

func TestDeclarationsTokenFields(t *testing.T) {
	tokens := make(map[string]string)
	for _, items := range [][]Item{
		nil,
		{{}},
		{itemA},
		{itemB},
		{itemA, itemB},
		{{ClassActivation, "zt", "1"}},
		{{ClassActivation, "", "zt1"}},
		{{ClassAsset, "z", "t1"}},
		{{ClassActivation, "z", "t1"}, {ClassActivation, "z", "t2"}},
	} {
		token := DeclarationsToken(items)
		require.Empty(t, tokens[token])
		tokens[token] = fmt.Sprint(items)
	}
}

func TestParseDeclarationItems(t *testing.T) {
	items, err := ParseDeclarationItems([]byte(` {"DeclarationsToken": 1, "Declarations": {"Assets": [ {"x": [], "ServerToken": "t2", "Identifier": "y"} ], "New": 3}} `))
	require.NoError(t, err)
	require.Equal(t, []Item{itemB}, items)
	for _, text := range []string{
		``, `[]`, `{}`, `{"Declarations":[]}`, `{"Declarations":{"Assets":{}}}`, `{"Declarations":{"Assets":[1]}}`, `{"Declarations":{"Assets":[{}]}}`,
		`{"Declarations":{"Assets":[{"Identifier":1}]}}`, `{"Declarations":{"Assets":[{"Identifier":"a","ServerToken":null}]}}`, `{"Declarations":{}} x`, `{"Declarations":{`,
	} {
		_, err := ParseDeclarationItems([]byte(text))
		var invalid *InvalidError
		require.ErrorAs(t, err, &invalid, text)
	}
}

func TestTokensJSON(t *testing.T) {
	timestamp := time.Date(2026, 11, 21, 11, 0, 0, 999_999_999, time.FixedZone("CET", 3600))
	require.Equal(t, `{"SyncTokens":{"DeclarationsToken":"abc","Timestamp":"2026-11-21T10:00:00Z"}}`, string(TokensJSON("abc", timestamp)))
}
