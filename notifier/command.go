package notifier

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/micromdm/plist"
)

// Command is a DeclarativeManagement command, which makes a device synchronize.
type Command struct {
	// UUID is the CommandUUID. An MDM takes each only once.
	UUID string
	// Data is the tokens that the device is to compare its own with. Without it the device asks for them.
	Data []byte
}

func newCommand(data []byte) (Command, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Command{}, fmt.Errorf("making a CommandUUID: %w", err)
	}
	return Command{UUID: id.String(), Data: data}, nil
}

// Plist returns the command as an MDM takes it.
// Source: Apple's DeclarativeManagement command; NanoMDM's package mdm, Command.
func (c Command) Plist() ([]byte, error) {
	type body struct {
		RequestType string
		Data        []byte `plist:",omitempty"`
	}
	return plist.Marshal(struct {
		CommandUUID string
		Command     body
	}{c.UUID, body{"DeclarativeManagement", c.Data}})
}
