package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tlsWriter writes records of TLS 1.3 (RFC 8446), those among them that crypto/tls would not write.
type tlsWriter struct {
	t      *testing.T
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	count  uint64
}

// newTLSWriter shakes hands on a connection, and returns what writes to it from then on.
func newTLSWriter(t *testing.T, conn net.Conn, config *tls.Config) *tlsWriter {
	t.Helper()
	var keys bytes.Buffer
	config = config.Clone()
	config.KeyLogWriter = &keys
	shaken := tls.Client(conn, config)
	require.NoError(t, shaken.HandshakeContext(t.Context()))
	require.Equal(t, tls.TLS_AES_128_GCM_SHA256, shaken.ConnectionState().CipherSuite)
	w := &tlsWriter{t: t}
	for line := range strings.Lines(keys.String()) {
		if fields := strings.Fields(line); fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(fields[2])
			require.NoError(t, err)
			w.use(secret)
		}
	}
	require.NotEmpty(t, w.secret)
	return w
}

// expand is HKDF-Expand-Label, without a context (section 7.1).
func (w *tlsWriter) expand(label string, length int) []byte {
	label = "tls13 " + label
	info := string([]byte{0, byte(length), byte(len(label))}) + label + "\x00"
	key, err := hkdf.Expand(sha256.New, w.secret, info, length)
	require.NoError(w.t, err)
	return key
}

// use begins with a traffic secret.
func (w *tlsWriter) use(secret []byte) {
	w.secret, w.count = secret, 0
	block, err := aes.NewCipher(w.expand("key", 16))
	require.NoError(w.t, err)
	w.aead, err = cipher.NewGCM(block)
	require.NoError(w.t, err)
	w.iv = w.expand("iv", 12)
}

// record returns a record of a type (section 5.2).
func (w *tlsWriter) record(of byte, content []byte) []byte {
	inner := append(bytes.Clone(content), of)
	header := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(inner)+w.aead.Overhead()))
	nonce := bytes.Clone(w.iv)
	for i, octet := range binary.BigEndian.AppendUint64(nil, w.count) {
		nonce[len(nonce)-8+i] ^= octet
	}
	w.count++
	return w.aead.Seal(header, nonce, inner, header)
}

// keyUpdate has the other side change its key too (section 4.6.3), and say so.
func (w *tlsWriter) keyUpdate() []byte {
	record := w.record(22, []byte{24, 0, 0, 1, 1})
	w.use(w.expand("traffic upd", sha256.Size))
	return record
}

// pipes is a listener for connections that hold nothing: whoever writes waits until the other side reads.
type pipes struct {
	servers chan net.Conn
	closed  chan struct{}
	close   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case server := <-p.servers:
		return server, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.close.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// hang has the server write to somebody who reads nothing, while it reads a request's head.
func (p *pipes) hang(t *testing.T, of *connections, server, client *tls.Config) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { require.NoError(t, ours.Close()) })
	require.NoError(t, ours.SetDeadline(time.Now().Add(patience)))
	p.servers <- newConn(theirs, server, of)
	w := newTLSWriter(t, ours, client)
	_, err := ours.Write(w.keyUpdate())
	require.NoError(t, err)
	_, err = ours.Read(make([]byte, 1)) // and no more
	require.NoError(t, err)
}

// TestKeyUpdates checks that who has TLS write while it reads, and takes none of that, keeps neither newcomers out nor the
// server from stopping.
func TestKeyUpdates(t *testing.T) {
	t.Parallel()
	certificatePEM, keyPEM := certificate(t, 1)
	server, client := tlsOf(t, certificatePEM, keyPEM)
	server.SessionTicketsDisabled = true // which would be written too
	of := newConnections(1, newLongHeads(1, patience))
	s, _ := startSite(t, of, server)
	p := &pipes{servers: make(chan net.Conn), closed: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(p) }()
	p.hang(t, of, server, client)
	address := s.listener.Addr().String()
	rawClient{t, tls.Client(newRawClient(t, address).Conn, client)}.ask("now").send("\r\n").requireAnswer()
	require.EqualValues(t, 1, of.dropped.Load())

	p.hang(t, of, server, client)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(t.Context()) }()
	for _, end := range []chan error{stopped, served} {
		select {
		case err := <-end:
			if !errors.Is(err, http.ErrServerClosed) {
				require.NoError(t, err)
			}
		case <-time.After(patience):
			t.Fatal("the server does not stop")
		}
	}
}
