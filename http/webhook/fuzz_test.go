package webhook_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/webhook"
	"github.com/decree-ddm/decree/storage"
)

var all = storage.Page{Limit: 1000}

// FuzzWebhook checks that no body is more than Decree can take, and that none changes another enrollment than the one that
// it names.
func FuzzWebhook(f *testing.F) {
	for _, topic := range []string{"mdm.Authenticate", "mdm.TokenUpdate", "mdm.CheckOut", "mdm.DeclarativeManagement"} {
		f.Add([]byte(checkin(topic, "device-1", `,"token_update_tally":2`)))
		f.Add([]byte(`{"topic":"` + topic + `","checkin_event":{"udid":"device-2","enrollment_id":"device-3"}}`))
		f.Add([]byte(`{"topic":"` + topic + `","checkin_event":{"ids":{"id":"new","type":"User","parent_id":"device-2"}}}`))
	}
	for _, status := range []string{"Acknowledged", "NotNow", "Error", "CommandFormatError", "Idle"} {
		f.Add([]byte(`{"topic":"mdm.Connect","acknowledge_event":{"ids":{"id":"device-1"},"status":"` + status +
			`","command_uuid":"command","raw_payload":"` + plistOf("<key>ErrorChain</key><array/>") + `"}}`))
	}
	f.Add([]byte(`{"topic":"mdm.Authenticate","Topic":"mdm.CheckOut","checkin_event":{"ids":{"id":"device-1"},"IDs":{"ID":"device-2"}}}`))
	seeded := newWorld(f, webhook.Config{
		EnrollSets: func(enrollmentType string) []string { return []string{"base"} }, RemoveSets: true,
	})
	for i := range 4 {
		seeded.send(fmt.Sprint("device-", i))
		seeded.exec(`INSERT INTO enrollment_sets (enrollment_id, set_name) VALUES (?, 'base')`, fmt.Sprint("device-", i))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := &world{TB: t, raw: seeded.raw, mux: seeded.mux}
		var named struct {
			Topic                          string `json:"topic"`
			CheckinEvent, AcknowledgeEvent struct {
				IDs struct {
					ID string `json:"id"`
				} `json:"ids"`
				UDID         string `json:"udid"`
				EnrollmentID string `json:"enrollment_id"`
			}
		}
		var event struct {
			Checkin     json.RawMessage `json:"checkin_event"`
			Acknowledge json.RawMessage `json:"acknowledge_event"`
		}
		_ = json.Unmarshal(body, &named)
		_ = json.Unmarshal(body, &event)
		_ = json.Unmarshal(event.Checkin, &named.CheckinEvent)
		about := &named.CheckinEvent
		if named.Topic == "mdm.Connect" {
			_ = json.Unmarshal(event.Acknowledge, &named.AcknowledgeEvent)
			about = &named.AcknowledgeEvent
		}
		id := ""
		for _, candidate := range []string{about.IDs.ID, about.EnrollmentID, about.UDID} {
			if id == "" {
				id = candidate
			}
		}
		before := w.enrollments(id)
		code, text := w.post(string(body))
		require.Contains(t, []int{http.StatusOK, http.StatusBadRequest}, code, text)
		require.Equal(t, before, w.enrollments(id))
	})
}
