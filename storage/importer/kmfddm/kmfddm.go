// Package kmfddm reads the MySQL database of a KMFDDM server, for import. It only reads, in one snapshot.
package kmfddm

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/decree-ddm/decree/storage/importer"
	"github.com/decree-ddm/decree/storage/mysql/dsn"
)

// Source is an importer.Source over the tables of KMFDDM (its storage/mysql/schema.sql). It is for one goroutine.
type Source struct {
	db *sql.DB
	tx *sql.Tx
}

var _ importer.Source = (*Source)(nil)

// Open connects to the database that a DSN names, in the form of github.com/go-sql-driver/mysql. The context is for the whole
// life of the source.
func Open(ctx context.Context, name string) (*Source, error) {
	config, err := dsn.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("reading the DSN: %w", err)
	}
	config.Loc, config.MultiStatements = time.UTC, false
	if config.Timeout == 0 {
		config.Timeout = 10 * time.Second
	}
	// Names come as UTF-8, in whatever character set they are kept.
	if err := config.Apply(mysql.Charset("utf8mb4", "utf8mb4_general_ci")); err != nil {
		return nil, err
	}
	if config.Params == nil {
		config.Params = map[string]string{}
	}
	// The server must not hang up on a reader that is waiting for its own database meanwhile.
	config.Params["net_write_timeout"] = "600"
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	s := &Source{db: sql.OpenDB(connector)}
	// One snapshot: a set that is read later does not hold declarations that were not there yet.
	s.tx, err = s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to KMFDDM's database: %w", err), s.db.Close())
	}
	return s, nil
}

// Close ends the connection.
func (s *Source) Close() error {
	err := s.tx.Rollback()
	if errors.Is(err, sql.ErrTxDone) || errors.Is(err, mysql.ErrInvalidConn) {
		err = nil // the context has ended, or the server is gone: there is nothing to roll back
	}
	return errors.Join(err, s.db.Close())
}

// tables are where the kinds of rows are.
var tables = map[importer.Kind]string{
	importer.Declarations:    "declarations",
	importer.SetDeclarations: "set_declarations",
	importer.EnrollmentSets:  "enrollment_sets",
}

// Count implements importer.Source.
func (s *Source) Count(ctx context.Context, kind importer.Kind) (n int, err error) {
	err = s.tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+tables[kind]).Scan(&n)
	return n, explained(err)
}

// Declarations implements importer.Source.
func (s *Source) Declarations(ctx context.Context) iter.Seq2[importer.Declaration, error] {
	return stream(ctx, s.tx, scanDeclaration, selectDeclarations+` ORDER BY identifier`)
}

// Declaration implements importer.Source.
func (s *Source) Declaration(ctx context.Context, identifier string) (importer.Declaration, error) {
	for declaration, err := range stream(ctx, s.tx, scanDeclaration, selectDeclarations+` WHERE identifier = ?`, identifier) {
		return declaration, err
	}
	return importer.Declaration{Identifier: identifier, Problem: "it is not there any more"}, nil
}

// A payload that is too large is not even sent.
var selectDeclarations = fmt.Sprintf(`SELECT identifier, type, server_token, LENGTH(payload),
	CASE WHEN LENGTH(payload) > %d THEN NULL ELSE payload END FROM declarations`, importer.MaxDeclarationBytes)

func scanDeclaration(rows *sql.Rows) (declaration importer.Declaration, err error) {
	var identifier, declarationType, serverToken sql.NullString
	var length sql.NullInt64
	if err := rows.Scan(&identifier, &declarationType, &serverToken, &length, &declaration.Payload); err != nil {
		return declaration, err
	}
	declaration.Identifier, declaration.Type = identifier.String, declarationType.String
	declaration.ServerToken = serverToken.String
	declaration.Problem = null([]string{"identifier", "type", "server_token", "payload"},
		identifier.Valid, declarationType.Valid, serverToken.Valid, length.Valid)
	if length.Int64 > importer.MaxDeclarationBytes {
		declaration.Problem = importer.TooLargeError(length.Int64).Error()
	}
	return declaration, nil
}

// MySQL's usual collations take names that differ in case for the same, and KMFDDM joins its tables that way; Decree goes by
// the bytes. So a declaration is called here as in its own row, and a set as in the first row of what it holds.
const (
	declarationName = `COALESCE((SELECT d.identifier FROM declarations d WHERE d.identifier = r.declaration_identifier LIMIT 1),
		r.declaration_identifier)`
	setName = `COALESCE((SELECT f.set_name FROM set_declarations f WHERE f.set_name = r.set_name
		ORDER BY f.set_name, f.declaration_identifier LIMIT 1), r.set_name)`
)

// SetDeclarations implements importer.Source.
func (s *Source) SetDeclarations(ctx context.Context) iter.Seq2[importer.SetDeclaration, error] {
	return stream(ctx, s.tx, func(rows *sql.Rows) (row importer.SetDeclaration, err error) {
		row.Set, row.Identifier, row.Problem, err = scanPair(rows, "set_name", "declaration_identifier")
		return row, err
	}, `SELECT `+setName+`, `+declarationName+` FROM set_declarations r ORDER BY r.set_name, r.declaration_identifier`)
}

// EnrollmentSets implements importer.Source.
func (s *Source) EnrollmentSets(ctx context.Context) iter.Seq2[importer.EnrollmentSet, error] {
	return stream(ctx, s.tx, func(rows *sql.Rows) (row importer.EnrollmentSet, err error) {
		row.EnrollmentID, row.Set, row.Problem, err = scanPair(rows, "enrollment_id", "set_name")
		return row, err
	}, `SELECT r.enrollment_id, `+setName+` FROM enrollment_sets r ORDER BY r.enrollment_id, r.set_name`)
}

func scanPair(rows *sql.Rows, firstColumn, secondColumn string) (first, second, problem string, err error) {
	var a, b sql.NullString
	err = rows.Scan(&a, &b)
	return a.String, b.String, null([]string{firstColumn, secondColumn}, a.Valid, b.Valid), err
}

// null says which columns are NULL, if any is.
func null(columns []string, valid ...bool) string {
	for i, column := range columns {
		if !valid[i] {
			return column + " is NULL"
		}
	}
	return ""
}

// stream reads rows one by one: the driver holds no more of them than a packet.
func stream[Row any](
	ctx context.Context, tx *sql.Tx, scan func(*sql.Rows) (Row, error), query string, arguments ...any,
) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var none Row
		rows, err := tx.QueryContext(ctx, query, arguments...)
		if err != nil {
			yield(none, explained(err))
			return
		}
		defer rows.Close() // what it could say is in Err
		for rows.Next() {
			row, err := scan(rows)
			if !yield(row, explained(err)) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(none, explained(err))
		}
	}
}

// explained adds to errors that say that the database is another one.
func explained(err error) error {
	var mysqlErr *mysql.MySQLError
	if errors.As(err, &mysqlErr) && (mysqlErr.Number == 1146 || mysqlErr.Number == 1054) { // no such table, or column
		return fmt.Errorf("this is not KMFDDM's database: %w", err)
	}
	if err != nil {
		return fmt.Errorf("reading KMFDDM's database: %w", err)
	}
	return nil
}
