// Package mysql opens Decree's database on a MySQL 8.0 or MariaDB 10.6 server, or newer, which any number of Decree
// processes may share.
package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"

	"github.com/decree-ddm/decree/storage/mysql/dsn"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Open connects to the database that a DSN names, in the form of github.com/go-sql-driver/mysql, and brings its schema
// up to date. Settings that Decree relies on are forced, whatever the DSN says.
func Open(ctx context.Context, name string, options sqlstore.Options) (*sqlstore.Store, error) {
	patient, err := newConnector(name, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the DSN: %w", err)
	}
	migrating := sql.OpenDB(patient)
	if err := errors.Join(migrate(ctx, migrating), migrating.Close()); err != nil {
		return nil, err
	}
	// A COMMIT waits for its answer whatever the context says. From a server that is gone without a word there is none, and
	// the system gives a connection up after a quarter of an hour.
	connector, err := newConnector(name, options.LongestOperation()+options.Timeout)
	if err != nil {
		return nil, fmt.Errorf("reading the DSN: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(32)
	db.SetMaxIdleConns(32)
	db.SetConnMaxIdleTime(5 * time.Minute)
	db.SetConnMaxLifetime(connLifetime)
	probe := sql.OpenDB(connector)
	probe.SetMaxOpenConns(2)
	probe.SetConnMaxLifetime(connLifetime)
	return sqlstore.New(ctx, sqlstore.Handles{Read: db, Write: db, Probe: probe}, dialect, options)
}

// OpenExisting connects as Open does, and migrates nothing: a database with another schema than this program's is refused.
func OpenExisting(ctx context.Context, name string, options sqlstore.Options) (*sqlstore.Store, error) {
	connector, err := newConnector(name, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the DSN: %w", err)
	}
	db := sql.OpenDB(connector)
	if err := sqlstore.RequireSchema(ctx, db, dialect); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return sqlstore.New(ctx, sqlstore.Handles{Read: db, Write: db, ReadOnly: true}, dialect, options)
}

// connLifetime is after how long a connection is made anew, so that a name or a proxy that has come to mean another server
// leads there.
const connLifetime = 5 * time.Minute

// newConnector returns what makes connections with the settings that Decree relies on. One on which the server is silent for
// longer than silence, while it is to answer, is given up; 0: whatever the DSN says.
func newConnector(name string, silence time.Duration) (driver.Connector, error) {
	config, err := dsn.Parse(name)
	if err != nil {
		return nil, err
	}
	force(config)
	for _, limit := range []*time.Duration{&config.ReadTimeout, &config.WriteTimeout} {
		if silence > 0 && (*limit == 0 || *limit > silence) {
			*limit = silence
		}
	}
	base, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return connector{base}, nil
}

// force sets what the statements rely on.
func force(config *mysql.Config) {
	config.ClientFoundRows = true   // an UPDATE counts the rows that it matched
	config.InterpolateParams = true // one round trip a statement
	config.ParseTime = false        // times are integers
	config.MultiStatements = false
	config.Collation = "utf8mb4_bin"
	config.Loc = time.UTC
	config.Logger = &mysql.NopLogger{} // what matters of it is in the errors
	if config.Timeout == 0 {
		config.Timeout = connectTimeout
	}
	if config.Params == nil {
		config.Params = map[string]string{}
	}
	config.Params["sql_mode"] = `'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'`
	config.Params["time_zone"] = `'+00:00'`
	// Whoever waits for longer tries again, and lets others have the connection meanwhile.
	config.Params["innodb_lock_wait_timeout"] = `2`
}

// connectTimeout bounds how long it may take to connect, and then to be let in: a server that hangs takes connections, for
// its system does, and says nothing.
const connectTimeout = 10 * time.Second

// connector sets the isolation level of each new connection: the variable for it has different names on MySQL and
// MariaDB, the statement is the same.
type connector struct{ driver.Connector }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	_, err = conn.(driver.ExecerContext).ExecContext(ctx, `SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED`, nil)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// migrate brings the schema up to date while holding a lock of the server's, so that processes that start together
// do it one after the other.
func migrate(ctx context.Context, db *sql.DB) (err error) {
	lock, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	var got sql.NullInt64
	// The name holds on the whole server, so it has the database in it; names are at most 64 characters.
	const name = `CONCAT('decree-', MD5(DATABASE()))`
	if err := lock.QueryRowContext(ctx, `SELECT GET_LOCK(`+name+`, 300)`).Scan(&got); err != nil {
		return fmt.Errorf("waiting for the lock for migrations: %w", err)
	}
	if got.Int64 != 1 {
		return errors.New("another process has been migrating the database for five minutes")
	}
	defer func() {
		_, releaseErr := lock.ExecContext(context.WithoutCancel(ctx), `DO RELEASE_LOCK(`+name+`)`)
		err = errors.Join(err, releaseErr)
	}()
	provider, err := goose.NewProvider(goose.DialectMySQL, db, migrationFiles())
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	return nil
}

func migrationFiles() fs.FS {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded above
	}
	return files
}

var dialect = &sqlstore.Dialect{
	SchemaVersion: sqlstore.SchemaVersion(migrationFiles()),
	Now:           `CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)`,
	RandomBelow:   `CAST(FLOOR(RAND() * ?) AS SIGNED)`,
	Lock:          ` FOR UPDATE`,
	LockSkip:      ` FOR UPDATE SKIP LOCKED`,
	// With a LIMIT, MariaDB likes the primary key, and would read through all that a condition leaves out.
	ReadBy: func(index string) string { return ` FORCE INDEX (` + index + `)` },
	// INSERT IGNORE would ignore much more, and cut a key that is too long. It also locks an existing row in a way that
	// lets two transactions wait for each other as soon as they change it.
	KeepExisting: func(key string) string { return `ON DUPLICATE KEY UPDATE ` + key + ` = ` + key },
	// The newer form, an alias for the new row, is not in MariaDB.
	Upsert:   func(string) string { return `ON DUPLICATE KEY UPDATE` },
	Inserted: func(column string) string { return `VALUES(` + column + `)` },
	Trouble:  trouble,
	Again:    lost,
}

// trouble explains what a server says, or that it is not there.
func trouble(err error) sqlstore.Trouble {
	var mysqlErr *mysql.MySQLError
	var network *net.OpError
	switch {
	case errors.As(err, &mysqlErr):
		return troubleOf(mysqlErr.Number)
	case errors.As(err, &network), errors.Is(err, driver.ErrBadConn), errors.Is(err, mysql.ErrInvalidConn),
		errors.Is(err, sql.ErrConnDone), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return sqlstore.Trouble{Reason: "the database cannot be reached", Lost: true}
	}
	return sqlstore.Trouble{}
}

// troubleOf explains the errors of a server that are about the server, or about who asks it, and not about what it is asked.
func troubleOf(number uint16) sqlstore.Trouble {
	switch number {
	case 1205, // ER_LOCK_WAIT_TIMEOUT
		1213: // ER_LOCK_DEADLOCK
		return sqlstore.Trouble{Reason: sqlstore.HeldForTooLong}
	case 1969, 3024: // a limit for statements that the server has
		return sqlstore.Trouble{Reason: "the database takes too long to answer"}
	case 1040, // ER_CON_COUNT_ERROR
		1203, // ER_TOO_MANY_USER_CONNECTIONS
		1226: // ER_USER_LIMIT_REACHED
		return sqlstore.Trouble{Reason: "the database takes no more connections"}
	case 1044, 1045, 1130, 1142, 1143, 1227, // access denied
		1049: // ER_BAD_DB_ERROR
		return sqlstore.Trouble{Reason: "the database does not let this server in"}
	case 1053, // ER_SERVER_SHUTDOWN
		1152, 1158, 1159, 1160, 1161, // network
		1317, // ER_QUERY_INTERRUPTED
		1927: // ER_CONNECTION_KILLED
		return sqlstore.Trouble{Reason: "the database cannot be reached", Lost: true}
	case 1021, // ER_DISK_FULL
		1114: // ER_RECORD_FILE_FULL
		return sqlstore.Trouble{Reason: "the disk that the database is on is full", Writing: true}
	case 1026, // ER_ERROR_ON_WRITE
		1030: // ER_GET_ERRNO
		return sqlstore.Trouble{Reason: "the disk that the database is on does not work, or is full", Writing: true}
	case 1290, // ER_OPTION_PREVENTS_STATEMENT: --read-only
		1792, // ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
		1836: // ER_READ_ONLY_MODE
		return sqlstore.Trouble{Reason: "the database can only be read", Writing: true}
	}
	return sqlstore.Trouble{}
}

// lost reports whether the transaction lost against another one.
func lost(err error) bool {
	var mysqlErr *mysql.MySQLError
	if !errors.As(err, &mysqlErr) {
		return false
	}
	switch mysqlErr.Number {
	case 1213, // ER_LOCK_DEADLOCK
		1205, // ER_LOCK_WAIT_TIMEOUT
		1020, // ER_CHECKREAD: MariaDB's, for a row that changed since it was read
		1062: // ER_DUP_ENTRY: another transaction made the row that this one saw missing
		return true
	}
	return false
}
