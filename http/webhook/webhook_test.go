package webhook_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/http/webhook"
	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
	"github.com/decree-ddm/decree/storage"
)

// send brings an enrollment to where a command "command" of ours is the last.
func (w *world) send(id string) {
	w.Helper()
	w.exec(`INSERT INTO enrollments (id, created_at) VALUES (?, 0) ON CONFLICT DO NOTHING`, id)
	w.exec(`UPDATE enrollments SET command_uuid = 'command', command_token = 't', command_sent_at = 1,
		command_acknowledged_at = NULL, command_outcome = NULL, command_error = NULL WHERE id = ?`, id)
}

// TestNanoMDM checks the events of a real NanoMDM.
func TestNanoMDM(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w := newWorld(t, webhook.Config{Key: "key"})
	var mu sync.Mutex
	var bodies []string
	endpoint := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		w.mux.ServeHTTP(answer, r)
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, string(body)) // once it is applied
	}))
	t.Cleanup(endpoint.Close)
	seen := func(topic string, times int) {
		t.Helper()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Count(strings.Join(bodies, ""), `"`+topic+`"`) >= times
		}, 20*time.Second, time.Millisecond, topic)
	}
	nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage(), nanomdmtest.WithWebhookHMACKey("key"),
		nanomdmtest.WithWebhook(endpoint.URL+"/webhook"))
	device := nano.NewDevice(t)
	user := device.NewUserChannel()

	require.NoError(t, device.Enroll(ctx))
	seen("mdm.Authenticate", 1)
	seen("mdm.TokenUpdate", 1)
	e := w.enrollment(device.ID())
	require.True(t, e.Known)
	require.Equal(t, "Device", e.Type)
	require.WithinDuration(t, time.Now(), e.EnrolledAt, time.Minute)
	require.NotZero(t, e.NotifyAt)
	require.Positive(t, w.woken.Load())
	require.NoError(t, user.Enroll(ctx))
	seen("mdm.TokenUpdate", 2)
	require.Equal(t, "User", w.enrollment(user.ID()).Type)
	require.Equal(t, device.ID(), w.enrollment(user.ID()).ParentID)

	w.exec(`UPDATE enrollments SET notify_at = NULL`)
	require.NoError(t, device.TokenUpdate(ctx))
	seen("mdm.TokenUpdate", 3)
	require.Zero(t, w.enrollment(device.ID()).NotifyAt, "only a new push token")

	// The device answers a command.
	for i, answer := range []string{"NotNow", "Error", "Acknowledged"} {
		w.send(device.ID())
		device.SetNotNow(answer == "NotNow")
		device.SetCommandError(answer == "Error")
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, nano.EnqueueURL()+device.ID(),
			strings.NewReader(fmt.Sprintf(`<plist version="1.0"><dict><key>CommandUUID</key><string>command-%d</string>
				<key>Command</key><dict><key>RequestType</key><string>DeviceLock</string></dict></dict></plist>`, i)))
		require.NoError(t, err)
		request.SetBasicAuth("nanomdm", nano.APIKey())
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
		w.exec(`UPDATE enrollments SET command_uuid = ? WHERE id = ?`, fmt.Sprint("command-", i), device.ID())
		require.NoError(t, device.Poll(ctx))
		require.Eventually(t, func() bool { return w.enrollment(device.ID()).CommandOutcome == answer },
			20*time.Second, time.Millisecond, answer)
		e := w.enrollment(device.ID())
		require.Equal(t, answer == "Acknowledged", !e.CommandAcknowledgedAt.IsZero())
		if answer == "Error" {
			require.Equal(t, "The device was told to refuse commands. (MCMDMErrorDomain 12021)", e.CommandError)
		} else {
			require.Empty(t, e.CommandError)
		}
		device.SetNotNow(false)
		device.SetCommandError(false)
		if answer == "NotNow" {
			require.NoError(t, device.Poll(ctx)) // so that it is not in the queue any more
		}
	}
	require.NoError(t, device.CheckOut(ctx))
	seen("mdm.CheckOut", 1)
	require.NotZero(t, w.enrollment(device.ID()).LeftAt)
	require.NotZero(t, w.enrollment(user.ID()).LeftAt)
}

