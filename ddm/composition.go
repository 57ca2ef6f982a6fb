package ddm

import (
	"cmp"
	"slices"
	"strings"
)

// Item is what declaration items say of one declaration. Two items are the same
// if all their fields are.
type Item struct {
	Class       Class
	Identifier  string
	ServerToken string
}

// Composition is what an enrollment gets: the union of its sets. It must not be
// changed, and may then be shared.
type Composition struct {
	// Token is the DeclarationsToken of the items.
	Token string
	// Items are sorted by class, in manifest order, then by identifier. No
	// identifier appears twice.
	Items []Item
}

// Compose returns the union of the contents of sets. An identifier that is in
// several sets counts once; storage knows one version of it only. (If it ever
// had several tokens, the result would still not depend on the order.)
func Compose(sets ...[]Item) *Composition {
	items := slices.Concat(sets...)
	slices.SortFunc(items, func(a, b Item) int {
		return cmp.Or(strings.Compare(a.Identifier, b.Identifier), compareItems(a, b))
	})
	items = slices.CompactFunc(items, func(a, b Item) bool { return a.Identifier == b.Identifier })
	slices.SortFunc(items, compareItems)
	return &Composition{Token: sortedToken(items), Items: items}
}

// Lookup returns the item with an identifier, or false if the composition has
// none.
func (c *Composition) Lookup(identifier string) (Item, bool) {
	for _, class := range Classes() {
		wanted := Item{Class: class, Identifier: identifier}
		// An empty ServerToken sorts before every other.
		if i, _ := slices.BinarySearchFunc(c.Items, wanted, compareItems); i < len(c.Items) {
			if item := c.Items[i]; item.Class == class && item.Identifier == identifier {
				return item, true
			}
		}
	}
	return Item{}, false
}
