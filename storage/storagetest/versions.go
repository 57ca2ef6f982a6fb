package storagetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

var versionTests = []test{
	{"Versions", versions},
	{"VersionPages", versionPages},
	{"Rollback", rollback},
	{"RollbackOfWhatWasDeleted", rollbackOfWhatWasDeleted},
	{"RollbackFollowsChanges", rollbackFollowsChanges},
	{"VersionsKept", versionsKept},
	{"VersionsKeptOfMany", versionsKeptOfMany},
	{"VersionsOfTheDeletedGo", versionsOfTheDeletedGo},
	{"VersionsCollectedBesideChanges", versionsCollectedBesideChanges},
}

// keeping are options that keep so many replaced versions; none if that is negative.
func (w *world) keeping(versions int) sqlstore.Options {
	options := w.options()
	options.KeepVersions = versions
	return options
}

// versionsOf lists the versions of a declaration, by pages of that size; nil for one without.
func (w *world) versionsOf(identifier string, page int) (list []storage.Version) {
	w.Helper()
	for place := (storage.VersionPlace{}); ; {
		found, next, err := w.store.DeclarationVersions(w.ctx, identifier, place, page)
		if len(list) == 0 && err != nil {
			require.ErrorIs(w, err, storage.ErrNotFound)
			return nil
		}
		require.NoError(w, err)
		require.LessOrEqual(w, len(found), page)
		list = append(list, found...)
		if next == nil {
			return list
		}
		place = *next
	}
}

// contentsOf are the payloads of a declaration's versions, in the order of the list.
func (w *world) contentsOf(identifier string) (contents []string) {
	w.Helper()
	for _, v := range w.versionsOf(identifier, 1000) {
		declaration, err := w.store.DeclarationVersion(w.ctx, identifier, v.ServerToken)
		require.NoError(w, err)
		contents = append(contents, string(declaration.Payload))
	}
	return contents
}

func (w *world) collectAll(age time.Duration, limit int) {
	w.Helper()
	for range 10_000 {
		more, err := w.store.Collect(w.ctx, age, limit)
		require.NoError(w, err)
		if !more {
			return
		}
	}
	require.Fail(w, "there is always more")
}

func versions(w *world) {
	require.Nil(w, w.versionsOf("d", 10))
	start := w.clock.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	put := func(text, by string) string {
		w.Helper()
		_, err := w.store.PutDeclaration(w.ctx, configuration("d", text), storage.ChangeOptions{By: by})
		require.NoError(w, err)
		w.clock.Advance(time.Second)
		return w.declaration("d").ServerToken
	}
	first, second := put("first", "somebody"), put("second", "another")
	w.put(configuration("other", "x"))
	require.Equal(w, []storage.Version{
		{ServerToken: second, Type: typeConfiguration, CreatedAt: at(1), By: "another"},
		{ServerToken: first, Type: typeConfiguration, CreatedAt: at(0), ReplacedAt: at(1), By: "somebody"},
	}, w.versionsOf("d", 10))
	// What comes back is the same version, and the one that was current last is the newest of the others.
	require.Equal(w, first, put("first", "another"))
	third := *configuration("d", "third")
	third.Type, third.Class = "com.apple.asset.data", ddm.ClassAsset
	w.put(&third)
	wanted := []storage.Version{
		{ServerToken: w.declaration("d").ServerToken, Type: "com.apple.asset.data", CreatedAt: at(3), By: "key"},
		{ServerToken: first, Type: typeConfiguration, CreatedAt: at(0), ReplacedAt: at(3), By: "somebody"},
		{ServerToken: second, Type: typeConfiguration, CreatedAt: at(1), ReplacedAt: at(2), By: "another"},
	}
	require.Equal(w, wanted, w.versionsOf("d", 10))
	w.clock.Advance(time.Second)
	w.deleteDeclaration("d")
	wanted[0].ReplacedAt = at(4)
	require.Equal(w, wanted, w.versionsOf("d", 10), "its versions are there still")
	w.imported(importing, withToken(configuration("new", "x"), "given"))
	require.Equal(w, []storage.Version{{ServerToken: "given", Type: typeConfiguration, CreatedAt: at(4), By: "key"}},
		w.versionsOf("new", 10))
}

