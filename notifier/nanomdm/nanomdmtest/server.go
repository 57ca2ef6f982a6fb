// Package nanomdmtest is a real NanoMDM and devices enrolled in it, for
// end-to-end tests. The push service (APNs) is the one fake.
//
// [Start] assembles NanoMDM from its own packages in the way its own main does
// and serves it on a TCP port of the loopback interface. [Server.NewDevice]
// makes devices that enroll in it with an identity certificate of their own,
// answer its commands and speak Declarative Device Management through it. What
// is under test (Decree, or a stub) is reached by the URLs given with
// [WithDM] and [WithWebhook], or later with [Server.SetDM] and
// [Server.SetWebhook].
//
// It is not a test double of NanoMDM: what NanoMDM answers here, it answers in
// production, mistakes included.
package nanomdmtest

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// Server is a running NanoMDM. Its methods may be called concurrently, but
// those that can fail the test (Stop, StopStorage, Restart, SetDM, SetWebhook,
// NewDevice and StorePushCertificate) only from the test's own goroutine.
type Server struct {
	tb           testing.TB
	apiKey       string
	topic        string
	authority    *authority
	open         openStore
	log          *logSink
	network      *pushNetwork
	recorder     *recorder
	deviceClient *http.Client
	address      string // set once, by the first start

	mutex    sync.Mutex
	settings settings
	running  *process // nil while stopped
}

// Start starts a NanoMDM that runs until the test ends. Without options it
// keeps its data in files, listens on a free port, forwards nothing and sends
// no events.
func Start(tb testing.TB, options ...Option) *Server {
	tb.Helper()

	settings := settings{address: "127.0.0.1:0", open: fileStore, pushCertificate: true}
	for _, option := range options {
		option(&settings)
	}

	server := &Server{
		tb:       tb,
		settings: settings,
		apiKey:   rand.Text(),
		topic:    "com.apple.mgmt.External." + uuid.NewString(),
		log:      newLogSink(tb),
		network:  newPushNetwork(),
		recorder: new(recorder),
		open:     settings.open(tb),
		deviceClient: &http.Client{
			Transport: &http.Transport{MaxIdleConnsPerHost: 16},
		},
	}

	var err error
	server.authority, err = newAuthority()
	require.NoError(tb, err, "creating the certificate authority")

	tb.Cleanup(server.log.close)
	tb.Cleanup(server.Stop)
	server.Restart()

	if settings.pushCertificate {
		server.StorePushCertificate()
	}

	return server
}

// URL is NanoMDM's base URL, without a slash at its end. It stays the same
// when the server is restarted.
func (s *Server) URL() string { return "http://" + s.address }

// EnqueueURL is where commands are enqueued: PUT EnqueueURL + ids.
func (s *Server) EnqueueURL() string { return s.URL() + "/v1/enqueue/" }

// PushURL is where pushes are asked for: GET PushURL + ids.
func (s *Server) PushURL() string { return s.URL() + "/v1/push/" }

// APIKey is the password of the user "nanomdm" of NanoMDM's API.
func (s *Server) APIKey() string { return s.apiKey }

// Topic is the APNs topic of the push certificate and the devices.
func (s *Server) Topic() string { return s.topic }

// SetDM makes NanoMDM forward the devices' DeclarativeManagement check-ins to
// the URL, which should end with a slash, as if it had been started with -dm.
func (s *Server) SetDM(url string) {
	s.tb.Helper()
	s.reconfigure(func(settings *settings) { settings.dmURL = url })
}

// SetWebhook makes NanoMDM send its events to the URL, as if it had been
// started with -webhook-url.
func (s *Server) SetWebhook(url string) {
	s.tb.Helper()
	s.reconfigure(func(settings *settings) { settings.webhookURL = url })
}

func (s *Server) reconfigure(change func(*settings)) {
	s.tb.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()

	change(&s.settings)

	if s.running == nil {
		return
	}

	handler, err := s.assemble(s.running.store, s.running.outbound.client)
	require.NoError(s.tb, err, "assembling NanoMDM")
	s.running.setHandler(handler)
}

// Stop ends NanoMDM as a kill would: the port refuses connections, and
// all connections, to it and from it, break at once. It may be called when
// already stopped.
func (s *Server) Stop() {
	s.tb.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()

	s.stop()
}

func (s *Server) stop() {
	s.tb.Helper()

	if s.running == nil {
		return
	}

	err := s.running.kill()
	s.running = nil
	// A connection that the server has broken would fail the next request.
	s.deviceClient.CloseIdleConnections()

	if err != nil {
		s.tb.Errorf("stopping NanoMDM: %v", err)
	}
}

// StopStorage takes NanoMDM's database away until the next Restart: NanoMDM
// goes on to answer, with errors. It only makes a difference with PostgreSQL.
func (s *Server) StopStorage() {
	s.tb.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()

	require.NoError(s.tb, s.running.closeStore(), "closing NanoMDM's storage")
}

// Restart stops NanoMDM, if it runs, and starts it on the same port and with
// the same data.
func (s *Server) Restart() {
	s.tb.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()

	s.stop()

	store, closeStore, err := s.open()
	require.NoError(s.tb, err, "opening NanoMDM's storage")

	recording := &recordingStore{AllStorage: store, recorder: s.recorder}
	outbound := newOutbound()

	handler, err := s.assemble(recording, outbound.client)
	require.NoError(s.tb, err, "assembling NanoMDM")

	address := s.address
	if address == "" {
		address = s.settings.address
	}

	listener, err := listen(address)
	require.NoError(s.tb, err, "listening")

	if s.address == "" {
		s.address = listener.Addr().String()
	}

	s.running = startProcess(listener, handler, recording, closeStore, outbound)
}

// StorePushCertificate gives NanoMDM a push certificate for [Server.Topic]
// through its API, like an administrator.
func (s *Server) StorePushCertificate() {
	s.tb.Helper()

	pair, err := s.authority.pushCertificate(s.topic)
	require.NoError(s.tb, err, "creating the push certificate")

	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()

	request, err := http.NewRequestWithContext(ctx, http.MethodPut, s.URL()+"/v1/pushcert", strings.NewReader(pair))
	require.NoError(s.tb, err)
	request.SetBasicAuth(apiUser, s.apiKey)

	response, err := s.deviceClient.Do(request)
	require.NoError(s.tb, err, "storing the push certificate")

	defer response.Body.Close()
	require.Equal(s.tb, http.StatusOK, response.StatusCode, "storing the push certificate")
}

// Enqueued lists the commands that NanoMDM has queued, oldest first.
func (s *Server) Enqueued() []EnqueuedCommand { return s.recorder.list(true) }

// Refused lists the commands that NanoMDM was asked to queue but did not, for
// some or all of the ids, oldest first.
func (s *Server) Refused() []EnqueuedCommand { return s.recorder.list(false) }

// FailPushes makes the push service ask the function about each push, by the
// hex push token ([Device.PushToken]); an error fails the push. The function
// may be called concurrently. Nil lets all pushes through again.
func (s *Server) FailPushes(fail func(token string) error) { s.network.setFailure(fail) }

// Pushes counts the pushes that the push service has delivered.
func (s *Server) Pushes() int { return s.network.delivered() }
