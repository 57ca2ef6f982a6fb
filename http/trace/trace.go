// Package trace names what belongs together across servers, as W3C Trace Context has it: it reads, makes and writes the
// header traceparent. It records nothing and sends nothing.
//
// https://www.w3.org/TR/trace-context/
package trace

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
)

// Header is the header that a trace comes and goes with.
const Header = "Traceparent"

// Trace is a trace. The zero value is none.
type Trace struct {
	id    string // 32 hexadecimal digits
	flags byte
}

// The flags that there are in version 00 and in the drafts of the next. Others are not passed on.
const (
	flagSampled = 1 << 0
	flagRandom  = 1 << 1
)

// New returns a new trace. It is not marked as sampled, for nothing is recorded of it here but log lines.
func New() Trace {
	var id [16]byte
	for id == [16]byte{} {
		_, _ = rand.Read(id[:]) // it never fails
	}
	return Trace{id: hex.EncodeToString(id[:]), flags: flagRandom}
}

// Of returns the trace of a request: the one that its header names or, where there is none, not one or not a valid one, a
// new one.
func Of(header http.Header) Trace {
	// Of two, nobody knows which one is right.
	if values := header[Header]; len(values) == 1 {
		if t, ok := Parse(values[0]); ok {
			return t
		}
	}
	return New()
}

// What a traceparent is made of: version, trace id, parent id and flags, with dashes in between.
const (
	versionEnd = 2
	idBegin    = versionEnd + 1
	idEnd      = idBegin + 32
	parentEnd  = idEnd + 1 + 16
	flagsEnd   = parentEnd + 1 + 2
)

// Parse reads a traceparent. A version that is not known yet may have more behind what version 00 has.
func Parse(value string) (t Trace, ok bool) {
	if len(value) < flagsEnd || value[versionEnd] != '-' || value[idEnd] != '-' || value[parentEnd] != '-' {
		return t, false
	}
	version, id, parent := value[:versionEnd], value[idBegin:idEnd], value[idEnd+1:parentEnd]
	flags, rest := value[parentEnd+1:flagsEnd], value[flagsEnd:]
	switch {
	case !isHex(version) || !isHex(id) || !isHex(parent) || !isHex(flags):
		return t, false
	case version == "ff" || isZero(id) || isZero(parent):
		return t, false
	case version == "00" && rest != "", rest != "" && rest[0] != '-':
		return t, false
	}
	decoded, err := hex.DecodeString(flags)
	if err != nil {
		return t, false
	}
	return Trace{id: id, flags: decoded[0] & (flagSampled | flagRandom)}, true
}

// isHex reports whether a text has nothing but hexadecimal digits, in lower case as the standard wants them.
func isHex(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isZero(text string) bool { return strings.Trim(text, "0") == "" }

// ID is what the trace is called in logs.
func (t Trace) ID() string { return t.id }

// Parent returns the traceparent for one request that is made as a part of the trace.
func (t Trace) Parent() string {
	var parent [8]byte
	for parent == [8]byte{} {
		_, _ = rand.Read(parent[:]) // it never fails
	}
	return "00-" + t.id + "-" + hex.EncodeToString(parent[:]) + "-" + hex.EncodeToString([]byte{t.flags})
}

type key struct{}

// With returns a context whose requests are part of a trace.
func With(ctx context.Context, t Trace) context.Context { return context.WithValue(ctx, key{}, t) }

// Pass adds the trace of a request's context, if there is one, to its header.
func Pass(request *http.Request) {
	if t, ok := request.Context().Value(key{}).(Trace); ok {
		request.Header.Set(Header, t.Parent())
	}
}
