package nanomdmtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"
	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/nanomdm/push"
)

// pushNetwork stands in for APNs: it delivers pushes to the devices that hold
// a push token, and refuses the others in the words of APNs.
type pushNetwork struct {
	mutex   sync.Mutex
	devices map[string]*Device // by hex push token
	retired map[string]bool    // tokens that were valid once
	failure func(token string) error
	count   int
}

var (
	errBadDeviceToken = errors.New("push HTTP status: 400: APNs push error: BadDeviceToken")
	errUnregistered   = errors.New("push HTTP status: 410: APNs push error: Unregistered")
)

func newPushNetwork() *pushNetwork {
	return &pushNetwork{devices: make(map[string]*Device), retired: make(map[string]bool)}
}

// NewPushProvider implements NanoMDM's push.PushProviderFactory.
func (n *pushNetwork) NewPushProvider(certificate *tls.Certificate) (push.PushProvider, error) {
	if certificate == nil {
		return nil, errors.New("no push certificate")
	}

	return n, nil
}

// Push implements NanoMDM's push.PushProvider: the answers are by push token.
func (n *pushNetwork) Push(ctx context.Context, pushes []*mdm.Push) (map[string]*push.Response, error) {
	responses := make(map[string]*push.Response, len(pushes))

	for _, message := range pushes {
		if err := ctx.Err(); err != nil {
			return responses, err
		}

		token := message.Token.String()
		response := &push.Response{}

		if err := n.deliver(token, message.PushMagic); err != nil {
			response.Err = err
		} else {
			response.Id = uuid.NewString()
		}

		responses[token] = response
	}

	return responses, nil
}

func (n *pushNetwork) deliver(token, magic string) error {
	n.mutex.Lock()
	device, failure, retired := n.devices[token], n.failure, n.retired[token]
	n.mutex.Unlock()

	if failure != nil {
		if err := failure(token); err != nil {
			return fmt.Errorf("push HTTP status: 500: %w", err)
		}
	}

	switch {
	case device != nil:
	case retired:
		return errUnregistered
	default:
		return errBadDeviceToken
	}

	n.mutex.Lock()
	n.count++
	n.mutex.Unlock()

	device.wake(magic)

	return nil
}

// replace gives the device a new push token; an empty one only takes the old.
func (n *pushNetwork) replace(oldToken, newToken string, device *Device) {
	n.mutex.Lock()
	defer n.mutex.Unlock()

	if oldToken != "" {
		delete(n.devices, oldToken)
		n.retired[oldToken] = true
	}

	if newToken != "" {
		n.devices[newToken] = device
	}
}

func (n *pushNetwork) setFailure(failure func(token string) error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()

	n.failure = failure
}

func (n *pushNetwork) delivered() int {
	n.mutex.Lock()
	defer n.mutex.Unlock()

	return n.count
}
