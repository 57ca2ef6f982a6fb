package nanomdmtest

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/http"

	nanolib "github.com/micromdm/nanolib/http"
	"github.com/micromdm/nanolib/http/trace"
	"github.com/micromdm/nanomdm/certverify"
	"github.com/micromdm/nanomdm/cryptoutil"
	httpapi "github.com/micromdm/nanomdm/http/api"
	httpmdm "github.com/micromdm/nanomdm/http/mdm"
	pushservice "github.com/micromdm/nanomdm/push/service"
	"github.com/micromdm/nanomdm/service"
	"github.com/micromdm/nanomdm/service/certauth"
	"github.com/micromdm/nanomdm/service/dmhook"
	"github.com/micromdm/nanomdm/service/multi"
	"github.com/micromdm/nanomdm/service/nanomdm"
	"github.com/micromdm/nanomdm/service/webhook"
	"github.com/micromdm/nanomdm/storage"
)

const (
	apiUser      = "nanomdm"
	mdmPath      = "/mdm"
	versionValue = "v0.9.0-nanomdmtest"
)

// assemble puts NanoMDM's parts together like its cmd/nanomdm/main.go (v0.9.0)
// does for -ca, -api, -dm, -webhook-url and the HMAC keys. Two parts differ:
// pushes go to the fake push service, and the client of its outgoing requests
// is not the process's default one, so that a stopped server's connections can
// be cut. Like there, the client has no time-out.
func (s *Server) assemble(store storage.AllStorage, client *http.Client) (http.Handler, error) {
	log := s.log.logger()

	core, err := s.coreService(store, client)
	if err != nil {
		return nil, err
	}

	verifier, err := certverify.NewPoolVerifier(s.authority.pem, nil, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, fmt.Errorf("certificate verifier: %w", err)
	}

	mux := http.NewServeMux()
	mdmMux := nanolib.NewMWMux(mux)
	mdmMux.Use(func(next http.Handler) http.Handler {
		return httpmdm.CertExtractMdmSignatureMiddleware(next,
			httpmdm.MdmSignatureVerifierFunc(cryptoutil.VerifyMdmSignature),
			httpmdm.SigLogWithLogger(log.With("handler", "cert-extract")))
	})
	mdmMux.Use(func(next http.Handler) http.Handler {
		return httpmdm.CertVerifyMiddleware(next, verifier, log.With("handler", "cert-verify"))
	})

	var mdmService service.CheckinAndCommandService = core
	if s.settings.webhookURL != "" {
		options := []webhook.Option{
			webhook.WithClient(client),
			webhook.WithTokenUpdateTalley(store),
			webhook.WithEventID(trace.GetTraceID),
		}
		if s.settings.webhookKey != "" {
			options = append(options, webhook.WithHMACSecret([]byte(s.settings.webhookKey)))
		}

		mdmService = multi.New(log.With("service", "multi"), mdmService, webhook.New(s.settings.webhookURL, options...))
	}

	mdmService = certauth.New(mdmService, store, certauth.WithLogger(log.With("service", "certauth")))
	mdmMux.Handle(mdmPath, httpmdm.CheckinAndCommandHandler(mdmService, log.With("handler", "checkin-command")))

	apiMux := nanolib.NewMWMux(mux)
	apiMux.Use(func(next http.Handler) http.Handler {
		return nanolib.NewSimpleBasicAuthHandler(next, apiUser, s.apiKey, "nanomdm")
	})

	pusher := pushservice.New(store, store, s.network, log.With("service", "push"))
	httpapi.HandleAPIv1("/v1", apiMux, log, store, pusher)
	mux.HandleFunc("/version", nanolib.NewJSONVersionHandler(versionValue))

	newTraceID := func(*http.Request) string { return rand.Text() }

	return trace.NewTraceLoggingHandler(mux, log.With("handler", "log"), newTraceID), nil
}

// coreService is NanoMDM's own service with its Declarative Management hook.
func (s *Server) coreService(store storage.AllStorage, client *http.Client) (*nanomdm.Service, error) {
	options := []nanomdm.Option{
		nanomdm.WithUserAuthenticate(nanomdm.NewUAService(store, false)),
		nanomdm.WithGetToken(nanomdm.NewTokenMux()),
		nanomdm.WithLogger(s.log.logger().With("service", "nanomdm")),
	}

	if s.settings.dmURL == "" {
		return nanomdm.New(store, options...), nil
	}

	hookOptions := []dmhook.Option{dmhook.WithClient(client)}
	if s.settings.dmSendKey != "" {
		hookOptions = append(hookOptions, dmhook.WithSetHMACSecret([]byte(s.settings.dmSendKey)))
	}

	if s.settings.dmReceiveKey != "" {
		hookOptions = append(hookOptions, dmhook.WithVerifyHMACSecret([]byte(s.settings.dmReceiveKey)))
	}

	hook, err := dmhook.New(s.settings.dmURL, hookOptions...)
	if err != nil {
		return nil, fmt.Errorf("declarative management hook: %w", err)
	}

	return nanomdm.New(store, append(options, nanomdm.WithDeclarativeManagement(hook))...), nil
}
