package edge

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
)

// SignatureHeader is the header in which NanoMDM signs bodies and expects them to be signed: the base64 of an
// HMAC-SHA256 (NanoMDM: http/hashbody, service/dmhook, service/webhook).
const SignatureHeader = "X-Hmac-Signature"

// Signature returns the signature of a body.
func Signature(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body) // never fails
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// VerifySignature returns an error unless the request carries the signature of its body. How long it takes tells
// nothing about the right one.
func VerifySignature(r *http.Request, key string, body []byte) error {
	given := r.Header.Get(SignatureHeader)
	if given == "" {
		return NewError(http.StatusUnauthorized, "the request is not signed: there is no header %s", SignatureHeader)
	}
	if !hmac.Equal([]byte(given), []byte(Signature(key, body))) {
		return NewError(http.StatusUnauthorized, "the signature in the header %s is not that of the body", SignatureHeader)
	}
	return nil
}

// signer holds an answer back until it can be signed. Answers that are signed are those to devices, which are small.
type signer struct {
	http.ResponseWriter
	body bytes.Buffer
	code int
}

func (s *signer) WriteHeader(code int) {
	if s.code == 0 {
		s.code = code
	}
}

// Unwrap is for http.ResponseController, by which deadlines are set.
func (s *signer) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *signer) Write(b []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return s.body.Write(b)
}

// signed has every answer of a handler signed, empty and error answers too. Without a key it returns the handler.
func signed(key string, handler http.Handler) http.Handler {
	if key == "" {
		return handler
	}
	return routed(func(w http.ResponseWriter, r *http.Request) {
		held := &signer{ResponseWriter: w}
		handler.ServeHTTP(held, r)
		held.WriteHeader(http.StatusOK)
		w.Header().Set(SignatureHeader, Signature(key, held.body.Bytes()))
		w.WriteHeader(held.code)
		_, _ = w.Write(held.body.Bytes()) // the client may be gone
	})
}
