package storagetest

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// The steps below must work: a test that expects an error calls the store itself.

const (
	typeConfiguration = "com.apple.configuration.management.test"
	typeActivation    = "com.apple.activation.simple"
)

// change is the options of a change that tells devices, and held those of one that does not.
var (
	change = storage.ChangeOptions{ChangeID: "change", By: "key"}
	held   = storage.ChangeOptions{ChangeID: "held", Held: true, By: "key"}
)

// configuration returns a declaration whose payload holds a text.
func configuration(identifier, text string) *ddm.Declaration {
	return withPayload(identifier, fmt.Sprintf(`{"Echo":%q}`, text))
}

func withPayload(identifier, payload string) *ddm.Declaration {
	return &ddm.Declaration{
		Identifier: identifier, Type: typeConfiguration, Class: ddm.ClassConfiguration, Payload: []byte(payload),
	}
}

// activation returns a declaration that refers to others.
func activation(identifier string, references ...string) *ddm.Declaration {
	payload := `{"StandardConfigurations":[`
	for i, reference := range references {
		if i > 0 {
			payload += ","
		}
		payload += fmt.Sprintf("%q", reference)
	}
	return &ddm.Declaration{
		Identifier: identifier, Type: typeActivation, Class: ddm.ClassActivation, Payload: []byte(payload + "]}"),
	}
}

func (w *world) put(declaration *ddm.Declaration) (changed bool) {
	w.Helper()
	changed, err := w.store.PutDeclaration(w.ctx, declaration, change)
	require.NoError(w, err)
	return changed
}

func (w *world) touch(identifier string) {
	w.Helper()
	require.NoError(w, w.store.TouchDeclaration(w.ctx, identifier, change))
}

func (w *world) deleteDeclaration(identifier string) (changed bool) {
	w.Helper()
	changed, err := w.store.DeleteDeclaration(w.ctx, identifier, change)
	require.NoError(w, err)
	return changed
}

func (w *world) declaration(identifier string) *ddm.Declaration {
	w.Helper()
	declaration, err := w.store.Declaration(w.ctx, identifier)
	require.NoError(w, err)
	return declaration
}

// add puts a declaration into a set.
func (w *world) add(set, identifier string) (changed bool) {
	w.Helper()
	changed, err := w.store.PutSetDeclaration(w.ctx, set, identifier, change)
	require.NoError(w, err)
	return changed
}

// remove takes a declaration out of a set.
func (w *world) remove(set, identifier string) (changed bool) {
	w.Helper()
	changed, err := w.store.DeleteSetDeclaration(w.ctx, set, identifier, change)
	require.NoError(w, err)
	return changed
}

// fill makes declarations and puts each into a set.
func (w *world) fill(set string, identifiers ...string) {
	w.Helper()
	for _, identifier := range identifiers {
		w.put(configuration(identifier, "first"))
		w.add(set, identifier)
	}
}

// assign gives an enrollment a set.
func (w *world) assign(enrollment, set string) (changed bool) {
	w.Helper()
	changed, err := w.store.PutEnrollmentSet(w.ctx, enrollment, set, change)
	require.NoError(w, err)
	return changed
}

func (w *world) unassign(enrollment, set string) (changed bool) {
	w.Helper()
	changed, err := w.store.DeleteEnrollmentSet(w.ctx, enrollment, set, change)
	require.NoError(w, err)
	return changed
}

// enrollment reads an enrollment, and checks that what is read for a device's request says the same, as far as it goes.
func (w *world) enrollment(id string) *storage.Enrollment {
	w.Helper()
	e, vector, err := w.store.Enrollment(w.ctx, id)
	require.NoError(w, err)
	device, deviceVector, err := w.store.DeviceEnrollment(w.ctx, id)
	require.NoError(w, err)
	require.Equal(w, vector, deviceVector)
	device.Now = e.Now // it may be the database's clock, which goes on
	require.Equal(w, &storage.Enrollment{
		ID: e.ID, Known: e.Known, Type: e.Type, ParentID: e.ParentID, Epoch: e.Epoch, LastSeen: e.LastSeen, LeftAt: e.LeftAt,
		NotifySeq: e.NotifySeq, CommandSentAt: e.CommandSentAt, CommandAcknowledgedAt: e.CommandAcknowledgedAt,
		AskedToken: e.AskedToken, AskedAt: e.AskedAt, FetchedToken: e.FetchedToken, FetchedAt: e.FetchedAt,
		SyncedToken: e.SyncedToken, SyncedAt: e.SyncedAt, Now: e.Now,
	}, device)
	return e
}

