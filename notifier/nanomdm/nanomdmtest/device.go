package nanomdmtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/micromdm/nanomdm/mdm"
	"github.com/stretchr/testify/require"
)

// Device is a simulated Apple device, or one of its user channels: an
// enrollment in NanoMDM with an engine for Declarative Device Management. Its
// methods may be called concurrently; it holds one conversation with NanoMDM
// at a time.
type Device struct {
	server       *Server
	tb           testing.TB
	identity     *identity
	enrollment   mdm.Enrollment
	id           string
	serialNumber string
	pushMagic    string

	conversation sync.Mutex // held for the length of a poll or a sync

	mutex        sync.Mutex // guards what follows
	userChannels []*Device
	pushToken    string
	pushes       int           // received
	polled       int           // pushes that a poll has answered
	awaited      int           // pushes that WaitPush has returned for
	returning    bool          // it comes back by itself, after NotNow
	changed      chan struct{} // closed and replaced when one of these changes
	notNow       bool
	refusing     bool
	commands     []ReceivedCommand
	state        declarativeState
	faults       Faults
	trace        []string
	lastError    error
}

// ReceivedCommand is a command that a device was given.
type ReceivedCommand struct {
	UUID        string
	RequestType string
	// Data is the Data of a DeclarativeManagement command, if there is one.
	Data []byte
	// Status is what the device answered: Acknowledged, NotNow or Error.
	Status string
}

// NewDevice makes a device with a UDID and an identity certificate of its own.
// It is not enrolled.
func (s *Server) NewDevice(tb testing.TB) *Device {
	tb.Helper()

	return s.newDevice(tb, mdm.Enrollment{UDID: strings.ToUpper(uuid.NewString())})
}

// NewDeviceWithID is [Server.NewDevice] with a given UDID, which is also its
// enrollment id.
func (s *Server) NewDeviceWithID(tb testing.TB, udid string) *Device {
	tb.Helper()

	return s.newDevice(tb, mdm.Enrollment{UDID: udid})
}

// NewUserEnrollment makes a device that is the user's own: it has an
// EnrollmentID instead of a UDID, and NanoMDM's type for it is "User
// Enrollment (Device)".
func (s *Server) NewUserEnrollment(tb testing.TB) *Device {
	tb.Helper()

	return s.newDevice(tb, mdm.Enrollment{EnrollmentID: strings.ToUpper(uuid.NewString())})
}

func (s *Server) newDevice(tb testing.TB, enrollment mdm.Enrollment) *Device {
	tb.Helper()

	id := enrollment.UDID + enrollment.EnrollmentID
	identity, err := s.authority.identity(id)
	require.NoError(tb, err, "issuing an identity certificate")

	return &Device{
		server:       s,
		tb:           tb,
		identity:     identity,
		enrollment:   enrollment,
		id:           id,
		serialNumber: strings.ToUpper(rand.Text()[:12]),
		pushMagic:    uuid.NewString(),
		changed:      make(chan struct{}),
	}
}

// NewUserChannel makes a user channel of the device. Its enrollment id is the
// device's, a colon and the user's; its type is "User", or for a user
// enrollment "User Enrollment". Enroll it after the device.
func (d *Device) NewUserChannel() *Device {
	user := strings.ToUpper(uuid.NewString())
	enrollment := d.enrollment

	if enrollment.UDID == "" {
		enrollment.EnrollmentUserID = user
	} else {
		enrollment.UserID = user
		enrollment.UserShortName = "user-" + user[:8]
		enrollment.UserLongName = "User " + user[:8]
	}

	return d.newChannel(enrollment, user)
}

// NewSharedIPadUser makes a user channel of NanoMDM's type "Shared iPad".
func (d *Device) NewSharedIPadUser(managedAppleID string) *Device {
	enrollment := d.enrollment
	enrollment.UserID = mdm.SharediPadUserID
	enrollment.UserShortName = managedAppleID

	return d.newChannel(enrollment, managedAppleID)
}

