package mysql

import (
	"database/sql"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/checker"
	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// TestForcedSettings checks that what the DSN says does not change what the statements rely on.
func TestForcedSettings(t *testing.T) {
	t.Parallel()
	config, err := mysql.ParseDSN(mysqltest.DSN(t))
	require.NoError(t, err)
	config.ClientFoundRows = false
	config.ParseTime = true
	config.InterpolateParams = false
	config.Collation = "latin1_swedish_ci"
	config.Params = map[string]string{
		"sql_mode": "''", "time_zone": "'+05:00'", "innodb_lock_wait_timeout": "1",
	}
	dsn := config.FormatDSN()
	db := handle(t, dsn)
	var mode, zone, collation string
	require.NoError(t, db.QueryRowContext(t.Context(), `SELECT @@sql_mode, @@time_zone, @@collation_connection`).
		Scan(&mode, &zone, &collation))
	require.Contains(t, mode, "STRICT_ALL_TABLES")
	require.Equal(t, "+00:00", zone)
	require.Equal(t, "utf8mb4_bin", collation)
	require.Equal(t, "READ-COMMITTED", isolation(t, db))

	store, err := Open(t.Context(), dsn, sqlstore.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	changed, err := store.PutEnrollmentSet(t.Context(), "e", "s", storage.ChangeOptions{})
	require.NoError(t, err)
	require.True(t, changed)
	unchanged, err := db.ExecContext(t.Context(), `UPDATE sets SET version = version`)
	require.NoError(t, err)
	matched, err := unchanged.RowsAffected()
	require.NoError(t, err)
	require.EqualValues(t, 1, matched, "an UPDATE counts also a row that it leaves as it is")
}

// isolation returns the isolation level of a connection, under whichever name the server has it.
func isolation(t *testing.T, db *sql.DB) string {
	t.Helper()
	var name, value string
	require.NoError(t, db.QueryRowContext(t.Context(),
		`SHOW VARIABLES WHERE variable_name IN ('transaction_isolation', 'tx_isolation')`).Scan(&name, &value))
	return value
}

// TestOpenForWhoMayOnlyRead: nothing that reads a database needs to be allowed to write to it.
func TestOpenForWhoMayOnlyRead(t *testing.T) {
	t.Parallel()
	server := mysqltest.Start(t)
	store, err := Open(t.Context(), server.DSN(), sqlstore.Options{})
	require.NoError(t, err)
	_, err = store.PutEnrollmentSet(t.Context(), "e", "s", storage.ChangeOptions{By: "key"})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	db := handle(t, server.DSN())
	for _, statement := range []string{
		`CREATE USER 'reader'@'127.0.0.1'`, `GRANT SELECT ON decree.* TO 'reader'@'127.0.0.1'`,
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	config, err := mysql.ParseDSN(server.DSN())
	require.NoError(t, err)
	config.User = "reader"
	reading, err := OpenExisting(t.Context(), config.FormatDSN(), sqlstore.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, reading.Close()) }()
	require.NoError(t, checker.Run(t.Context(), reading, checker.Options{Found: func(finding checker.Finding) {
		require.Fail(t, finding.String())
	}}))
	_, err = reading.PutEnrollmentSet(t.Context(), "e", "t", storage.ChangeOptions{By: "key"})
	notReady(t, err, "does not let this server in")
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	for dsn, wanted := range map[string]string{
		"nonsense":               "reading the DSN",
		"root@unix(/tmp)/":       "it names no database",
		"root@tcp(127.0.0.1:1)/": "it names no database",
	} {
		_, err := Open(t.Context(), dsn, sqlstore.Options{})
		require.ErrorContains(t, err, wanted, dsn)
	}
	_, err := Open(t.Context(), "root:secret@unix("+t.TempDir()+"/none)/decree", sqlstore.Options{})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}
