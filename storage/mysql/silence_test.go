package mysql

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/mysql/mysqltest"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// silence passes on to a database server what comes, until it is to be silent: then a connection on which a COMMIT comes is
// one to a server that is gone without a word.
type silence struct {
	listener net.Listener
	begun    atomic.Bool
	commits  atomic.Int64 // that were not passed on

	mu   sync.Mutex
	ends []net.Conn
}

func newSilence(t *testing.T, network, address string) *silence {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &silence{listener: listener}
	t.Cleanup(func() {
		_ = listener.Close() // it may be closed
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, end := range s.ends {
			_ = end.Close()
		}
	})
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
			s.mu.Lock()
			s.ends = append(s.ends, near, far)
			s.mu.Unlock()
			go func() { _, _ = io.Copy(near, far) }() // until it is closed
			go s.pass(far, near)
		}
	}()
	return s
}

func (s *silence) pass(far io.WriteCloser, near io.Reader) {
	defer far.Close()
	text := make([]byte, 64<<10)
	for silent := false; ; {
		n, err := near.Read(text)
		if err != nil {
			return
		}
		if s.begun.Load() && bytes.Contains(text[:n], []byte("COMMIT")) {
			silent = true
			s.commits.Add(1)
		}
		if silent {
			continue
		}
		if _, err := far.Write(text[:n]); err != nil {
			return
		}
	}
}

// TestServerGoneWithoutAWord checks that a transaction whose COMMIT is never answered ends, and what it held is free again.
func TestServerGoneWithoutAWord(t *testing.T) {
	t.Parallel()
	config, err := mysql.ParseDSN(mysqltest.DSN(t))
	require.NoError(t, err)
	silence := newSilence(t, config.Net, config.Addr)
	config.Net, config.Addr = "tcp", silence.listener.Addr().String()
	store, err := Open(t.Context(), config.FormatDSN(), sqlstore.Options{Timeout: 500 * time.Millisecond})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	change := func() error {
		_, err := store.PutEnrollmentSet(t.Context(), "e", "s", storage.ChangeOptions{})
		return err
	}
	silence.begun.Store(true)
	done := make(chan error, 1)
	go func() { done <- change() }()
	select {
	case err := <-done:
		notReady(t, err, "too long")
	case <-time.After(20 * time.Second):
		require.Fail(t, "the transaction does not end")
	}
	require.Positive(t, silence.commits.Load())
	silence.begun.Store(false)
	require.NoError(t, change())
	require.Zero(t, store.Stats().InFlight)
}
