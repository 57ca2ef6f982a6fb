package nanomdmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// declarativeState is what a device knows of its declarations. Enrolling
// again begins with an empty one.
type declarativeState struct {
	declarationsToken string
	declarations      map[string]HeldDeclaration // by identifier
	replaced          map[string]HeldDeclaration // by identifier, what the last manifest replaced
	reported          bool                       // the full report of the enrollment is done
	statusDue         bool                       // something has changed since the last report
	settled           *string                    // the token at the end of the last good sync
}

// HeldDeclaration is a declaration that a device holds and what came of it.
type HeldDeclaration struct {
	Identifier  string
	Class       string
	ServerToken string
	// JSON is the declaration as fetched.
	JSON []byte
	// Active, Valid and Reasons are what the device reports.
	Active  bool
	Valid   string
	Reasons []Reason
}

// Reason is one of the reasons that a status report gives for a state.
type Reason struct {
	Code        string         `json:"code"`
	Description string         `json:"description,omitempty"`
	Details     map[string]any `json:"details,omitempty"`
}

// Faults are ways in which a device goes wrong. The zero value is a sound one.
type Faults struct {
	// FailFetch, if set, is called with the endpoint before each request of a
	// sync. An error stops the sync; the request is not made. As it is called
	// between two requests, it is also the place to change something there.
	FailFetch func(endpoint string) error
	// SkipSecondTokens leaves out the tokens request after the declarations.
	SkipSecondTokens bool
	// SkipStatus leaves out the status report. It stays due.
	SkipStatus bool
	// ReportOldTokens reports declarations that were just replaced under their
	// old ServerToken too.
	ReportOldTokens bool
	// RawEndpoints does not escape identifiers in endpoints.
	RawEndpoints bool
}

// SetFaults makes the device faulty, or sound again.
func (d *Device) SetFaults(faults Faults) {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.faults = faults
}

// DeclarationsToken is the token of the last manifest that the device has
// processed to its end.
func (d *Device) DeclarationsToken() string {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return d.state.declarationsToken
}

// Declarations returns the declarations that the device holds, by identifier.
func (d *Device) Declarations() map[string]HeldDeclaration {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return maps.Clone(d.state.declarations)
}

// Trace lists the endpoints that syncs have requested, oldest first. Calls of
// [Device.DeclarativeManagement] are not in it.
func (d *Device) Trace() []string {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return slices.Clone(d.trace)
}

// ClearTrace empties what [Device.Trace] returns.
func (d *Device) ClearTrace() {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.trace = nil
}

// maximumRounds bounds how often a sync starts over because the second tokens
// request shows that the declarations have changed again.
const maximumRounds = 10

var errTokensUnsteady = errors.New("tokens and declaration-items do not come to agree")

// Sync does what a DeclarativeManagement command with the data, or without if
// it is empty, makes the device do. Old data is how a queue that is not first
// in, first out looks to the device.
func (d *Device) Sync(ctx context.Context, data []byte) error {
	d.conversation.Lock()
	defer d.conversation.Unlock()

	return d.synchronize(ctx, data)
}

// synchronize runs a sync and keeps its error. The conversation is held.
func (d *Device) synchronize(ctx context.Context, data []byte) error {
	err := d.synchronizeSteps(ctx, data)
	if err != nil {
		err = fmt.Errorf("sync of %s: %w", d.id, err)
	}

	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.lastError = err

	if err == nil {
		token := d.state.declarationsToken
		d.state.settled = &token
		d.announce()
	}

	return err
}

// WaitSync returns when a sync, of a running device or by another goroutine,
// has ended well, status report included, and the device holds the token.
func (d *Device) WaitSync(ctx context.Context, token string) error {
	err := d.wait(ctx, func() bool { return d.state.settled != nil && *d.state.settled == token })
	if err != nil {
		return fmt.Errorf("device %s waits to hold %q: %w (last error: %v)", d.id, token, err, d.LastError())
	}

	return nil
}

