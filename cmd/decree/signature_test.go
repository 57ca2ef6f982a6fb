package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/http/edge"
	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// hmacKeys are the keys that NanoMDM and Decree share: of events, of what NanoMDM forwards, of what it gets back.
type hmacKeys struct{ webhook, toDecree, fromDecree string }

func (k *hmacKeys) ofNanoMDM() []nanomdmtest.Option {
	if k == nil {
		return nil
	}
	return []nanomdmtest.Option{
		nanomdmtest.WithWebhookHMACKey(k.webhook), nanomdmtest.WithDMSendHMACKey(k.toDecree),
		nanomdmtest.WithDMRecvHMACKey(k.fromDecree),
	}
}

func (k *hmacKeys) ofDecree() []string {
	if k == nil {
		return nil
	}
	return []string{"-webhook-hmac-key", k.webhook, "-dm-verify-hmac-key", k.toDecree, "-dm-sign-hmac-key", k.fromDecree}
}

// TestSignatures checks that all goes as ever where all keys agree.
func TestSignatures(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		keys := &hmacKeys{"webhook", "to Decree", "from Decree"}
		nano := nanomdmtest.Start(t, append(keys.ofNanoMDM(), nanomdmtest.WithMemoryStorage())...)
		s := withEvents(t, nano, append(flags, append(keys.ofDecree(), "-enroll-sets", "base")...))
		s.putTest("test.a", "first")
		s.addToSet("base", "test.a")
		device := nano.NewDevice(t)
		require.NoError(t, device.Enroll(ctx))
		device.Run(ctx)
		s.eventually(func() bool { return s.token(device.ID()) != s.token("nobody") }, "the event")
		require.NoError(t, device.WaitSync(ctx, s.token(device.ID())))
		s.waitInSync(device.ID())
		require.Contains(t, device.Declarations(), "test.a")
		require.Contains(t, s.declarationStatus(device.ID()), "test.a")

		// Refusals are signed too.
		_, err := device.DeclarativeManagement(ctx, "declaration/configuration/test.none", nil)
		require.ErrorContains(t, err, "not found")
	})
}

// TestWrongSignatures checks that with another key on one of the sides nothing is believed and nobody is told.
func TestWrongSignatures(t *testing.T) {
	right := hmacKeys{"webhook", "to Decree", "from Decree"}
	for name, wrong := range map[string]hmacKeys{
		"of events":                     {"another", right.toDecree, right.fromDecree},
		"of no events":                  {"", right.toDecree, right.fromDecree},
		"of what NanoMDM sends":         {right.webhook, "another", right.fromDecree},
		"of nothing that NanoMDM sends": {right.webhook, "", right.fromDecree},
		"of what NanoMDM gets":          {right.webhook, right.toDecree, "another"},
	} {
		t.Run(name, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, flags []string) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				nano := nanomdmtest.Start(t, append(wrong.ofNanoMDM(), nanomdmtest.WithMemoryStorage())...)
				s := beside(t, nano, append(flags, append(right.ofDecree(), "-enroll-sets", "base")...))
				s.putTest("test.a", "first")
				s.addToSet("base", "test.a")
				s.waitFanouts()
				before := s.content()
				device := nano.NewDevice(t)
				if wrong.webhook != right.webhook {
					nano.SetWebhook(s.url + "/webhook")
				}
				require.NoError(t, device.Enroll(ctx), "the device does not suffer")
				for endpoint, data := range map[string]string{"tokens": "", "declaration-items": "", "status": `{"StatusItems":{}}`} {
					if wrong.toDecree == right.toDecree && wrong.fromDecree == right.fromDecree ||
						wrong.fromDecree != right.fromDecree && data != "" {
						continue // nothing is wrong with it
					}
					answer, err := device.DeclarativeManagement(ctx, endpoint, []byte(data))
					require.Error(t, err, "%s", answer)
					require.NotContains(t, err.Error(), "DeclarationsToken")
				}
				s.waitQuiet()
				require.Equal(t, before, s.content())
				require.Empty(t, nano.Enqueued())
			})
		})
	}
}

// TestUnsigned checks what is answered to strangers, who have no key.
func TestUnsigned(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		keys := &hmacKeys{"webhook", "to Decree", "from Decree"}
		s := startDecree(t, append(flags, keys.ofDecree()...)...)
		before := s.content()
		for _, request := range []string{
			"GET /tokens", "GET /declaration-items", "GET /declaration/configuration/test.a", "PUT /status", "POST /webhook",
		} {
			method, path, _ := strings.Cut(request, " ")
			for _, signature := range []string{"", "x", edge.Signature(keys.fromDecree, nil), edge.Signature("", nil)} {
				r, err := http.NewRequest(method, s.url+path, http.NoBody)
				require.NoError(t, err)
				r.Header.Set("X-Enrollment-ID", "device")
				if signature != "" {
					r.Header.Set("X-Hmac-Signature", signature)
				}
				code, text := s.send(r)
				require.Equal(t, http.StatusUnauthorized, code)
				require.JSONEq(t, `{"error":"unauthorized"}`, string(text))
			}
		}
		require.Equal(t, before, s.content())
	})
}