// TestMicroMDM checks events without ids, as MicroMDM and older versions of NanoMDM send them.
func TestMicroMDM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webhook.Config{EnrollSets: func(enrollmentType string) []string {
		require.Empty(t, enrollmentType)
		return []string{"base"}
	}})
	event := func(topic, content string) string {
		kind := "checkin_event"
		if topic == "mdm.Connect" {
			kind = "acknowledge_event"
		}
		return fmt.Sprintf(`{"topic":%q,"event_id":"e","created_at":%q,%q:{"udid":"UDID",%s,"url_params":null}}`,
			topic, time.Now().UTC().Format(time.RFC3339Nano), kind, content)
	}
	w.taken(event("mdm.Authenticate", `"raw_payload":"`+plistOf("<key>UDID</key><string>UDID</string>")+`"`))
	w.taken(event("mdm.TokenUpdate", `"raw_payload":"`+plistOf("<key>UDID</key><string>UDID</string>")+`"`))
	e := w.enrollment("UDID")
	require.NotZero(t, e.EnrolledAt)
	require.Empty(t, e.Type)
	sets, err := w.store.EnrollmentSets(t.Context(), "UDID", all)
	require.NoError(t, err)
	require.Equal(t, []string{"base"}, sets)
	w.send("UDID")
	w.taken(event("mdm.Connect", `"status":"Acknowledged","command_uuid":"command","raw_payload":"`+plistOf("")+`"`))
	require.Equal(t, "Acknowledged", w.enrollment("UDID").CommandOutcome)

	// Other people's commands have any ids.
	w.exec(`UPDATE enrollments SET lease_id = 1, lease_until = 1 WHERE id = 'UDID'`)
	for _, length := range []int{64, 65, 300, 100_000} {
		w.taken(event("mdm.Connect", `"status":"Error","command_uuid":"`+strings.Repeat("x", length)+`","raw_payload":""`))
	}
	var kept int
	require.NoError(t, w.raw.QueryRow(`SELECT COUNT(*) FROM early_results`).Scan(&kept))
	require.Equal(t, 1, kept, "those that can be ours")

	// A user's message names the user's device and is not about it.
	before := w.enrollments("")
	for _, key := range []string{"UserID", "EnrollmentUserID"} {
		of := `"raw_payload":"` + plistOf("<key>"+key+"</key><string>user</string>") + `"`
		for _, topic := range []string{"mdm.Authenticate", "mdm.TokenUpdate", "mdm.CheckOut"} {
			w.taken(event(topic, of))
		}
		w.taken(event("mdm.Connect", `"status":"Error","command_uuid":"command",`+of))
	}
	w.taken(event("mdm.CheckOut", `"raw_payload":"x"`)) // and this may be a user's
	require.Equal(t, before, w.enrollments(""))

	w.taken(event("mdm.CheckOut", `"raw_payload":""`))
	require.NotZero(t, w.enrollment("UDID").LeftAt)
	w.taken(`{"topic":"mdm.Authenticate","checkin_event":{"udid":"","enrollment_id":"own"}}`)
	require.True(t, w.enrollment("own").Known)
	w.taken(`{"topic":"mdm.Authenticate","checkin_event":{"udid":"UDID","enrollment_id":"preferred"}}`)
	require.True(t, w.enrollment("preferred").Known)
}

// TestChangesOfEvents: which sets an event assigned and removed is in the log of changes, as a change of the MDM's.
func TestChangesOfEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webhook.Config{EnrollSets: func(string) []string { return []string{"a", "b"} }, RemoveSets: true})
	changes := func() []storage.Change {
		list, _, err := w.store.Changes(t.Context(), storage.ChangeQuery{By: storage.ByEvent, Limit: 100})
		require.NoError(t, err)
		return list
	}
	w.taken(checkin("mdm.Authenticate", "E", ""))
	w.taken(checkin("mdm.TokenUpdate", "E", `,"token_update_tally":1`))
	assigned := changes()
	require.Len(t, assigned, 2)
	require.Equal(t, []string{"E", "b", "E", "a"},
		[]string{assigned[0].EnrollmentID, assigned[0].Set, assigned[1].EnrollmentID, assigned[1].Set})
	require.NoError(t, uuid.Validate(assigned[0].ChangeID))
	require.Equal(t, assigned[0].ChangeID, assigned[1].ChangeID, "one event")
	w.taken(checkin("mdm.CheckOut", "E", ""))
	removed := changes()
	require.Len(t, removed, 2+3)
	require.Equal(t, storage.ActionDropEnrollmentSets, removed[0].Action)
	require.Equal(t, []string{"b", "a"}, []string{removed[1].Set, removed[2].Set})
	for _, change := range removed[:3] {
		require.Equal(t, removed[0].ChangeID, change.ChangeID, "one event")
	}
	require.NotEqual(t, assigned[0].ChangeID, removed[0].ChangeID)
}

