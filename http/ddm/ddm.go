// Package ddm serves the endpoints that NanoMDM and MicroMDM forward devices to: tokens, declaration items,
// declarations and status. An enrollment is named by a header that the MDM sets, and gets what is its own. Since a
// device can make the MDM ask for any path here, errors tell it nothing.
package ddm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	protocol "github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

// Headers that name the enrollment (NanoMDM: service/dmhook).
const (
	headerEnrollmentID = "X-Enrollment-ID"
	headerType         = "X-Enrollment-Type"
	headerParentID     = "X-Enrollment-ParentID"
	// headerObserve, set to 1, asks for an answer that leaves no trace: for people who look, not devices that sync.
	headerObserve = "X-Decree-Observe"
)

const (
	maxStatusBytes = 16 << 20
	// The MDM waits for our answer without a time-out, and the device for the MDM.
	requestTimeout = 20 * time.Second
	// A device's manifest stays fetchable, also when its sets have changed since, for a day after it was last fetched;
	// when that was is known to fetchedInterval.
	manifestLife = 24*time.Hour + fetchedInterval
	// maxTypeBytes bounds what storage keeps of an enrollment's type.
	maxTypeBytes = 64
)

// Store is what the device side needs of storage.
type Store interface {
	storage.Enrollments
	PutStatus(ctx context.Context, status storage.ReceivedStatus) error
}

// Compositor says what an enrollment should have.
type Compositor interface {
	// Compose returns the composition for a vector that was just read, or for a newer one.
	Compose(ctx context.Context, enrollmentID string, vector storage.Vector) (*storage.Composition, error)
	// Declaration returns a version of a declaration as JSON, or storage.ErrNotFound.
	Declaration(ctx context.Context, enrollmentID string, item protocol.Item) ([]byte, error)
	// KeepManifest makes a manifest known to Served for a day; now is the database's clock.
	KeepManifest(ctx context.Context, served *storage.Composition, now time.Time) error
	// Served returns the items of a kept manifest, or storage.ErrNotFound.
	Served(ctx context.Context, token string) ([]protocol.Item, error)
}

// Config is what Register needs.
type Config struct {
	Store      Store
	Compositor Compositor
	// DumpStatus, if not nil, gets every status report as it came. It is called by several goroutines at once.
	DumpStatus func(enrollmentID string, report []byte)
	// VerifyKey, if not empty, is what requests must be signed with: NanoMDM's -dm-send-hmac-key. SignKey is what every
	// answer is signed with: its -dm-recv-hmac-key.
	VerifyKey, SignKey string
	// Reported, if not nil, is told what became of each status report: "folded"; "refused", which is the device's fault; or
	// "failed". It is called by several goroutines at once.
	Reported func(result string)
}

// Register adds the device endpoints to a mux.
func Register(mux *edge.Mux, config Config) {
	h := handler{config}
	mux.HandleOpaque("GET /tokens", h.device(h.tokens), config.SignKey)
	mux.HandleOpaque("GET /declaration-items", h.device(h.declarationItems), config.SignKey)
	mux.HandleOpaque("GET /declaration/{class}/{identifier...}", h.device(h.declaration), config.SignKey)
	mux.HandleOpaque("PUT /status", h.device(h.status), config.SignKey)
}

type handler struct{ Config }

// request is a device's request with all that is known of the device.
type request struct {
	*http.Request
	enrollment  *storage.Enrollment
	composition *storage.Composition
	update      storage.DeviceUpdate
	observe     bool
}

// device reads who asks and what it should have, before a handler answers.
func (h handler) device(next func(http.ResponseWriter, *request) error) edge.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		event := edge.EventOf(r.Context())
		event.Quiet()
		if err := h.verify(w, r); err != nil {
			return err
		}
		if err := validateHeaders(r.Header); err != nil {
			return err
		}
		id := r.Header.Get(headerEnrollmentID)
		event.Set("enrollment_id", id)
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		enrollment, vector, err := h.Store.DeviceEnrollment(ctx, id)
		if err != nil {
			return err
		}
		composition, err := h.Compositor.Compose(ctx, id, vector)
		if err != nil {
			return err
		}
		return next(w, &request{
			Request:     r.WithContext(ctx),
			enrollment:  enrollment,
			composition: composition,
			update:      seen(enrollment, r.Header.Get(headerType), r.Header.Get(headerParentID)),
			observe:     r.Header.Get(headerObserve) == "1",
		})
	}
}

// verify checks the signature of a request, if there has to be one.
func (h handler) verify(w http.ResponseWriter, r *http.Request) error {
	if h.VerifyKey == "" {
		return nil
	}
	body, err := edge.ReadBody(w, r, maxStatusBytes)
	if err != nil {
		return err
	}
	return edge.VerifySignature(r, h.VerifyKey, body)
}

