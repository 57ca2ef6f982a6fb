package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/decree-ddm/decree/http/edge"
)

// Authorized lets a request through that has an API key with the role for it: as the password of Basic authentication
// with any user name (existing scripts send "kmfddm"), or as a Bearer token.
func Authorized(keys *Keyring, next edge.HandlerFunc) edge.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		key := keys.find(presentedKey(r))
		if key == nil {
			w.Header().Set("WWW-Authenticate", `Basic realm="decree"`)
			return edge.NewError(http.StatusUnauthorized,
				"the API key is missing or wrong: send it as the password of Basic authentication, or as a Bearer token")
		}
		edge.EventOf(r.Context()).Set("key_name", key.name)
		if key.role != roleWrite && r.Method != http.MethodGet && r.Method != http.MethodHead {
			return edge.NewError(http.StatusForbidden,
				"this needs an API key with the role %s, and %s has the role %s", roleWrite, key.name, key.role)
		}
		return next(w, r.WithContext(context.WithValue(r.Context(), keyNameKey{}, key.name)))
	}
}

// keyNameKey is under which a request's context has the name of its API key.
type keyNameKey struct{}

// ownPages refuses changes that pages of other origins than the allowed one make browsers send, which add the password that
// was typed in before. Clients that are no browsers do not notice.
func ownPages(allowed string, next edge.HandlerFunc) edge.HandlerFunc {
	if allowed == "*" {
		return next
	}
	protection := http.NewCrossOriginProtection()
	if allowed != "" {
		_ = protection.AddTrustedOrigin(allowed) // what is no origin is that of no page
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		if protection.Check(r) != nil {
			return edge.NewError(http.StatusForbidden, "a browser sent this for a page of another origin than -cors-origin")
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
