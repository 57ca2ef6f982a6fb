package api

import (
	"net/http"
	"strings"

	"github.com/decree-ddm/decree/http/edge"
)

// allowOrigin lets the pages of an origin use the API from a browser. (Fetch standard, "CORS protocol".)
func (a *api) allowOrigin(mux *edge.Mux) {
	mux.Before(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != versionPath && !strings.HasPrefix(r.URL.Path, prefix) {
			return
		}
		header := w.Header()
		header.Set("Access-Control-Allow-Origin", a.CORSOrigin)
		header.Set("Access-Control-Expose-Headers",
			"Last-Modified, Link, X-Status-Report-ID, X-Status-Report-Index")
		if a.CORSOrigin != "*" {
			header.Add("Vary", "Origin")
		}
	})
	mux.Handle("OPTIONS "+versionPath, preflight)
	mux.Handle("OPTIONS "+prefix+"{path...}", preflight)
}

// preflight answers a browser's question before its request, which comes without the API key.
func preflight(w http.ResponseWriter, _ *http.Request) error {
	header := w.Header()
	header.Set("Access-Control-Allow-Methods", "GET, HEAD, PUT, POST, DELETE")
	header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Accept")
	header.Set("Access-Control-Max-Age", "7200")
	w.WriteHeader(http.StatusNoContent)
	return nil
}
