package nanomdmtest

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/plist"
	"github.com/smallstep/pkcs7"
)

const (
	requestTimeout = 30 * time.Second

	checkinContentType = "application/x-apple-aspen-mdm-checkin"
	commandContentType = "application/x-apple-aspen-mdm"
)

// message is what a device sends: a check-in message, which has a MessageType,
// or the report of a command, which has a Status.
type message struct {
	mdm.Enrollment
	MessageType string `plist:",omitempty"`

	// Authenticate and TokenUpdate
	Topic        string `plist:",omitempty"`
	SerialNumber string `plist:",omitempty"`
	PushMagic    string `plist:",omitempty"`
	Token        []byte `plist:",omitempty"`

	// DeclarativeManagement
	Endpoint string `plist:",omitempty"`
	Data     []byte `plist:",omitempty"`

	// the report of a command
	Status      string           `plist:",omitempty"`
	CommandUUID string           `plist:",omitempty"`
	ErrorChain  []mdm.ErrorChain `plist:",omitempty"`
}

// AnswerError is an answer of NanoMDM's other than 200, as a device sees it.
type AnswerError struct {
	// StatusCode is NanoMDM's. What the server behind -dm answers instead of
	// 200 arrives as a 500.
	StatusCode int
	// Body is NanoMDM's text for the status code, followed by what the server
	// behind -dm answered, if it was asked.
	Body []byte
}

// Error shows the answer.
func (e *AnswerError) Error() string {
	return fmt.Sprintf("answer %d: %q", e.StatusCode, e.Body)
}

// send sends a message and returns the body of the answer.
func (d *Device) send(ctx context.Context, content message) ([]byte, error) {
	content.Enrollment = d.enrollment

	body, err := plist.Marshal(&content)
	if err != nil {
		return nil, fmt.Errorf("encoding message: %w", err)
	}

	request, err := http.NewRequestWithContext(ctx, http.MethodPut, d.server.URL()+mdmPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}

	signature, err := sign(d.identity, body)
	if err != nil {
		return nil, fmt.Errorf("signing message: %w", err)
	}

	request.Header.Set("Mdm-Signature", signature)
	request.Header.Set("Content-Type", commandContentType)

	if content.MessageType != "" {
		request.Header.Set("Content-Type", checkinContentType)
	}

	response, err := d.server.deviceClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()

	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading answer: %w", err)
	}

	if response.StatusCode != http.StatusOK {
		return nil, &AnswerError{StatusCode: response.StatusCode, Body: answer}
	}

	return answer, nil
}

// sign makes the Mdm-Signature of a message: a detached CMS signature that
// holds the identity certificate.
func sign(identity *identity, body []byte) (string, error) {
	signed, err := pkcs7.NewSignedData(body)
	if err != nil {
		return "", err
	}

	// The package's default, SHA-1, is refused with a key of this kind.
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)

	if err := signed.AddSigner(identity.certificate, identity.key, pkcs7.SignerInfoConfig{}); err != nil {
		return "", err
	}

	signed.Detach()

	signature, err := signed.Finish()
	if err != nil {
		return "", err
	}

	return base64.StdEncoding.EncodeToString(signature), nil
}
