package nanomdmtest

import (
	"context"
	"errors"
	"fmt"

	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/plist"
)

const (
	statusIdle         = "Idle"
	statusAcknowledged = "Acknowledged"
	statusNotNow       = "NotNow"
	statusError        = "Error"

	declarativeManagement = "DeclarativeManagement"

	maximumCommands = 1000
)

// errTooManyCommands ends a poll that is given commands without end.
var errTooManyCommands = errors.New("the command queue does not get empty")

// Poll asks for commands and carries them out until the queue is empty. A
// DeclarativeManagement command is acknowledged first and then makes the
// device sync. A failed sync does not keep the commands behind it waiting; the
// error tells of all that failed.
func (d *Device) Poll(ctx context.Context) error {
	d.conversation.Lock()
	defer d.conversation.Unlock()

	d.mutex.Lock()
	d.polled = d.pushes
	d.returning = false
	d.mutex.Unlock()

	var failures []error

	answer, err := d.send(ctx, message{Status: statusIdle})

	for count := 0; err == nil && len(answer) > 0; count++ {
		if count == maximumCommands {
			err = errTooManyCommands

			break
		}

		var received command
		if err = plist.Unmarshal(answer, &received); err != nil {
			err = fmt.Errorf("decoding command: %w", err)

			break
		}

		report := d.decide(received)
		if answer, err = d.send(ctx, report); err != nil {
			break
		}

		if report.Status == statusAcknowledged && received.Command.RequestType == declarativeManagement {
			failures = append(failures, d.synchronize(ctx, received.Command.Data))
		}
	}

	return errors.Join(append(failures, wrap("poll", err))...)
}

// decide says what to answer to a command, and notes it.
func (d *Device) decide(received command) message {
	d.mutex.Lock()
	defer d.mutex.Unlock()

	report := message{CommandUUID: received.CommandUUID, Status: statusAcknowledged}

	switch {
	case d.notNow:
		report.Status = statusNotNow
	case d.refusing:
		report.Status = statusError
		report.ErrorChain = []mdm.ErrorChain{{
			ErrorCode:            12021,
			ErrorDomain:          "MCMDMErrorDomain",
			LocalizedDescription: "The device was told to refuse commands.",
			USEnglishDescription: "The device was told to refuse commands.",
		}}
	}

	d.commands = append(d.commands, ReceivedCommand{
		UUID:        received.CommandUUID,
		RequestType: received.Command.RequestType,
		Data:        received.Command.Data,
		Status:      report.Status,
	})

	return report
}

// DeclarativeManagement sends a check-in of that kind as it is and returns
// NanoMDM's answer. NanoMDM makes a GET of it, or with data a PUT. Other
// answers than 200 are an [AnswerError].
func (d *Device) DeclarativeManagement(ctx context.Context, endpoint string, data []byte) ([]byte, error) {
	answer, err := d.send(ctx, message{MessageType: declarativeManagement, Endpoint: endpoint, Data: data})
	if err != nil {
		return nil, fmt.Errorf("check-in at %q: %w", endpoint, err)
	}

	return answer, nil
}