// TestSignature checks that only who has the key is believed.
func TestSignature(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webhook.Config{Key: "key"})
	body := checkin("mdm.Authenticate", "e", "")
	for _, signature := range []string{
		"", "x", edge.Signature("key", nil), edge.Signature("key", []byte(body+" ")), edge.Signature("another", []byte(body)),
		edge.Signature("", []byte(body)), strings.ToLower(edge.Signature("key", []byte(body))), edge.Signature("key", []byte(body)) + " ,",
	} {
		code, text := w.post(body, edge.SignatureHeader, signature)
		require.Equal(t, http.StatusUnauthorized, code, signature)
		require.JSONEq(t, `{"error":"unauthorized"}`, text)
	}
	code, _ := w.post(body)
	require.Equal(t, http.StatusUnauthorized, code)
	code, _ = w.post("no JSON")
	require.Equal(t, http.StatusUnauthorized, code, "what is not signed is not read")
	require.Empty(t, w.enrollments(""))
	code, _ = w.post(body, edge.SignatureHeader, edge.Signature("key", []byte(body)))
	require.Equal(t, http.StatusOK, code)
	require.True(t, w.enrollment("e").Known)
}

// TestMethods checks that a device, which can make NanoMDM send GET and PUT anywhere, sends no events.
func TestMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webhook.Config{})
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodHead, http.MethodDelete, http.MethodPatch} {
		recorder := httptest.NewRecorder()
		w.mux.ServeHTTP(recorder, httptest.NewRequest(method, "/webhook", strings.NewReader(checkin("mdm.Authenticate", "e", ""))))
		require.Equal(t, http.StatusMethodNotAllowed, recorder.Code, method)
		require.Equal(t, "POST", recorder.Header().Get("Allow"))
	}
	require.Empty(t, w.enrollments(""))
}

// TestOtherTopics checks that what is of no concern is taken, whatever it says.
func TestOtherTopics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webhook.Config{})
	for _, body := range []string{
		`{}`, `{"topic":""}`, `{"topic":"mdm.New"}`, `{"topic":"mdm.TokenUpdate "}`, `{"topic":"mdm.UserAuthenticate"}`,
		checkin("mdm.DeclarativeManagement", "e", ""), checkin("mdm.GetToken", "e", ""), checkin("mdm.SetBootstrapToken", "", ""),
		`{"topic":"mdm.Connect","acknowledge_event":{"ids":{"id":"e"},"status":"Idle"}}`,
		`{"topic":"mdm.Connect","acknowledge_event":{"ids":{"id":"e"},"status":"Idle","command_uuid":"u"}}`,
		`{"topic":"mdm.Connect","acknowledge_event":{"ids":{"id":"e"},"status":"Acknowledged"}}`,
		`{"topic":"mdm.Connect","acknowledge_event":{"ids":{"id":"e"},"status":"Odd","command_uuid":"u"}}`,
		`{"topic":"mdm.Connect","acknowledge_event":{"ids":{"id":"unknown"},"status":"Acknowledged","command_uuid":"u"}}`,
	} {
		w.taken(body)
	}
	require.Empty(t, w.enrollments(""))
	require.Zero(t, w.woken.Load())
}

// TestMalformed checks that what cannot be meant is refused, and changes nothing.
func TestMalformed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webhook.Config{})
	for _, body := range []string{
		``, `x`, `[]`, `"x"`, `{"topic":1}`, `{"topic":"mdm.Authenticate"`, `{"topic":"mdm.Authenticate"}`,
		`{"topic":"mdm.Authenticate","checkin_event":null}`, `{"topic":"mdm.Authenticate","checkin_event":[]}`,
		`{"topic":"mdm.Authenticate","acknowledge_event":{"udid":"e"}}`, `{"topic":"mdm.Connect","checkin_event":{"udid":"e"}}`,
		`{"topic":"mdm.Authenticate","checkin_event":{}}`, checkin("mdm.Authenticate", "", ""),
		checkin("mdm.Authenticate", "two,ids", ""), checkin("mdm.CheckOut", "..", ""), checkin("mdm.CheckOut", " e", ""),
		checkin("mdm.TokenUpdate", strings.Repeat("x", 256), ""), checkin("mdm.TokenUpdate", "a\tb", ""),
		checkin("mdm.TokenUpdate", "e", `,"token_update_tally":-1`), checkin("mdm.TokenUpdate", "e", `,"token_update_tally":1.5`),
		checkin("mdm.TokenUpdate", "e", `,"token_update_tally":2147483648`),
		checkin("mdm.TokenUpdate", "e", `,"token_update_tally":99999999999999999999`),
		`{"topic":"mdm.TokenUpdate","checkin_event":{"ids":{"id":"e","type":"` + strings.Repeat("x", 65) + `"}}}`,
		`{"topic":"mdm.TokenUpdate","checkin_event":{"ids":{"id":"e","type":"a\u0000"}}}`,
		`{"topic":"mdm.TokenUpdate","checkin_event":{"ids":{"id":"e","parent_id":"a,b"}}}`,
		strings.Repeat(`{"topic":`, 20_000),
	} {
		code, text := w.post(body)
		require.Equal(t, http.StatusBadRequest, code, "%.200s: %s", body, text)
		require.JSONEq(t, `{"error":"bad request"}`, text)
	}
	require.Empty(t, w.enrollments(""))
	code, _ := w.post(`{"topic":"mdm.New","x":"` + strings.Repeat("x", 32<<20) + `"}`)
	require.Equal(t, http.StatusRequestEntityTooLarge, code)
}

