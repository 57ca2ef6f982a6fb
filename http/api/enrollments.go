package api

import (
	"net/http"
	"time"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/storage"
)

// maxEnrollmentSets is how many sets are shown with an enrollment; /v1/enrollment-sets has them all.
const maxEnrollmentSets = 1000

type enrollment struct {
	ID           string       `json:"id"`
	Type         string       `json:"type,omitempty"`
	ParentID     string       `json:"parent_id,omitempty"`
	Known        bool         `json:"known"`
	Sets         []string     `json:"sets"`
	InSync       bool         `json:"in_sync"`
	DesiredToken string       `json:"desired_token"`
	SyncedToken  string       `json:"synced_token,omitempty"`
	FetchedToken string       `json:"fetched_token,omitempty"`
	Held         bool         `json:"held"`
	NotifyAt     string       `json:"notify_at,omitempty"`
	Attempts     int          `json:"attempts"`
	LastError    string       `json:"last_error,omitempty"`
	LastSeen     string       `json:"last_seen,omitempty"`
	LastCommand  *lastCommand `json:"last_command,omitempty"`
}

type lastCommand struct {
	CommandUUID    string `json:"command_uuid"`
	Token          string `json:"token,omitempty"`
	SentAt         string `json:"sent_at,omitempty"`
	AcknowledgedAt string `json:"acknowledged_at,omitempty"`
	Sends          int    `json:"sends"`
}

func (a *api) getEnrollment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathName(r, "id")
	if err != nil {
		return err
	}
	e, vector, err := a.Store.Enrollment(r.Context(), id)
	if err != nil {
		return err
	}
	if !e.Known {
		return edge.NewError(http.StatusNotFound, "there is no enrollment %q", id)
	}
	desired, empty, err := a.Compositor.Desired(r.Context(), e, vector)
	if err != nil {
		return err
	}
	answer := enrollment{
		ID:           e.ID,
		Type:         e.Type,
		ParentID:     e.ParentID,
		Known:        e.Known,
		Sets:         []string{},
		InSync:       e.InSync(desired, empty),
		DesiredToken: desired,
		SyncedToken:  e.SyncedToken,
		FetchedToken: e.FetchedToken,
		Held:         e.Held,
		NotifyAt:     timestamp(e.NotifyAt),
		Attempts:     e.Attempts,
		LastError:    e.LastError,
		LastSeen:     timestamp(e.LastSeen),
		LastCommand:  lastCommandOf(e),
	}
	for _, set := range vector[:min(len(vector), maxEnrollmentSets)] {
		answer.Sets = append(answer.Sets, set.Name)
	}
	return edge.WriteJSON(w, http.StatusOK, answer)
}

func lastCommandOf(e *storage.Enrollment) *lastCommand {
	if e.CommandUUID == "" {
		return nil
	}
	return &lastCommand{
		CommandUUID:    e.CommandUUID,
		Token:          e.CommandToken,
		SentAt:         timestamp(e.CommandSentAt),
		AcknowledgedAt: timestamp(e.CommandAcknowledgedAt),
		Sends:          e.Sends,
	}
}

// timestamp is a time as RFC 3339 in UTC, and nothing for the zero time. Whole seconds: jq's fromdateiso8601 takes no
// others.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
