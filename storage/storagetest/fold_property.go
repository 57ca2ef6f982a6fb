package storagetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var foldPropertyTests = []test{{"FoldingIncrementsIsFoldingTheWhole", foldingIncrementsIsFoldingTheWhole}}

// deviceModel is a device that says what changes, and can say everything.
type deviceModel struct {
	items        map[string]any            // of one family: scalars, lists of scalars and objects of them
	keyed        map[string]map[string]any // lists of keyed objects, by item and identifier
	plain        map[string]any            // what else these items are at times
	declarations []any
}

// change changes something, and returns the status items that say so.
func (d *deviceModel) change(t *rapid.T) map[string]any {
	value := rapid.SampledFrom([]any{1, "1", 1.5, nil, true, "", "x", []any{}, []any{1, "a"}, []any{[]any{}, nil}, map[string]any{}})
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "item")
		d.items[name] = value.Draw(t, "value")
		return map[string]any{"test": map[string]any{name: d.items[name]}}
	case 1:
		// A member of an object: the others stay, and what was no object is none any more.
		name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "item")
		member := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "member")
		object, ok := d.items[name].(map[string]any)
		if !ok || len(object) == 0 {
			object = map[string]any{}
		}
		object = maps.Clone(object)
		object[member] = value.Filter(func(v any) bool { _, nested := v.(map[string]any); return !nested }).Draw(t, "value")
		d.items[name] = object
		return map[string]any{"test": map[string]any{name: map[string]any{member: object[member]}}}
	case 2:
		name := rapid.SampledFrom([]string{"app", "list"}).Draw(t, "list")
		if rapid.IntRange(0, 4).Draw(t, "other kind") == 0 {
			// What was a list is a scalar or another list, until it is a list of keyed objects again.
			delete(d.keyed, name)
			d.plain[name] = rapid.SampledFrom([]any{1, nil, "x", []any{1, 2}, []any{map[string]any{"n": 1}}}).Draw(t, "plain")
			return map[string]any{"mdm": map[string]any{name: d.plain[name]}}
		}
		if d.plain[name] != nil {
			d.keyed[name] = nil
		}
		if d.keyed[name] == nil {
			d.keyed[name] = map[string]any{}
		}
		said := []any{}
		for _, id := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"", "i", "j", "0000000"}), 0, 3, rapid.ID).Draw(t, "ids") {
			if _, there := d.keyed[name][id]; there && rapid.Bool().Draw(t, "removed") {
				delete(d.keyed[name], id)
				said = append(said, map[string]any{"identifier": id, "_removed": true})
				continue
			}
			element := map[string]any{"identifier": id, "value": value.Draw(t, "value")}
			d.keyed[name][id] = element
			said = append(said, element)
		}
		delete(d.plain, name)
		return map[string]any{"mdm": map[string]any{name: said}}
	default:
		d.declarations = nil
		for _, id := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"d", "e"}), 0, 2, rapid.ID).Draw(t, "declarations") {
			d.declarations = append(d.declarations, map[string]any{
				"identifier": id, "server-token": rapid.SampledFrom([]string{"1", "2"}).Draw(t, "token"),
				"active": rapid.Bool().Draw(t, "active"), "valid": rapid.SampledFrom([]string{"valid", "invalid", "unknown"}).Draw(t, "valid"),
				"reasons": []any{map[string]any{"code": rapid.SampledFrom([]string{"Error.Bad", "Info.Predicate"}).Draw(t, "code")}},
			})
		}
		return map[string]any{"management": d.declared()}
	}
}

func (d *deviceModel) declared() map[string]any {
	return map[string]any{"declarations": map[string]any{"configurations": append([]any{}, d.declarations...)}}
}

// everything is the status items of a full report.
func (d *deviceModel) everything() map[string]any {
	lists := maps.Clone(d.plain)
	for name, elements := range d.keyed {
		list := []any{}
		for _, id := range slices.Sorted(maps.Keys(elements)) {
			list = append(list, elements[id])
		}
		lists[name] = list
	}
	all := map[string]any{"management": d.declared()}
	if len(d.items) > 0 {
		all["test"] = d.items
	}
	if len(lists) > 0 {
		all["mdm"] = lists
	}
	return all
}

func foldingIncrementsIsFoldingTheWhole(w *world) {
	run := 0
	rapid.Check(w.T, func(t *rapid.T) {
		run++
		one, other := fmt.Sprintf("increments%d", run), fmt.Sprintf("whole%d", run)
		d := &deviceModel{items: map[string]any{}, keyed: map[string]map[string]any{}, plain: map[string]any{}}
		var said []string
		for range rapid.IntRange(1, 8).Draw(t, "reports") {
			text, err := json.Marshal(map[string]any{"StatusItems": d.change(t)})
			require.NoError(t, err)
			said = append(said, string(text))
			w.report(one, string(text))
		}
		whole, err := json.Marshal(map[string]any{"StatusItems": d.everything(), "FullReport": true})
		require.NoError(t, err)
		w.report(other, `{"StatusItems":{"test":{"a":{"gone":1}},"gone":[{"identifier":"x"}]}}`)
		w.report(other, string(whole))
		require.Equal(t, w.values(other), w.values(one), "%s against %s", said, whole)
		require.Equal(t, w.problems(other), w.problems(one))
		require.Equal(t, len(w.declarationStatuses(other)), len(w.declarationStatuses(one)))
		// The full report says nothing new to who knows it all.
		w.report(one, string(whole))
		require.Equal(t, w.values(other), w.values(one))
	})
}