// TestTime checks that a time that cannot be right is not believed: it would make a device deaf to later events.
func TestTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webhook.Config{})
	now := time.Now()
	for i, created := range []string{
		``, `"created_at":"",`, `"created_at":"yesterday",`, `"created_at":"0001-01-01T00:00:00Z",`,
		`"created_at":"9999-12-31T23:59:59Z",`, `"created_at":"` + now.Add(time.Hour).Format(time.RFC3339) + `",`,
	} {
		id := fmt.Sprint("e", i)
		w.taken(`{` + created + `"topic":"mdm.TokenUpdate","checkin_event":{"udid":"` + id + `"}}`)
		require.WithinDuration(t, now, w.enrollment(id).EnrolledAt, time.Minute, created)
	}
	offset := now.Add(-time.Hour).In(time.FixedZone("", 5*3600)).Format(time.RFC3339Nano)
	w.taken(`{"created_at":"` + offset + `","topic":"mdm.TokenUpdate","checkin_event":{"udid":"e"}}`)
	require.WithinDuration(t, now.Add(-time.Hour), w.enrollment("e").EnrolledAt, time.Microsecond)
	w.taken(`{"created_at":"` + now.Add(time.Minute).Format(time.RFC3339) + `","topic":"mdm.TokenUpdate","checkin_event":{"udid":"f"}}`)
	require.WithinDuration(t, now.Add(time.Minute), w.enrollment("f").EnrolledAt, time.Second, "clocks differ a little")
}

// TestErrorText checks what is kept of why a device could not carry out a command.
func TestErrorText(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webhook.Config{})
	link := func(code, domain, localized, english string) string {
		return "<dict><key>ErrorCode</key><integer>" + code + "</integer><key>ErrorDomain</key><string>" + domain +
			"</string><key>LocalizedDescription</key><string>" + localized + "</string>" + english + "</dict>"
	}
	for _, c := range []struct{ payload, wanted string }{
		{`"` + plistOf("<key>ErrorChain</key><array>"+link("12021", "MCMDMErrorDomain", "Ungültig.",
			"<key>USEnglishDescription</key><string>Invalid.</string>")+link("-7", "Other", "Tief &lt;drin&gt;", "")+"</array>") + `"`,
			"Invalid. (MCMDMErrorDomain 12021); Tief <drin> (Other -7)"},
		{`"` + plistOf("<key>ErrorChain</key><array/>") + `"`, ""},
		{`"` + plistOf("<key>ErrorChain</key><string>x</string>") + `"`, ""},
		{`"` + plistOf("") + `"`, ""}, {`"not base64"`, ""}, {`"YWJj"`, ""}, {`null`, ""}, {`{}`, ""}, {`""`, ""},
		{`"` + plistOf("<key>ErrorChain</key><array>"+link("1", "D", strings.Repeat("é", 5000), "")+"</array>") + `"`,
			strings.Repeat("é", 1000)},
		{`"` + plistOf("<key>ErrorChain</key><array>"+link("1", "D", strings.Repeat("x", 300_000), "")+"</array>") + `"`, ""},
	} {
		for _, status := range []string{"Error", "CommandFormatError"} {
			w.send("e")
			w.taken(`{"topic":"mdm.Connect","acknowledge_event":{"ids":{"id":"e"},"status":"` + status +
				`","command_uuid":"command","raw_payload":` + c.payload + `}}`)
			require.Equal(t, status, w.enrollment("e").CommandOutcome)
			require.Equal(t, c.wanted, w.enrollment("e").CommandError)
		}
	}
}
