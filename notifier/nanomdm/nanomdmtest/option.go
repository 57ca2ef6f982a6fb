package nanomdmtest

import "testing"

// settings are what NanoMDM would be told by its flags.
type settings struct {
	address         string
	open            func(testing.TB) openStore
	pushCertificate bool
	dmURL           string
	dmSendKey       string
	dmReceiveKey    string
	webhookURL      string
	webhookKey      string
}

// Option changes how [Start] starts NanoMDM.
type Option func(*settings)

// WithFileStorage keeps the data in files of a temporary directory. It is the
// default. A command queue of this backend is ordered by CommandUUID, not by
// time, and takes commands for ids that were never enrolled.
func WithFileStorage() Option {
	return func(settings *settings) { settings.open = fileStore }
}

// WithMemoryStorage keeps the data in memory, in NanoMDM's key-value backend.
// Its data outlives [Server.Restart], though not a real restart.
func WithMemoryStorage() Option {
	return func(settings *settings) { settings.open = memoryStore }
}

// WithPostgres keeps the data in a PostgreSQL database of the test's own. The
// test is skipped where there is none.
func WithPostgres() Option {
	return func(settings *settings) { settings.open = postgresStore }
}

// WithListener makes the server listen on the address instead of on a free
// port of 127.0.0.1.
func WithListener(address string) Option {
	return func(settings *settings) { settings.address = address }
}

// WithDM is NanoMDM's -dm: where DeclarativeManagement check-ins are
// forwarded to. The URL should end with a slash.
func WithDM(url string) Option {
	return func(settings *settings) { settings.dmURL = url }
}

// WithDMSendHMACKey is NanoMDM's -dm-send-hmac-key: it signs what it forwards.
func WithDMSendHMACKey(key string) Option {
	return func(settings *settings) { settings.dmSendKey = key }
}

// WithDMRecvHMACKey is NanoMDM's -dm-recv-hmac-key: it takes only signed
// answers to what it forwards.
func WithDMRecvHMACKey(key string) Option {
	return func(settings *settings) { settings.dmReceiveKey = key }
}

// WithWebhook is NanoMDM's -webhook-url: where it sends events.
func WithWebhook(url string) Option {
	return func(settings *settings) { settings.webhookURL = url }
}

// WithWebhookHMACKey is NanoMDM's -webhook-hmac-key: it signs its events.
func WithWebhookHMACKey(key string) Option {
	return func(settings *settings) { settings.webhookKey = key }
}

// WithoutPushCertificate starts NanoMDM without a push certificate, so that
// every push fails until [Server.StorePushCertificate].
func WithoutPushCertificate() Option {
	return func(settings *settings) { settings.pushCertificate = false }
}
