package storagetest

import (
	"context"
	"database/sql/driver"
	"sync"
)

// Statement is what a store had the database do, with one example of its arguments.
type Statement struct {
	Text string
	Args []any
}

// Recorder makes connections that note each different statement once. Statements that are prepared by name are not noted:
// a store with a Clock has none.
type Recorder struct {
	driver.Connector

	mu         sync.Mutex
	seen       map[string]bool
	statements []Statement
}

// Statements returns what was noted, in order.
func (r *Recorder) Statements() []Statement {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.statements
}

func (r *Recorder) note(text string, args []driver.NamedValue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[text] {
		return
	}
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	r.seen[text] = true
	statement := Statement{Text: text}
	for _, arg := range args {
		statement.Args = append(statement.Args, arg.Value)
	}
	r.statements = append(r.statements, statement)
}

// Connect implements driver.Connector.
func (r *Recorder) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := r.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &recordedConn{conn, r}, nil
}

// recordedConn passes everything on to a connection of a driver that has all of these methods.
type recordedConn struct {
	driver.Conn
	recorder *Recorder
}

func (c *recordedConn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, options)
}

func (c *recordedConn) PrepareContext(ctx context.Context, text string) (driver.Stmt, error) {
	return c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, text)
}

func (c *recordedConn) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	c.recorder.note(text, args)
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, text, args)
}

func (c *recordedConn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	c.recorder.note(text, args)
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, text, args)
}

func (c *recordedConn) CheckNamedValue(value *driver.NamedValue) error {
	if checker, ok := c.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(value)
	}
	return driver.ErrSkip
}

func (c *recordedConn) ResetSession(ctx context.Context) error {
	return c.Conn.(driver.SessionResetter).ResetSession(ctx)
}

func (c *recordedConn) IsValid() bool {
	return c.Conn.(driver.Validator).IsValid()
}
