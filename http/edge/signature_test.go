package edge

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSignature checks a value that was made with `openssl dgst -sha256 -hmac key -binary | base64`.
func TestSignature(t *testing.T) {
	t.Parallel()
	require.Equal(t, "UVquEztDXUAAlWcx9orlz164XU8NxqVG0r/NNZXsGuE=", Signature("key", []byte("body")))
}

// TestAnswersAreSigned checks all kinds of answers: NanoMDM takes none that is not signed.
func TestAnswersAreSigned(t *testing.T) {
	t.Parallel()
	mux, _ := serve()
	for pattern, handler := range map[string]HandlerFunc{
		"GET /text": func(w http.ResponseWriter, _ *http.Request) error {
			for range 3 {
				if _, err := w.Write([]byte("text")); err != nil {
					return err
				}
			}
			return nil
		},
		"GET /empty":   func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(http.StatusOK); return nil },
		"GET /nothing": func(http.ResponseWriter, *http.Request) error { return nil },
		"GET /refused": func(http.ResponseWriter, *http.Request) error { return NewError(http.StatusNotFound, "a secret") },
		"GET /fails":   func(http.ResponseWriter, *http.Request) error { return errors.New("a secret") },
		"GET /panics":  func(http.ResponseWriter, *http.Request) error { panic("a secret") },
	} {
		mux.HandleOpaque(pattern, handler, "key")
		mux.HandleOpaque(strings.Replace(pattern, "/", "/unsigned/", 1), handler, "")
	}
	for path, wanted := range map[string]int{
		"/text": 200, "/empty": 200, "/nothing": 200, "/refused": 404, "/fails": 500, "/panics": 500,
	} {
		got := request(mux, "GET", path)
		require.Equal(t, wanted, got.Code, path)
		require.Equal(t, Signature("key", got.Body.Bytes()), got.Header().Get(SignatureHeader), path)
		require.NotContains(t, got.Body.String(), "secret")
		plain := request(mux, "GET", "/unsigned"+path)
		require.Empty(t, plain.Header().Get(SignatureHeader))
		require.Equal(t, got.Body.String(), plain.Body.String())
		require.Equal(t, got.Code, plain.Code)
	}
	require.Equal(t, "texttexttext", request(mux, "GET", "/text").Body.String())
	require.Empty(t, request(mux, "GET", "/other").Header().Get(SignatureHeader), "nor is what is not for devices")
}

// FuzzVerifySignature checks that no header but the right one is believed.
func FuzzVerifySignature(f *testing.F) {
	f.Add("", []byte("body"))
	f.Add("UVquEztDXUAAlWcx9orlz164XU8NxqVG0r/NNZXsGuE=", []byte("body"))
	f.Add("UVquEztDXUAAlWcx9orlz164XU8NxqVG0r/NNZXsGuE", []byte("body"))
	f.Add("=", []byte{})
	f.Fuzz(func(t *testing.T, given string, body []byte) {
		r := httptest.NewRequest(http.MethodPut, "/", nil)
		r.Header[SignatureHeader] = []string{given}
		err := VerifySignature(r, "key", body)
		require.Equal(t, given == Signature("key", body), err == nil)
		if err != nil {
			require.NotContains(t, err.Error(), Signature("key", body))
		}
	})
}
