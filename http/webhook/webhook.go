// Package webhook takes the events that NanoMDM and MicroMDM send about enrollments. Nothing depends on having seen an
// event: they get lost, repeated and out of order. They make things quicker, and re-enrollments visible.
package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

// maxBodyBytes is for the event of a status report of the largest size, which is in it in base64 twice.
const maxBodyBytes = 32 << 20

// Config is what Register needs.
type Config struct {
	Store storage.Events
	// Key, if not empty, is what events must be signed with: NanoMDM's -webhook-hmac-key.
	Key string
	// EnrollSets returns the sets for an enrollment of a type that enrolls and has none.
	EnrollSets func(enrollmentType string) []string
	// RemoveSets has an enrollment that leaves lose its sets.
	RemoveSets bool
	// Wake, if not nil, is called when an enrollment was marked. It must not block.
	Wake func()
	// Now is the clock that the MDM's is compared with; nil: this machine's. Another one is for tests.
	Now func() time.Time
}

// Register adds the endpoint to a mux.
func Register(mux *edge.Mux, config Config) {
	if config.Now == nil {
		config.Now = time.Now
	}
	mux.HandleOpaque("POST /webhook", handler{config}.webhook, "")
}

type handler struct{ Config }

// event is the body that NanoMDM and MicroMDM send (NanoMDM: service/webhook, EventJson). MicroMDM and older versions of
// NanoMDM have no ids.
type event struct {
	Topic            string      `json:"topic"`
	CreatedAt        string      `json:"created_at"`
	CheckinEvent     *enrollment `json:"checkin_event"`
	AcknowledgeEvent *enrollment `json:"acknowledge_event"`
}

type enrollment struct {
	IDs struct {
		ID       string `json:"id"`
		Type     string `json:"type"`
		ParentID string `json:"parent_id"`
	} `json:"ids"`
	UDID         string `json:"udid"`
	EnrollmentID string `json:"enrollment_id"`

	TokenUpdateTally int `json:"token_update_tally"`

	Status      string          `json:"status"`
	CommandUUID string          `json:"command_uuid"`
	RawPayload  json.RawMessage `json:"raw_payload"`
}

func (h handler) webhook(w http.ResponseWriter, r *http.Request) error {
	log := edge.EventOf(r.Context())
	log.Quiet()
	body, err := edge.ReadBody(w, r, maxBodyBytes)
	if err != nil {
		return err
	}
	if h.Key != "" {
		if err := edge.VerifySignature(r, h.Key, body); err != nil {
			return err
		}
	}
	var received event
	if err := json.Unmarshal(body, &received); err != nil {
		return edge.NewError(http.StatusBadRequest, "the event is not JSON of the expected form: %v", err)
	}
	log.Set("topic", received.Topic)
	e, relevant, err := received.read(h.Now())
	if err != nil {
		return err
	}
	if relevant {
		log.Set("enrollment_id", e.ID)
		if err := h.apply(r.Context(), e); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusOK) // anything else is an error for NanoMDM
	return nil
}

func (h handler) apply(ctx context.Context, e storage.Event) error {
	options := storage.EventOptions{RemoveSets: h.RemoveSets}
	if h.EnrollSets != nil {
		options.EnrollSets = h.EnrollSets(e.Type)
	}
	if e.Kind != storage.EventCommand {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("making a change id: %w", err)
		}
		edge.EventOf(ctx).Set("change_id", id.String())
		options.Change = storage.ChangeOptions{ChangeID: id.String(), By: storage.ByEvent}
	}
	marked, err := h.Store.ApplyEvent(ctx, e, options)
	if err == nil && marked && h.Wake != nil {
		h.Wake()
	}
	return err
}

// commandStatuses are what devices answer to a command, as opposed to asking for one.
var commandStatuses = []string{"Acknowledged", "NotNow", "Error", "CommandFormatError"}

// mayBeOurs reports whether a command may be one of ours, whose ids are UUIDs. Those of others can be any text.
func mayBeOurs(commandUUID string) bool { return commandUUID != "" && len(commandUUID) <= 64 }

// maxClockLead is how far the MDM's clock may be ahead before its time is not believed.
const maxClockLead = 5 * time.Minute

// read returns what an event means, and whether it means anything here.
func (received *event) read(now time.Time) (e storage.Event, relevant bool, err error) {
	about := received.CheckinEvent
	switch received.Topic {
	case "mdm.Authenticate":
		e.Kind = storage.EventAuthenticate
	case "mdm.TokenUpdate":
		e.Kind = storage.EventTokenUpdate
	case "mdm.CheckOut":
		e.Kind = storage.EventCheckOut
	case "mdm.Connect":
		e.Kind = storage.EventCommand
		about = received.AcknowledgeEvent
	default:
		return e, false, nil
	}
	if about == nil {
		return e, false, edge.NewError(http.StatusBadRequest, "the event is about no enrollment")
	}
	if e.Kind == storage.EventCommand && (!mayBeOurs(about.CommandUUID) || !slices.Contains(commandStatuses, about.Status)) {
		return e, false, nil
	}
	if about.IDs.ID == "" && ofUser(about.RawPayload) {
		// Without ids it names the user's device, which it is not about.
		return e, false, nil
	}
	e.Type, e.ParentID = about.IDs.Type, about.IDs.ParentID
	for _, id := range []string{about.IDs.ID, about.EnrollmentID, about.UDID} {
		if e.ID == "" {
			e.ID = id
		}
	}
	if err := validate(e, about.TokenUpdateTally); err != nil {
		return e, false, err
	}
	e.At = now
	if at, err := time.Parse(time.RFC3339Nano, received.CreatedAt); err == nil && !at.IsZero() && at.Before(now.Add(maxClockLead)) {
		e.At = at
	}
	e.Tally = about.TokenUpdateTally
	e.CommandUUID, e.Status = about.CommandUUID, about.Status
	if e.Status == "Error" || e.Status == "CommandFormatError" {
		e.Error = errorText(about.RawPayload)
	}
	return e, true, nil
}

// maxTypeBytes bounds what storage keeps of an enrollment's type.
const maxTypeBytes = 64

// validate checks what is to be stored.
func validate(e storage.Event, tally int) error {
	problem := ddm.ValidateEnrollmentID("enrollment id", e.ID)
	if problem == nil && e.ParentID != "" {
		problem = ddm.ValidateEnrollmentID("parent_id", e.ParentID)
	}
	if problem == nil && e.Type != "" {
		problem = ddm.ValidateName("type", e.Type)
		if problem == nil && len(e.Type) > maxTypeBytes {
			problem = &ddm.Problem{Field: "type", Message: fmt.Sprintf("must not be longer than %d octets", maxTypeBytes)}
		}
	}
	if problem == nil && (tally < 0 || tally > math.MaxInt32) {
		problem = &ddm.Problem{Field: "token_update_tally", Message: "must be a number of token updates"}
	}
	if problem != nil {
		return &ddm.InvalidError{Problems: []ddm.Problem{*problem}}
	}
	return nil
}