func (w *world) vector(id string) storage.Vector {
	w.Helper()
	_, vector, err := w.store.Enrollment(w.ctx, id)
	require.NoError(w, err)
	return vector
}

// compose returns what an enrollment should have now.
func (w *world) compose(id string) *ddm.Composition {
	w.Helper()
	composition, err := compose(w, id)
	require.NoError(w, err)
	return composition
}

func compose(w *world, id string) (*ddm.Composition, error) {
	vector, contents, err := w.store.VectorContents(w.ctx, id, nil)
	if err != nil {
		return nil, err
	}
	var sets [][]ddm.Item
	for _, set := range vector {
		sets = append(sets, contents[set.Name])
	}
	return ddm.Compose(sets...), nil
}

// claim claims what is due under a lease and returns the ids in the order of bytes.
func (w *world) claim(lease storage.Lease) []string {
	w.Helper()
	return ids(w.claimed(lease, 1000))
}

func (w *world) claimed(lease storage.Lease, limit int) []storage.Claimed {
	w.Helper()
	claimed, err := w.store.Claim(w.ctx, lease, limit)
	require.NoError(w, err)
	return claimed
}

func ids(claimed []storage.Claimed) []string {
	var ids []string
	for _, c := range claimed {
		ids = append(ids, c.Enrollment.ID)
	}
	return ids
}

func (w *world) finalise(lease storage.Lease, outcomes ...storage.Outcome) {
	w.Helper()
	require.NoError(w, w.store.Finalise(w.ctx, lease, outcomes))
}

// update records what a device did. Unless the update says otherwise, its request was answered from what is known now.
func (w *world) update(update storage.DeviceUpdate) {
	w.Helper()
	if update.SeenFetched == "" {
		update.SeenFetched = w.enrollment(update.ID).FetchedToken
	}
	require.NoError(w, w.store.UpdateDevice(w.ctx, update))
}

func (w *world) notify(targets storage.NotifyTargets) {
	w.Helper()
	require.NoError(w, w.store.Notify(w.ctx, targets, change))
}

// advance takes one step of a fan-out; nil says that none is due.
func (w *world) advance(limit int) *storage.FanoutPage {
	w.Helper()
	page, err := w.store.AdvanceFanout(w.ctx, limit)
	require.NoError(w, err)
	return page
}

// drain takes all steps of all fan-outs that are due.
func (w *world) drain() {
	w.Helper()
	for range 100_000 {
		if w.advance(100) == nil {
			return
		}
	}
	require.Fail(w, "the fan-outs do not end")
}

// settle makes the enrollments neither due nor held, as if each had been told and had finished.
func (w *world) settle() {
	w.Helper()
	w.drain()
	lease := storage.Lease{ID: 999, Duration: timeout}
	for _, claimed := range w.claimed(lease, 1000) {
		e := claimed.Enrollment
		token := w.compose(e.ID).Token
		w.finalise(lease, storage.Outcome{
			Kind: storage.OutcomeSent, IDs: []string{e.ID}, DesiredToken: token, CommandUUID: "settling",
		})
		w.update(storage.DeviceUpdate{
			ID: e.ID, Epoch: e.Epoch, NotifySeq: e.NotifySeq, SeenFetched: e.FetchedToken,
			SyncedToken: token, Check: storage.CheckClear,
		})
		require.Zero(w, w.enrollment(e.ID).NotifyAt)
	}
}
