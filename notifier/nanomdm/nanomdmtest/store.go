package nanomdmtest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver of NanoMDM's PostgreSQL backend
	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/nanomdm/storage"
	"github.com/micromdm/nanomdm/storage/file"
	"github.com/micromdm/nanomdm/storage/inmem"
	"github.com/micromdm/nanomdm/storage/pgsql"
	"github.com/micromdm/plist"
)

// openStore opens one of NanoMDM's backends. Each run of the server opens it
// anew, and finds the data of the run before.
type openStore func() (store storage.AllStorage, closeStore func() error, err error)

func closeNothing() error { return nil }

func fileStore(tb testing.TB) openStore {
	directory := tb.TempDir()

	return func() (storage.AllStorage, func() error, error) {
		store, err := file.New(directory)

		return store, closeNothing, err
	}
}

func memoryStore(testing.TB) openStore {
	store := inmem.New()

	return func() (storage.AllStorage, func() error, error) { return store, closeNothing, nil }
}

func postgresStore(tb testing.TB) openStore {
	dataSourceName := postgresDSN(tb)

	return func() (storage.AllStorage, func() error, error) {
		database, err := sql.Open("postgres", dataSourceName)
		if err != nil {
			return nil, nil, err
		}

		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()

		if err := createSchema(ctx, database); err != nil {
			return nil, nil, errors.Join(err, database.Close())
		}

		store, err := pgsql.New(pgsql.WithDB(database))

		return store, database.Close, err
	}
}

// createSchema creates NanoMDM's tables where an earlier run has not.
func createSchema(ctx context.Context, database *sql.DB) error {
	var present bool

	err := database.QueryRowContext(ctx, `SELECT to_regclass('enrollment_queue') IS NOT NULL`).Scan(&present)
	if err != nil {
		return fmt.Errorf("looking for NanoMDM's schema: %w", err)
	}

	if present {
		return nil
	}

	if _, err := database.ExecContext(ctx, pgsql.Schema); err != nil {
		return fmt.Errorf("creating NanoMDM's schema: %w", err)
	}

	return nil
}

// EnqueuedCommand is a command that NanoMDM's storage was asked to queue.
type EnqueuedCommand struct {
	// IDs are the enrollment ids that it was queued for, or in
	// [Server.Refused] those that it was not queued for.
	IDs         []string
	CommandUUID string
	RequestType string
	// Data is the Data of a DeclarativeManagement command, if there is one.
	Data []byte
	// Raw is the property list as sent.
	Raw []byte
	At  time.Time
	// Err says why it was refused.
	Err error
}

// recorder keeps what the server was asked to queue, over all of its runs.
type recorder struct {
	mutex    sync.Mutex
	enqueued []EnqueuedCommand
	refused  []EnqueuedCommand
}

func (r *recorder) list(enqueued bool) []EnqueuedCommand {
	r.mutex.Lock()
	defer r.mutex.Unlock()

	if enqueued {
		return slices.Clone(r.enqueued)
	}

	return slices.Clone(r.refused)
}

func (r *recorder) record(ids []string, command *mdm.Command, failures map[string]error, err error) {
	entry := EnqueuedCommand{
		CommandUUID: command.CommandUUID,
		RequestType: command.Command.RequestType,
		Data:        commandData(command.Raw),
		Raw:         bytes.Clone(command.Raw),
		At:          time.Now(),
		Err:         err,
	}

	// The key-value backends file a failure under the CommandUUID.
	if err == nil && failures[command.CommandUUID] != nil {
		entry.Err = failures[command.CommandUUID]
	}

	refused := entry
	if entry.Err != nil {
		refused.IDs = slices.Clone(ids)
	} else {
		for _, id := range ids {
			if failure := failures[id]; failure != nil {
				refused.IDs = append(refused.IDs, id)
				refused.Err = failure
			} else {
				entry.IDs = append(entry.IDs, id)
			}
		}
	}

	r.mutex.Lock()
	defer r.mutex.Unlock()

	if len(entry.IDs) > 0 {
		r.enqueued = append(r.enqueued, entry)
	}

	if len(refused.IDs) > 0 {
		r.refused = append(r.refused, refused)
	}
}

// recordingStore is a backend of NanoMDM that notes what is enqueued.
type recordingStore struct {
	storage.AllStorage
	recorder *recorder
}

// EnqueueCommand lets the backend queue the command and records how it went.
func (s *recordingStore) EnqueueCommand(
	ctx context.Context, ids []string, command *mdm.Command,
) (map[string]error, error) {
	failures, err := s.AllStorage.EnqueueCommand(ctx, ids, command)
	s.recorder.record(ids, command, failures, err)

	return failures, err
}

// command is an MDM command as a device decodes it.
type command struct {
	CommandUUID string
	Command     struct {
		RequestType string
		Data        []byte
	}
}

// commandData is the Data of a command, nil if it has none.
func commandData(raw []byte) []byte {
	var decoded command
	if err := plist.Unmarshal(raw, &decoded); err != nil {
		return nil
	}

	return decoded.Command.Data
}