func (d *Device) newChannel(enrollment mdm.Enrollment, user string) *Device {
	channel := &Device{
		server:       d.server,
		tb:           d.tb,
		identity:     d.identity,
		enrollment:   enrollment,
		id:           d.id + ":" + user,
		serialNumber: d.serialNumber,
		pushMagic:    uuid.NewString(),
		changed:      make(chan struct{}),
	}

	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.userChannels = append(d.userChannels, channel)

	return channel
}

// ID is the enrollment id that NanoMDM gives the device.
func (d *Device) ID() string { return d.id }

// ParentID is the enrollment id of a user channel's device, else empty.
func (d *Device) ParentID() string {
	if device := d.enrollment.UDID + d.enrollment.EnrollmentID; device != d.id {
		return device
	}

	return ""
}

// Enroll enrolls or enrolls again: Authenticate, which a user channel does not
// have, and TokenUpdate.
func (d *Device) Enroll(ctx context.Context) error {
	if d.ParentID() == "" {
		if err := d.Authenticate(ctx); err != nil {
			return err
		}
	}

	return d.TokenUpdate(ctx)
}

// Authenticate starts an enrollment. The device and its user channels forget
// every declaration.
func (d *Device) Authenticate(ctx context.Context) error {
	d.forget()

	_, err := d.send(ctx, message{
		MessageType: "Authenticate", Topic: d.server.topic, SerialNumber: d.serialNumber,
	})

	return wrap("Authenticate", err)
}

// TokenUpdate tells NanoMDM a new push token, and so completes an enrollment.
// The old push token is no longer good.
func (d *Device) TokenUpdate(ctx context.Context) error {
	token := make([]byte, 32)
	if _, err := rand.Read(token); err != nil {
		return err
	}

	d.replacePushToken(hex.EncodeToString(token))

	_, err := d.send(ctx, message{
		MessageType: "TokenUpdate", Topic: d.server.topic, PushMagic: d.pushMagic, Token: token,
	})

	return wrap("TokenUpdate", err)
}

// CheckOut leaves the MDM: the device and its user channels forget every
// declaration and get no pushes any more. A user channel does not leave by
// itself: most of NanoMDM's backends answer its CheckOut with a 500.
func (d *Device) CheckOut(ctx context.Context) error {
	_, err := d.send(ctx, message{MessageType: "CheckOut", Topic: d.server.topic})
	if err != nil {
		return wrap("CheckOut", err)
	}

	d.forget()

	for _, channel := range append(d.channels(), d) {
		channel.replacePushToken("")
	}

	return nil
}

func (d *Device) replacePushToken(token string) {
	d.mutex.Lock()
	old := d.pushToken
	d.pushToken = token
	d.mutex.Unlock()

	d.server.network.replace(old, token, d)
}

func (d *Device) channels() []*Device {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return slices.Clone(d.userChannels)
}

// forget drops all declarations, as (un)enrolling does.
func (d *Device) forget() {
	for _, channel := range d.channels() {
		channel.forget()
	}

	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.state = declarativeState{}
}

// PushToken is the device's present push token in hex, the name that
// [Server.FailPushes] knows it by.
func (d *Device) PushToken() string {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return d.pushToken
}

// Pushes counts the pushes that the device has received.
func (d *Device) Pushes() int {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return d.pushes
}

// Commands lists the commands that the device was given, oldest first. One that
// was answered NotNow and given again is listed again.
func (d *Device) Commands() []ReceivedCommand {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return slices.Clone(d.commands)
}

// SetNotNow makes the device answer NotNow to every command, like a locked
// one. When that ends, a running device ([Device.Run]) comes back by itself.
func (d *Device) SetNotNow(notNow bool) {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.returning = d.returning || d.notNow && !notNow
	d.notNow = notNow
	d.announce()
}

// SetCommandError makes the device answer Error to every command.
func (d *Device) SetCommandError(refusing bool) {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.refusing = refusing
}

// LastError is why the last sync, or poll of a running device, failed; nil if
// it did not.
func (d *Device) LastError() error {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	return d.lastError
}

func (d *Device) setLastError(err error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.lastError = err
}

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}

	return fmt.Errorf("%s: %w", operation, err)
}
