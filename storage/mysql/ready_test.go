package mysql

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// cable is a connection to a database server that can be pulled.
type cable struct {
	listener net.Listener
	mu       sync.Mutex
	ends     []net.Conn
	pulled   bool
}

// newCable listens, and passes everything on to the server at an address.
func newCable(t *testing.T, network, address string) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cable{listener: listener}
	t.Cleanup(c.pull)
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial(network, address)
			if err != nil {
				_ = near.Close() // nobody is there
				continue
			}
			if !c.add(near, far) {
				return
			}
			go func() { _, _ = io.Copy(near, far) }() // until it is pulled
			go func() { _, _ = io.Copy(far, near) }()
		}
	}()
	return c
}

func (c *cable) add(ends ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends = append(c.ends, ends...)
	if c.pulled {
		c.cut()
	}
	return !c.pulled
}

func (c *cable) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulled = true
	_ = c.listener.Close() // pulling twice is no mistake
	c.cut()
}

func (c *cable) cut() {
	for _, end := range c.ends {
		_ = end.Close()
	}
}

// TestReady checks that a server which goes away is noticed, and that the reason names neither it nor its account.
func TestReady(t *testing.T) {
	t.Parallel()
	config, err := mysql.ParseDSN(mysqltest.DSN(t))
	require.NoError(t, err)
	cable := newCable(t, config.Net, config.Addr)
	config.Net, config.Addr = "tcp", cable.listener.Addr().String()
	store, err := Open(t.Context(), config.FormatDSN(), sqlstore.Options{})
	require.NoError(t, err)
	defer func() { _ = store.Close() }() // its connections are gone
	require.NoError(t, store.Ready(t.Context()))

	notReady := func(reason string) {
		t.Helper()
		var notReady *storage.NotReadyError
		require.ErrorAs(t, store.Ready(t.Context()), &notReady)
		require.Contains(t, notReady.Reason, reason)
		require.NotContains(t, notReady.Reason, config.Addr)
	}
	db := handle(t, config.FormatDSN())
	_, err = db.ExecContext(t.Context(), `DELETE FROM goose_db_version WHERE version_id = ?`, dialect.SchemaVersion)
	require.NoError(t, err)
	notReady("needs")
	_, err = db.ExecContext(t.Context(), `DROP TABLE goose_db_version`)
	require.NoError(t, err)
	notReady("cannot be read")

	cable.pull()
	begin := time.Now()
	notReady("cannot be reached")
	require.Less(t, time.Since(begin), 10*time.Second)
}

// TestManyAskAtOnce checks that they share one question: whoever may ask /readyz would otherwise take the connections by
// which the server finds out that the database is there.
func TestManyAskAtOnce(t *testing.T) {
	t.Parallel()
	name := mysqltest.DSN(t)
	store, err := Open(t.Context(), name, sqlstore.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	db := handle(t, name)
	locked, err := db.Conn(t.Context())
	require.NoError(t, err)
	_, err = locked.ExecContext(t.Context(), `LOCK TABLES goose_db_version WRITE`)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 50 {
		asking.Go(func() {
			var notReady *storage.NotReadyError
			assert.ErrorAs(t, store.Ready(ctx), &notReady)
		})
	}
	waiting := func() (n int) {
		require.NoError(t, db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM information_schema.processlist
			WHERE db = DATABASE() AND state LIKE 'Waiting for table metadata lock%'`).Scan(&n))
		return n
	}
	require.Eventually(t, func() bool { return waiting() > 0 }, 3*time.Second, time.Millisecond)
	for range 20 {
		require.Equal(t, 1, waiting())
	}
	cancel()
	asking.Wait()
	_, err = locked.ExecContext(t.Context(), `UNLOCK TABLES`)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return store.Ready(t.Context()) == nil }, 3*time.Second, time.Millisecond)
}