func versionPages(w *world) {
	for i := range 9 {
		w.put(configuration("d", fmt.Sprint(i)))
		if i%3 == 0 {
			w.clock.Advance(time.Second) // some are replaced at the same time
		}
	}
	all := w.versionsOf("d", 1000)
	require.Len(w, all, 9)
	require.Zero(w, all[0].ReplacedAt)
	for _, page := range []int{1, 2, 8, 9} {
		require.Equal(w, all, w.versionsOf("d", page))
	}
	w.deleteDeclaration("d")
	all = w.versionsOf("d", 1000)
	require.Len(w, all, 9)
	for _, page := range []int{1, 2, 8, 9} {
		require.Equal(w, all, w.versionsOf("d", page))
	}
}

func rollback(w *world) {
	back := func(token string) bool {
		w.Helper()
		changed, err := w.store.RollbackDeclaration(w.ctx, "d", token, change)
		require.NoError(w, err)
		return changed
	}
	for _, identifier := range []string{"d", "unknown"} {
		_, err := w.store.RollbackDeclaration(w.ctx, identifier, "unknown", change)
		require.ErrorIs(w, err, storage.ErrNotFound)
	}
	w.put(withPayload("d", `{"B":1.0,"A":"\u0041"}`))
	first := w.declaration("d")
	second := *activation("d")
	w.put(&second)
	stored := w.declaration("d")
	require.True(w, back(first.ServerToken))
	require.Equal(w, first, w.declaration("d"), "every character, and the type, and the token")
	require.False(w, back(first.ServerToken), "it is current")
	require.True(w, back(stored.ServerToken))
	require.Equal(w, stored, w.declaration("d"))

	// As with any content that is put, what was touched keeps to be told from what it was before.
	w.touch("d")
	touched := w.declaration("d").ServerToken
	require.False(w, back(stored.ServerToken), "the content is the same as now")
	require.Equal(w, touched, w.declaration("d").ServerToken)
	require.True(w, back(first.ServerToken))
	require.Equal(w, string(first.Payload), string(w.declaration("d").Payload))
	require.Equal(w, ddm.ServerToken(first.ContentHash(), 1), w.declaration("d").ServerToken)

	// A version of an import comes back with a token of our own.
	imported := withToken(configuration("i", "theirs"), "given")
	w.imported(importing, imported)
	w.put(configuration("i", "ours"))
	changed, err := w.store.RollbackDeclaration(w.ctx, "i", "given", change)
	require.NoError(w, err)
	require.True(w, changed)
	require.Equal(w, ddm.ServerToken(imported.ContentHash(), 0), w.declaration("i").ServerToken)
	_, err = w.store.RollbackDeclaration(w.ctx, "i", first.ServerToken, change)
	require.ErrorIs(w, err, storage.ErrNotFound, "that is another declaration's")
	w.requireSound()
}

