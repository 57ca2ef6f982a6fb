package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// TestTrouble checks what is made of a server's own errors.
func TestTrouble(t *testing.T) {
	t.Parallel()
	for number, reason := range map[uint16]string{
		1205: "somebody else holds for too long what is to be changed", 1040: "the database takes no more connections",
		1045: "the database does not let this server in", 1049: "the database does not let this server in",
		1053: "the database cannot be reached", 1114: "the disk that the database is on is full",
		1290: "the database can only be read", 1062: "", 1064: "", 1406: "",
	} {
		err := fmt.Errorf("changing: %w", &mysql.MySQLError{Number: number})
		require.Equal(t, reason, trouble(err).Reason, number)
	}
	require.True(t, trouble(&mysql.MySQLError{Number: 1290}).Writing)
	require.False(t, trouble(&mysql.MySQLError{Number: 1205}).Writing)
	require.Equal(t, sqlstore.Trouble{}, trouble(errors.New("a mistake")))
	require.Equal(t, sqlstore.Trouble{}, trouble(context.DeadlineExceeded), "which has the form of an error of the network")

	dsn := mysqltest.DSN(t)
	db := handle(t, dsn)
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.ErrorIs(t, conn.Close(), sql.ErrConnDone) }()
	var id int64
	require.NoError(t, conn.QueryRowContext(t.Context(), `SELECT CONNECTION_ID()`).Scan(&id))
	_, err = db.ExecContext(t.Context(), fmt.Sprintf(`KILL %d`, id))
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), `DO 1`)
	require.Error(t, err)
	require.Equal(t, sqlstore.Trouble{Reason: "the database cannot be reached", Lost: true}, trouble(err), "%v", err)
}

// notReady requires an error that says why the database cannot be worked with.
func notReady(t *testing.T, err error, reason string) {
	t.Helper()
	var notReady *storage.NotReadyError
	require.ErrorAs(t, err, &notReady)
	require.Contains(t, notReady.Reason, reason)
}

// TestAway follows a store whose server hangs, goes away and returns: what is asked of it fails in its time, then at once, and
// works again as soon as somebody has looked.
func TestAway(t *testing.T) {
	t.Parallel()
	server := mysqltest.Start(t)
	store, err := Open(t.Context(), server.DSN(), sqlstore.Options{Timeout: time.Second})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	look := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return store.Look(ctx)
	}
	read := func() error {
		_, _, err := store.DeviceEnrollment(t.Context(), "e")
		return err
	}
	ask := []func() error{
		read,
		func() error { _, _, err := store.Enrollment(t.Context(), "e"); return err },
		func() error { _, err := store.Declaration(t.Context(), "d"); return err },
		func() error {
			_, _, err := store.DeclarationVersions(t.Context(), "d", storage.VersionPlace{}, 10)
			return err
		},
		func() error {
			_, err := store.PutEnrollmentSet(t.Context(), "e", "s", storage.ChangeOptions{})
			return err
		},
		func() error {
			report, err := ddm.ParseStatusReport([]byte(`{}`))
			require.NoError(t, err)
			return store.PutStatus(t.Context(), storage.ReceivedStatus{
				Raw: []byte(`{}`), Report: report, Device: storage.DeviceUpdate{ID: "e"},
			})
		},
	}
	require.NoError(t, look())
	require.NoError(t, read())

	server.Pause()
	for _, ask := range ask {
		begin := time.Now()
		notReady(t, ask(), "too long")
		require.Less(t, time.Since(begin), 5*time.Second)
	}
	for range 2 {
		notReady(t, look(), "cannot be reached")
	}
	require.False(t, store.Stats().Works)
	for _, ask := range ask {
		begin := time.Now()
		notReady(t, ask(), "cannot be reached")
		require.Less(t, time.Since(begin), 500*time.Millisecond)
	}
	notReady(t, store.Ready(t.Context()), "cannot be reached")
	server.Continue()
	require.NoError(t, look())
	for i, ask := range ask {
		if err := ask(); !errors.Is(err, storage.ErrNotFound) {
			require.NoError(t, err, i)
		}
	}

	server.Stop()
	for _, ask := range ask {
		notReady(t, ask(), "cannot be reached")
	}
	server.Start()
	require.NoError(t, look())
	require.NoError(t, read())
	require.Zero(t, store.Stats().InFlight)
}

// TestReadOnly checks that a server which can only be read is seen to be one, and to be none any more.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	server := mysqltest.Start(t)
	db := handle(t, server.DSN())
	store, err := Open(t.Context(), server.DSN(), sqlstore.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	// Root may write all the same, so somebody else has to try.
	for _, statement := range []string{
		`CREATE USER 'decree'@'127.0.0.1'`, `GRANT ALL ON decree.* TO 'decree'@'127.0.0.1'`, `SET GLOBAL read_only = 1`,
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	config, err := mysql.ParseDSN(server.DSN())
	require.NoError(t, err)
	config.User = "decree"
	replica, err := OpenExisting(t.Context(), config.FormatDSN(), sqlstore.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, replica.Close()) }()
	require.NoError(t, replica.Ready(t.Context()), "nobody has tried")
	_, err = replica.PutEnrollmentSet(t.Context(), "e", "s", storage.ChangeOptions{})
	notReady(t, err, "can only be read")
	notReady(t, replica.Ready(t.Context()), "can only be read")
	_, err = replica.Declaration(t.Context(), "d")
	require.ErrorIs(t, err, storage.ErrNotFound, "reading goes on")
	notReady(t, replica.Look(t.Context()), "can only be read")
	require.False(t, replica.Stats().Works)
	_, err = db.ExecContext(t.Context(), `SET GLOBAL read_only = 0`)
	require.NoError(t, err)
	require.NoError(t, replica.Look(t.Context()))
	require.NoError(t, replica.Ready(t.Context()))
	_, err = replica.PutEnrollmentSet(t.Context(), "e", "s", storage.ChangeOptions{})
	require.NoError(t, err)
}
