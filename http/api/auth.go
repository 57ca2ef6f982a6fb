package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/decree-ddm/decree/http/edge"
)

// authorized lets a request through that has the API key: as the password of Basic authentication with any user name
// (existing scripts send "kmfddm"), or as a Bearer token.
func (a *api) authorized(next edge.HandlerFunc) edge.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		key := presentedKey(r)
		digest := sha256.Sum256([]byte(key))
		// Digests are of one length, so that the time tells nothing of the key's.
		same := subtle.ConstantTimeCompare(digest[:], a.keyDigest[:]) == 1
		if key == "" || !same {
			w.Header().Set("WWW-Authenticate", `Basic realm="decree"`)
			return edge.NewError(http.StatusUnauthorized,
				"the API key is missing or wrong: send it as the password of Basic authentication, or as a Bearer token")
		}
		return next(w, r)
	}
}

// presentedKey returns the key that a request came with, or nothing.
func presentedKey(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return ""
}