func rollbackOfWhatWasDeleted(w *world) {
	w.put(configuration("c", "x"))
	w.put(activation("a", "c"))
	before := w.declaration("a")
	w.put(activation("a"))
	require.True(w, w.deleteDeclaration("c"))
	rows := len(w.changes(storage.ChangeQuery{}))
	_, err := w.store.RollbackDeclaration(w.ctx, "a", before.ServerToken, change)
	var missing *storage.MissingReferencesError
	require.ErrorAs(w, err, &missing)
	require.Equal(w, []string{"c"}, missing.Missing)
	require.True(w, w.deleteDeclaration("a"))
	_, err = w.store.RollbackDeclaration(w.ctx, "a", before.ServerToken, change)
	require.ErrorAs(w, err, &missing)
	require.Len(w, w.changes(storage.ChangeQuery{}), rows+1, "the deletion")

	of := func(identifier, token string) {
		w.Helper()
		changed, err := w.store.RollbackDeclaration(w.ctx, identifier, token, change)
		require.NoError(w, err)
		require.True(w, changed)
	}
	of("c", w.versionsOf("c", 1)[0].ServerToken)
	of("a", before.ServerToken)
	require.Equal(w, before, w.declaration("a"))
	require.Equal(w, []string{"c"}, w.declaration("a").References())
	var inUse *storage.InUseError
	_, err = w.store.DeleteDeclaration(w.ctx, "c", change)
	require.ErrorAs(w, err, &inUse, "what it refers to is known again")
	row := w.newest(1)[0]
	require.Equal(w, storage.Change{
		ChangeID: "change", By: "key", Action: "declaration.rollback", Declaration: "a", ToToken: before.ServerToken, Reach: reached(0),
	}, row)
	_, err = w.store.DeclarationSummary(w.ctx, "a")
	require.NoError(w, err)

	// How often it was touched is forgotten with it.
	w.put(configuration("t", "x"))
	untouched := w.declaration("t").ServerToken
	w.touch("t")
	touched := w.declaration("t").ServerToken
	require.True(w, w.deleteDeclaration("t"))
	of("t", touched)
	require.Equal(w, untouched, w.declaration("t").ServerToken)
	w.requireSound()
}

// rollbackFollowsChanges: whoever has the declaration is told, unless nobody is to be.
func rollbackFollowsChanges(w *world) {
	w.fill("s", "d")
	first := w.declaration("d").ServerToken
	w.put(configuration("d", "second"))
	w.assign("e", "s")
	w.settle()
	composed := w.compose("e").Token
	_, err := w.store.RollbackDeclaration(w.ctx, "d", first, held)
	require.NoError(w, err)
	w.drain()
	require.True(w, w.enrollment("e").Held)
	require.NotEqual(w, composed, w.compose("e").Token)
	second := w.versionsOf("d", 10)[1].ServerToken
	_, err = w.store.RollbackDeclaration(w.ctx, "d", second, change)
	require.NoError(w, err)
	require.Equal(w, composed, w.compose("e").Token, "the content of before has the token of before")
	w.drain()
	require.False(w, w.enrollment("e").Held)
	require.Equal(w, reached(1), w.newest(1)[0].Reach)
	w.requireSound()
}

// versionsKept: the newest so many, whatever their age, and all that are young.
func versionsKept(w *world) {
	const day = 24 * time.Hour
	w.store = w.open(w.keeping(3))
	put := func(identifier string, n int) { w.put(withPayload(identifier, fmt.Sprint(n))) }
	for i := range 6 {
		put("d", i)
		w.clock.Advance(time.Hour)
	}
	w.collectAll(day, 100)
	require.Equal(w, []string{"5", "4", "3", "2", "1", "0"}, w.contentsOf("d"), "a device may be fetching any of them")
	w.clock.Advance(day - 4*time.Hour)
	w.collectAll(day, 100)
	require.Equal(w, []string{"5", "4", "3", "2", "1"}, w.contentsOf("d"))
	w.clock.Advance(100 * day)
	w.collectAll(day, 100)
	require.Equal(w, []string{"5", "4", "3", "2"}, w.contentsOf("d"))

	// One that comes back is counted anew when it is replaced again.
	put("d", 2)
	put("d", 6)
	require.Equal(w, []string{"6", "2", "5", "4", "3"}, w.contentsOf("d"))
	w.clock.Advance(2 * day)
	w.collectAll(day, 100)
	require.Equal(w, []string{"6", "2", "5", "4"}, w.contentsOf("d"))
	w.clock.Advance(1000 * day)
	w.collectAll(day, 100)
	require.Equal(w, []string{"6", "2", "5", "4"}, w.contentsOf("d"), "for good")
	require.Zero(w, w.count(`SELECT COUNT(*) FROM declaration_versions WHERE collect_from IS NOT NULL`),
		"nothing is looked at again and again")

	// A lower number is for what changes from then on.
	w.store = w.open(w.keeping(1))
	w.collectAll(day, 1)
	require.Len(w, w.contentsOf("d"), 4)
	put("d", 7)
	w.clock.Advance(2 * day)
	w.collectAll(day, 1)
	require.Equal(w, []string{"7", "6"}, w.contentsOf("d"))
}