// synchronizeSteps goes through what devices were seen to request: tokens,
// unless the command told it, declaration-items, the changed declarations,
// tokens, status.
func (d *Device) synchronizeSteps(ctx context.Context, data []byte) error {
	var (
		token string
		err   error
	)

	if len(data) > 0 {
		token, err = parseTokens(data)
	} else {
		token, err = d.fetchTokens(ctx)
	}

	if err != nil {
		return err
	}

	for round := 0; token != d.DeclarationsToken(); round++ {
		if round == maximumRounds {
			return errTokensUnsteady
		}

		if err := d.processManifest(ctx); err != nil {
			return err
		}

		if d.currentFaults().SkipSecondTokens {
			break
		}

		if token, err = d.fetchTokens(ctx); err != nil {
			return err
		}
	}

	if !d.statusIsDue() || d.currentFaults().SkipStatus {
		return nil
	}

	return d.report(ctx, false)
}

func (d *Device) currentFaults() Faults {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return d.faults
}

func (d *Device) statusIsDue() bool {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return d.state.statusDue
}

// request makes one request of a sync.
func (d *Device) request(ctx context.Context, endpoint string, data []byte) ([]byte, error) {
	if fail := d.currentFaults().FailFetch; fail != nil {
		if err := fail(endpoint); err != nil {
			return nil, fmt.Errorf("before %q: %w", endpoint, err)
		}
	}

	d.mutex.Lock()
	d.trace = append(d.trace, endpoint)
	d.mutex.Unlock()

	return d.DeclarativeManagement(ctx, endpoint, data)
}

func (d *Device) fetchTokens(ctx context.Context) (string, error) {
	answer, err := d.request(ctx, "tokens", nil)
	if err != nil {
		return "", err
	}

	return parseTokens(answer)
}

// processManifest fetches the manifest, drops what is not in it any more and
// fetches what is new. What arrives before a failure is kept; the token of the
// manifest is kept only if nothing failed.
func (d *Device) processManifest(ctx context.Context) error {
	answer, err := d.request(ctx, "declaration-items", nil)
	if err != nil {
		return err
	}

	items, token, err := parseManifest(answer)
	if err != nil {
		return err
	}

	for _, item := range d.startManifest(items) {
		declaration, err := d.fetchDeclaration(ctx, item)
		if err != nil {
			return err
		}

		d.hold(declaration)
	}

	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.state.declarationsToken = token
	d.state.statusDue = true
	evaluate(d.state.declarations)

	return nil
}

// startManifest drops the declarations that are not among the items and
// returns the items to fetch.
func (d *Device) startManifest(items []manifestItem) []manifestItem {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	listed := make(map[string]manifestItem, len(items))
	for _, item := range items {
		listed[item.Identifier] = item
	}

	maps.DeleteFunc(d.state.declarations, func(identifier string, held HeldDeclaration) bool {
		return listed[identifier].class != held.Class
	})

	d.state.replaced = make(map[string]HeldDeclaration)

	return slices.DeleteFunc(items, func(item manifestItem) bool {
		return d.state.declarations[item.Identifier].ServerToken == item.ServerToken
	})
}

func (d *Device) hold(declaration HeldDeclaration) {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	if old, held := d.state.declarations[declaration.Identifier]; held {
		d.state.replaced[declaration.Identifier] = old
	}

	if d.state.declarations == nil {
		d.state.declarations = make(map[string]HeldDeclaration)
	}

	d.state.declarations[declaration.Identifier] = declaration
}

func (d *Device) fetchDeclaration(ctx context.Context, item manifestItem) (HeldDeclaration, error) {
	endpoint := "declaration/" + item.class + "/" + escapePath(item.Identifier)
	if d.currentFaults().RawEndpoints {
		endpoint = "declaration/" + item.class + "/" + item.Identifier
	}

	answer, err := d.request(ctx, endpoint, nil)
	if err != nil {
		return HeldDeclaration{}, err
	}

	var declaration struct{ Identifier, Type, ServerToken string }
	if err := json.Unmarshal(answer, &declaration); err != nil {
		return HeldDeclaration{}, fmt.Errorf("%w: %s: %w", errMalformed, endpoint, err)
	}

	if declaration.Identifier != item.Identifier || declaration.ServerToken == "" ||
		!strings.HasPrefix(declaration.Type, "com.apple."+item.class+".") {
		return HeldDeclaration{}, fmt.Errorf("%w: %s is %+v", errMalformed, endpoint, declaration)
	}

	return HeldDeclaration{
		Identifier:  item.Identifier,
		Class:       item.class,
		ServerToken: declaration.ServerToken,
		JSON:        bytes.Clone(answer),
	}, nil
}