// validateHeaders checks what names the enrollment.
func validateHeaders(header http.Header) error {
	problem := protocol.ValidateEnrollmentID(headerEnrollmentID, header.Get(headerEnrollmentID))
	if parentID := header.Get(headerParentID); problem == nil && parentID != "" {
		problem = protocol.ValidateEnrollmentID(headerParentID, parentID)
	}
	if enrollmentType := header.Get(headerType); problem == nil && enrollmentType != "" {
		problem = protocol.ValidateName(headerType, enrollmentType)
		if problem == nil && len(enrollmentType) > maxTypeBytes {
			problem = &protocol.Problem{Field: headerType, Message: fmt.Sprintf("must not be longer than %d octets", maxTypeBytes)}
		}
	}
	if problem != nil {
		return edge.NewError(http.StatusBadRequest, "header %s", problem)
	}
	return nil
}

// record writes what the request tells of the device, if that is anything.
func (h handler) record(r *request, worth bool) error {
	if !worth || r.observe || !r.enrollment.Known {
		return nil
	}
	return h.Store.UpdateDevice(r.Context(), r.update)
}

// note is record for what a device need not be refused for: where nothing can be written, it is answered all the same. What is
// not known of it then has it told, or asked, once more.
func (h handler) note(r *request, worth bool) error {
	err := h.record(r, worth)
	var notReady *storage.NotReadyError
	if errors.As(err, &notReady) && r.Context().Err() == nil {
		edge.EventOf(r.Context()).Set("not_recorded", notReady.Reason)
		return nil
	}
	return err
}

func (h handler) tokens(w http.ResponseWriter, r *request) error {
	if err := h.note(r, askedTokens(r.enrollment, r.composition, &r.update)); err != nil {
		return err
	}
	return writeJSON(w, r.composition.Tokens())
}

func (h handler) declarationItems(w http.ResponseWriter, r *request) error {
	if r.enrollment.Known && !r.observe {
		// Kept before it is recorded, and recorded before it is served: what the manifest lists must be fetchable.
		if err := h.Compositor.KeepManifest(r.Context(), r.composition, r.enrollment.Now); err != nil {
			return err
		}
	}
	if err := h.record(r, fetchedManifest(r.enrollment, r.composition, &r.update)); err != nil {
		return err
	}
	return writeJSON(w, r.composition.DeclarationItems)
}

func (h handler) declaration(w http.ResponseWriter, r *request) error {
	class, known := protocol.ParseClass(r.PathValue("class"))
	if !known {
		return storage.ErrNotFound
	}
	body, err := h.findDeclaration(r, class, r.PathValue("identifier"))
	if err != nil {
		return err
	}
	if err := h.note(r, worthRecording(r.enrollment, &r.update)); err != nil {
		return err
	}
	return writeJSON(w, body)
}

// findDeclaration looks in what the enrollment should have, then in the manifest that it last fetched.
func (h handler) findDeclaration(r *request, class protocol.Class, identifier string) ([]byte, error) {
	item, found := r.composition.Lookup(identifier)
	if found && item.Class == class {
		body, err := h.Compositor.Declaration(r.Context(), r.enrollment.ID, item)
		if !errors.Is(err, storage.ErrNotFound) {
			return body, err
		}
	}
	e := r.enrollment
	if e.FetchedToken == "" || e.Now.Sub(e.FetchedAt) > manifestLife {
		return nil, storage.ErrNotFound
	}
	items, err := h.Compositor.Served(r.Context(), e.FetchedToken)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(items, func(item protocol.Item) bool {
		return item.Identifier == identifier && item.Class == class
	})
	if i < 0 {
		return nil, storage.ErrNotFound
	}
	return h.Compositor.Declaration(r.Context(), e.ID, items[i])
}

func (h handler) status(w http.ResponseWriter, r *request) error {
	if r.observe {
		return edge.NewError(http.StatusBadRequest, "a status report cannot be sent with %s", headerObserve)
	}
	result, err := h.takeReport(w, r)
	if h.Reported != nil {
		h.Reported(result)
	}
	if err == nil {
		w.WriteHeader(http.StatusOK)
	}
	return err
}

// takeReport stores and folds a status report, and tells what became of it.
func (h handler) takeReport(w http.ResponseWriter, r *request) (result string, err error) {
	body, err := edge.ReadBody(w, r.Request, maxStatusBytes)
	if err != nil {
		return "refused", err
	}
	if h.DumpStatus != nil {
		h.DumpStatus(r.enrollment.ID, body) // above all those that cannot be read
	}
	report, err := protocol.ParseStatusReport(body)
	if err != nil {
		return "refused", fmt.Errorf("status report: %w", err)
	}
	reported(r.enrollment, r.composition, report, &r.update)
	if err := h.Store.PutStatus(r.Context(), storage.ReceivedStatus{
		Raw: body, Report: report, Device: r.update, NothingNew: !worthRecording(r.enrollment, &r.update),
	}); err != nil {
		return "failed", err
	}
	return "folded", nil
}

// writeJSON answers exactly 200: anything else is an error for NanoMDM.
func writeJSON(w http.ResponseWriter, body []byte) error {
	w.Header()["Content-Type"] = []string{"application/json"}
	_, err := w.Write(body)
	if err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	return nil
}