// versionsKeptOfMany: however many there are, they go in steps.
func versionsKeptOfMany(w *world) {
	w.store = w.open(w.keeping(2))
	const declarations, changes = 12, 9
	for i := range changes {
		for d := range declarations {
			w.put(withPayload(fmt.Sprintf("d%02d", d), fmt.Sprint(i)))
		}
		w.clock.Advance(time.Second)
	}
	for range 300 {
		w.touch("d00")
	}
	total := func() int { return w.count(`SELECT COUNT(*) FROM declaration_versions`) }
	w.clock.Advance(time.Hour)
	for before := total(); ; before = total() {
		more, err := w.store.Collect(w.ctx, time.Minute, 5)
		require.NoError(w, err)
		require.GreaterOrEqual(w, total(), before-5)
		if !more {
			break
		}
	}
	require.Equal(w, declarations*3, total())
	for d := 1; d < declarations; d++ {
		require.Equal(w, []string{"8", "7", "6"}, w.contentsOf(fmt.Sprintf("d%02d", d)))
	}
}

// versionsOfTheDeletedGo: they can be brought back for ninety days, and then make room.
func versionsOfTheDeletedGo(w *world) {
	const day = 24 * time.Hour
	w.store = w.open(w.keeping(2))
	for i := range 4 {
		for _, identifier := range []string{"gone", "back", "stays"} {
			w.put(withPayload(identifier, fmt.Sprint(i)))
		}
		w.clock.Advance(10 * day)
		w.collectAll(day, 100)
	}
	require.Len(w, w.contentsOf("gone"), 3)
	w.deleteDeclaration("gone")
	w.deleteDeclaration("back")
	w.clock.Advance(2 * day)
	w.collectAll(day, 100)
	require.Equal(w, []string{"3", "2"}, w.contentsOf("gone"))
	w.clock.Advance(87 * day)
	w.collectAll(day, 100)
	require.Equal(w, []string{"3", "2"}, w.contentsOf("gone"))
	_, err := w.store.RollbackDeclaration(w.ctx, "back", w.versionsOf("back", 1)[0].ServerToken, change)
	require.NoError(w, err)
	w.clock.Advance(day + time.Second)
	w.collectAll(day, 1)
	require.Nil(w, w.versionsOf("gone", 10))
	require.Equal(w, []string{"3", "2"}, w.contentsOf("back"))
	require.Equal(w, []string{"3", "2", "1"}, w.contentsOf("stays"))
	require.Zero(w, w.count(`SELECT COUNT(*) FROM declaration_versions WHERE collect_from IS NOT NULL`))

	w.deleteDeclaration("back")
	w.clock.Advance(91 * day)
	w.collectAll(day, 100)
	require.Nil(w, w.versionsOf("back", 10), "also where nobody has looked in between")
}

// versionsCollectedBesideChanges: what is current, or comes back, is never collected, whenever somebody looks.
func versionsCollectedBesideChanges(w *world) {
	options := sqlstore.Options{NotifyDelay: -1, KeepVersions: 1}
	w.store = w.open(options)
	other := w.store
	if w.database.Shared {
		other = w.open(options)
	}
	stop := make(chan struct{})
	collecting := w.start(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			if _, err := other.Collect(w.ctx, 0, 3); err != nil {
				return err
			}
		}
	})
	for i := range 150 {
		w.put(withPayload("d", fmt.Sprint(i%4)))
		require.Equal(w, fmt.Sprint(i%4), string(w.declaration("d").Payload))
		if i%7 == 6 {
			w.deleteDeclaration("d")
		}
	}
	close(stop)
	require.NoError(w, collecting())
	w.requireSound()
	w.collectAll(0, 100)
	w.requireSound()
}
