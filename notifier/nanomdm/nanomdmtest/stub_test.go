package nanomdmtest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/micromdm/plist"
	"github.com/stretchr/testify/require"
)

// stub is a server of declarations that has the same few for everyone.
type stub struct {
	server *httptest.Server

	mutex        sync.Mutex
	declarations []stubDeclaration
	requests     []stubRequest
	failures     map[string]int // status code by decoded path
	events       []event
	signingKey   string
}

type stubDeclaration struct {
	class, identifier, token string
	declarationType          string
	payload                  map[string]any
}

type stubRequest struct {
	method, path string
	header       http.Header
	body         []byte
}

type event struct {
	Topic        string `json:"topic"`
	CheckinEvent struct {
		IDs struct {
			ID string `json:"id"`
		} `json:"ids"`
		TokenUpdateTally *int `json:"token_update_tally"`
	} `json:"checkin_event"`
}

func startStub(t *testing.T) *stub {
	t.Helper()

	s := &stub{failures: make(map[string]int)}
	s.put(stubDeclaration{
		class: "activation", identifier: "example.activation", token: "1",
		declarationType: "com.apple.activation.simple",
		payload:         map[string]any{"StandardConfigurations": []string{"example.test"}},
	})
	s.put(testDeclaration("example.test", "1"))
	s.put(stubDeclaration{
		class: "management", identifier: "example.organization", token: "1",
		declarationType: "com.apple.management.organization-info",
		payload:         map[string]any{"Name": "Example"},
	})

	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhook", s.serveEvent)
	mux.HandleFunc("GET /ddm/tokens", s.serveTokens)
	mux.HandleFunc("GET /ddm/declaration-items", s.serveItems)
	mux.HandleFunc("GET /ddm/declaration/{class}/{identifier...}", s.serveDeclaration)
	mux.HandleFunc("PUT /ddm/status", func(http.ResponseWriter, *http.Request) {})

	s.server = httptest.NewServer(s.record(mux))
	t.Cleanup(s.server.Close)

	return s
}

func testDeclaration(identifier, token string) stubDeclaration {
	return stubDeclaration{
		class: "configuration", identifier: identifier, token: token,
		declarationType: testConfiguration,
		payload:         map[string]any{"Echo": token},
	}
}

func (s *stub) dmURL() string      { return s.server.URL + "/ddm/" }
func (s *stub) webhookURL() string { return s.server.URL + "/webhook" }

// record notes what arrives, and answers with the failures that are asked for.
func (s *stub) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}

		s.mutex.Lock()
		if request.URL.Path == "/webhook" {
			var received event
			if json.Unmarshal(body, &received) == nil {
				s.events = append(s.events, received)
			}
		}
		s.requests = append(s.requests, stubRequest{request.Method, request.URL.Path, request.Header.Clone(), body})
		failure, key := s.failures[request.URL.Path], s.signingKey
		s.mutex.Unlock()

		recorder := httptest.NewRecorder()
		if failure != 0 {
			http.Error(recorder, "the stub fails", failure)
		} else {
			next.ServeHTTP(recorder, request)
		}

		maps.Copy(writer.Header(), recorder.Header())

		if key != "" {
			writer.Header().Set("X-Hmac-Signature", signature(key, recorder.Body.Bytes()))
		}

		writer.WriteHeader(recorder.Code)
		_, _ = writer.Write(recorder.Body.Bytes())
	})
}

func (s *stub) serveEvent(http.ResponseWriter, *http.Request) {}

func signature(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)

	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func (s *stub) put(declaration stubDeclaration) {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	s.removeLocked(declaration.identifier)
	s.declarations = append(s.declarations, declaration)
	slices.SortFunc(s.declarations, func(a, b stubDeclaration) int { return strings.Compare(a.identifier, b.identifier) })
}

func (s *stub) remove(identifier string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	s.removeLocked(identifier)
}

func (s *stub) removeLocked(identifier string) {
	s.declarations = slices.DeleteFunc(s.declarations, func(d stubDeclaration) bool { return d.identifier == identifier })
}

func (s *stub) fail(path string, status int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	s.failures["/ddm/"+path] = status
}

func (s *stub) sign(key string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	s.signingKey = key
}

