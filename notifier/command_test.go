package notifier

import (
	"testing"

	"github.com/google/uuid"
	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/plist"
	"github.com/stretchr/testify/require"
)

// received is a command with its Data, which NanoMDM does not look at, as a device decodes it.
type received struct {
	CommandUUID string
	Command     struct {
		RequestType string
		Data        []byte
	}
}

func TestCommandPlist(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"without data": nil,
		"tokens":       []byte(`{"SyncTokens":{"DeclarationsToken":"1f","Timestamp":"2026-11-21T10:00:00Z"}}`),
		"any bytes":    {0, '<', '&', '>', 0xff, '\n', ']', ']', '>'},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made, err := newCommand(data)
			require.NoError(t, err)
			text, err := made.Plist()
			require.NoError(t, err)

			decoded, err := mdm.DecodeCommand(text)
			require.NoError(t, err)
			require.Equal(t, made.UUID, decoded.CommandUUID)
			require.Equal(t, "DeclarativeManagement", decoded.Command.RequestType)

			var seen received
			require.NoError(t, plist.Unmarshal(text, &seen))
			require.Equal(t, data, seen.Command.Data)

			var keys map[string]any
			require.NoError(t, plist.Unmarshal(text, &keys))
			require.Len(t, keys, 2)
			if data == nil {
				require.Equal(t, map[string]any{"RequestType": "DeclarativeManagement"}, keys["Command"])
			} else {
				require.Len(t, keys["Command"], 2)
			}
		})
	}
}

func TestCommandsHaveFreshUUIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		command, err := newCommand(nil)
		require.NoError(t, err)
		require.False(t, seen[command.UUID])
		seen[command.UUID] = true
		_, err = uuid.Parse(command.UUID)
		require.NoError(t, err)
	}
}
