package webhook

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/micromdm/plist"
)

// maxResultBytes bounds the result of a command that is looked into for its error.
const maxResultBytes = 256 << 10

// errorText returns what a device says of a command that it could not carry out, from the property list of the result in
// base64. It is empty when there is nothing that can be read.
// Source: Apple's ErrorChain; NanoMDM's package mdm, CommandResults.
func errorText(rawPayload json.RawMessage) string {
	var result struct {
		ErrorChain []struct {
			ErrorCode            int
			ErrorDomain          string
			LocalizedDescription string
			USEnglishDescription string
		}
	}
	if !decode(rawPayload, &result) {
		return ""
	}
	var parts []string
	for _, e := range result.ErrorChain {
		description := e.USEnglishDescription
		if description == "" {
			description = e.LocalizedDescription
		}
		parts = append(parts, fmt.Sprintf("%s (%s %d)", description, e.ErrorDomain, e.ErrorCode))
	}
	return strings.ToValidUTF8(strings.Join(parts, "; "), "\ufffd")
}

// ofUser reports whether a message of a device may be of one of its user channels: it says so, or it cannot be read.
// Source: NanoMDM's package mdm, Enrollment.
func ofUser(rawPayload json.RawMessage) bool {
	if text := strings.TrimSpace(string(rawPayload)); text == "" || text == `""` || text == "null" {
		return false
	}
	var message struct{ UserID, EnrollmentUserID string }
	return !decode(rawPayload, &message) || message.UserID != "" || message.EnrollmentUserID != ""
}

// decode reads a property list in base64 in JSON, and reports whether it could.
func decode(rawPayload json.RawMessage, into any) (decoded bool) {
	var encoded string
	if len(rawPayload) > maxResultBytes || json.Unmarshal(rawPayload, &encoded) != nil {
		return false
	}
	payload, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return false
	}
	// What a stranger sends must not be able to stop the request, whatever the decoder makes of it.
	defer func() {
		if recover() != nil {
			decoded = false
		}
	}()
	return plist.Unmarshal(payload, into) == nil
}