// received lists the requests of the device, oldest first.
func (s *stub) received(id string) []stubRequest {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	return slices.DeleteFunc(slices.Clone(s.requests), func(r stubRequest) bool {
		return r.header.Get("X-Enrollment-ID") != id
	})
}

func (s *stub) topics(id string) []string {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	var topics []string

	for _, event := range s.events {
		if event.CheckinEvent.IDs.ID == id {
			topics = append(topics, event.Topic)
		}
	}

	return topics
}

// token is a token for the declarations as they are.
func (s *stub) token() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	sum := sha256.New()
	for _, declaration := range s.declarations {
		fmt.Fprintf(sum, "%q %q\n", declaration.identifier, declaration.token)
	}

	return fmt.Sprintf("%x", sum.Sum(nil))
}

func (s *stub) tokens() []byte {
	return encode(map[string]any{"SyncTokens": map[string]any{
		"DeclarationsToken": s.token(), "Timestamp": time.Now().UTC().Format(time.RFC3339),
	}})
}

func (s *stub) serveTokens(writer http.ResponseWriter, _ *http.Request) {
	_, _ = writer.Write(s.tokens())
}

func (s *stub) serveItems(writer http.ResponseWriter, _ *http.Request) {
	lists := map[string][]map[string]any{"Activations": {}, "Assets": {}, "Configurations": {}, "Management": {}}
	names := map[string]string{
		"activation": "Activations", "asset": "Assets", "configuration": "Configurations", "management": "Management",
	}
	token := s.token()

	s.mutex.Lock()
	for _, declaration := range s.declarations {
		name := names[declaration.class]
		lists[name] = append(lists[name], map[string]any{
			"Identifier": declaration.identifier, "ServerToken": declaration.token,
		})
	}
	s.mutex.Unlock()

	_, _ = writer.Write(encode(map[string]any{"Declarations": lists, "DeclarationsToken": token}))
}

func (s *stub) serveDeclaration(writer http.ResponseWriter, request *http.Request) {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	for _, declaration := range s.declarations {
		if declaration.class == request.PathValue("class") && declaration.identifier == request.PathValue("identifier") {
			_, _ = writer.Write(encode(map[string]any{
				"Identifier": declaration.identifier, "Type": declaration.declarationType,
				"ServerToken": declaration.token, "Payload": declaration.payload,
			}))

			return
		}
	}

	http.NotFound(writer, request)
}

func encode(value any) []byte {
	encoded, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}

	return encoded
}

// answer is the answer of NanoMDM's API to an enqueue or a push.
type answer struct {
	code   int
	Status map[string]struct {
		PushError    string `json:"push_error"`
		PushResult   string `json:"push_result"`
		CommandError string `json:"command_error"`
	} `json:"status"`
	NoPush       bool   `json:"no_push"`
	PushError    string `json:"push_error"`
	CommandError string `json:"command_error"`
	CommandUUID  string `json:"command_uuid"`
	RequestType  string `json:"request_type"`
}

// call asks NanoMDM's API for something about the ids.
func call(ctx context.Context, t *testing.T, s *Server, method, base, query string, body string, ids ...string) answer {
	t.Helper()

	escaped := make([]string, len(ids))
	for i, id := range ids {
		escaped[i] = url.PathEscape(id)
	}

	request, err := http.NewRequestWithContext(ctx, method, base+strings.Join(escaped, ",")+query, strings.NewReader(body))
	require.NoError(t, err)
	request.SetBasicAuth("nanomdm", s.APIKey())

	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)

	defer response.Body.Close()

	var decoded answer
	require.NoError(t, json.NewDecoder(response.Body).Decode(&decoded))
	decoded.code = response.StatusCode

	return decoded
}

// enqueue enqueues a DeclarativeManagement command and pushes.
func enqueue(ctx context.Context, t *testing.T, s *Server, data []byte, ids ...string) answer {
	t.Helper()

	return call(ctx, t, s, http.MethodPut, s.EnqueueURL(), "", commandOf(t, uuid.NewString(), data), ids...)
}

func commandOf(t *testing.T, commandUUID string, data []byte) string {
	t.Helper()

	content := map[string]any{"RequestType": "DeclarativeManagement"}
	if data != nil {
		content["Data"] = data
	}

	encoded, err := plist.Marshal(map[string]any{"CommandUUID": commandUUID, "Command": content})
	require.NoError(t, err)

	return string(encoded)
}
