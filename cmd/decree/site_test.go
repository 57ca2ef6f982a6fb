package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// address returns what the process logged under a name when it began to listen.
func (p *process) address(name string) string {
	p.t.Helper()
	p.server()
	match := regexp.MustCompile(` ` + name + `=(\S+)`).FindStringSubmatch(p.stderr.String())
	require.NotNil(p.t, match, "%s: %s", name, p.stderr.String())
	return match[1]
}

// TestSites checks what is where when each kind of client has an address of its own.
func TestSites(t *testing.T) {
	t.Parallel()
	p := startBinary(t, "-listen-ddm", "127.0.0.1:0", "-listen-metrics", "127.0.0.1:0")
	main := p.server()
	at := map[string]string{
		"api": main.url, "ddm": "http://" + p.address("ddm_address"), "metrics": "http://" + p.address("metrics_address"),
	}
	for request, served := range map[string]string{
		"GET /livez": "api ddm metrics", "GET /readyz": "api ddm metrics", "GET /metrics": "metrics",
		"GET /version": "api", "GET /v1/sets": "api", "PUT /v1/declarations": "api", "POST /v1/notify": "api",
		"GET /tokens": "ddm", "GET /declaration-items": "ddm", "GET /declaration/asset/x": "ddm", "PUT /status": "ddm",
		"POST /webhook": "ddm",
	} {
		method, path, _ := strings.Cut(request, " ")
		for name, url := range at {
			r, err := http.NewRequest(method, url+path, strings.NewReader("{}"))
			require.NoError(t, err)
			r.SetBasicAuth("x", testKey)
			r.Header.Set("X-Enrollment-ID", "device")
			code, text := main.send(r)
			there := !strings.Contains(string(text), "there is nothing at this path")
			require.Equal(t, strings.Contains(served, name), there, "%s at %s: %d %s", request, name, code, text)
			if !there {
				require.Equal(t, http.StatusNotFound, code)
			}
		}
	}
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.wait(patience))
	for name, url := range at {
		_, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		require.Error(t, err, name)
	}
}

// TestNoWayAround checks that no way of writing a request leads from the address of the MDM or of those who watch to what is
// at another one, and that each request has its line in the log.
func TestNoWayAround(t *testing.T) {
	t.Parallel()
	p := startBinary(t, "-listen-ddm", "127.0.0.1:0", "-listen-metrics", "127.0.0.1:0")
	main := strings.TrimPrefix(p.server().url, "http://")
	ask := func(address, line string) string {
		connection, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer connection.Close()
		require.NoError(t, connection.SetDeadline(time.Now().Add(patience)))
		_, err = fmt.Fprintf(connection, "%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n",
			line, main, testKey)
		require.NoError(t, err)
		answer, err := io.ReadAll(connection)
		require.NoError(t, err)
		return string(answer)
	}
	lines := []string{
		"GET /v1/sets", "GET //v1/sets", "GET /./v1/sets", "GET /tokens/../v1/sets", "GET /%76%31/sets", "GET /v1%2fsets",
		"GET /%2e%2e/v1/sets", "GET http://" + main + "/v1/sets", "GET http://" + main, "CONNECT " + main, "CONNECT /v1/sets",
		"OPTIONS *", "OPTIONS /v1/sets", "TRACE /v1/sets", "GET /version", "GET /v1/sets?x=/metrics", "HEAD /v1/sets",
	}
	require.Contains(t, ask(main, "GET /%76%31/sets"), "200 OK", "it is one of the ways to write it")
	for _, address := range []string{p.address("ddm_address"), p.address("metrics_address")} {
		for _, line := range lines {
			require.Regexp(t, `^HTTP/1\.1 40[045] `, ask(address, line), line)
		}
	}
	require.Regexp(t, `^HTTP/1\.1 404 `, ask(p.address("ddm_address"), "GET /metrics"))
	require.Regexp(t, `^HTTP/1\.1 404 `, ask(main, "GET /metrics"))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.wait(patience))
	require.Equal(t, 2*len(lines)+2, strings.Count(p.stderr.String(), "msg=request"))
	require.Contains(t, p.stderr.String(), "method=OPTIONS")
	require.NotContains(t, p.stderr.String(), testKey)
}

// TestDeviceAtItsOwnAddress checks the whole way of a change with the device side apart, and that a device, which chooses
// its paths, does not get from there to the API even with its key.
func TestDeviceAtItsOwnAddress(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	s := startDecree(t, append(databases()[0].flags(t), "-listen-ddm", "127.0.0.1:0",
		"-enqueue", nano.EnqueueURL(), "-enqueue-key", nano.APIKey())...)
	apart := "http://" + s.program.sites.ddm.listener.Addr().String()
	nano.SetDM(apart + "/")
	nano.SetWebhook(apart + "/webhook")
	device := nano.NewDevice(t)
	require.NoError(t, device.Enroll(ctx))
	device.Run(ctx)
	s.putTest("test.a", "first")
	s.addToSet("base", "test.a")
	s.assign(device.ID(), "base")
	s.waitInSync(device.ID())
	require.Contains(t, device.Declarations(), "test.a")
	host := strings.TrimPrefix(apart, "http:")
	for _, endpoint := range []string{
		"/v1/sets", "../v1/sets", "/version", strings.Replace(host, "//", "//x:"+testKey+"@", 1) + "/v1/sets",
	} {
		answer, err := device.DeclarativeManagement(ctx, endpoint, nil)
		require.Error(t, err, "%s: %s", endpoint, answer)
	}
}

// TestSiteCannotListen checks that nothing is served when one of the addresses is taken.
func TestSiteCannotListen(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, name := range []string{"-listen-ddm", "-listen-metrics"} {
		free := freeAddress(t)
		var stderr bytes.Buffer
		err := run(t.Context(), []string{
			"-api", "k", "-storage-dsn", filepath.Join(t.TempDir(), "decree.db"), "-listen", free, name, taken.Addr().String(),
		}, nil, io.Discard, &stderr)
		require.ErrorContains(t, err, "address already in use")
		_, err = net.Dial("tcp", free)
		require.Error(t, err)
	}
}

// certificate makes a certificate for 127.0.0.1 of its own, and returns it and its key.
func certificate(t testing.TB, serial int64) (certificatePEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "decree"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rawKey}))
}

// TestTLSRenewal checks that all addresses speak TLS, that a renewed certificate is served without a restart, and that a
// broken one is not.
func TestTLSRenewal(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	certificateFile, keyFile := filepath.Join(directory, "cert.pem"), filepath.Join(directory, "key.pem")
	firstCertificate, firstKey := certificate(t, 1)
	writeFile(t, certificateFile, firstCertificate)
	writeFile(t, keyFile, firstKey)
	p := startBinary(t, "-tls-cert", certificateFile, "-tls-key", keyFile,
		"-listen-ddm", "127.0.0.1:0", "-listen-metrics", "127.0.0.1:0")
	s := p.server()
	addresses := []string{p.address("address"), p.address("ddm_address"), p.address("metrics_address")}
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM([]byte(firstCertificate)))

	serial := func(address string) string {
		connection, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots})
		require.NoError(t, err)
		defer connection.Close()
		return connection.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	kept := &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}, Timeout: patience,
	}
	get := func(client *http.Client, address, path string) (*http.Response, error) {
		request, err := http.NewRequest(http.MethodGet, "https://"+address+path, nil)
		require.NoError(t, err)
		request.SetBasicAuth("x", testKey)
		response, err := client.Do(request)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
		}
		return response, err
	}
	for _, address := range addresses {
		require.Equal(t, "1", serial(address))
		response, err := get(kept, address, "/readyz")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Equal(t, "HTTP/1.1", response.Proto)
		plain, err := http.Get("http://" + address + "/readyz")
		require.NoError(t, err)
		require.NoError(t, plain.Body.Close())
		require.Equal(t, http.StatusBadRequest, plain.StatusCode, "there is no way without TLS")
		old := &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10} // #nosec G402 -- refused
		_, err = tls.Dial("tcp", address, old)
		require.ErrorContains(t, err, "protocol version")
	}
	response, err := get(kept, addresses[0], "/v1/sets")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode)

	// Whoever watches the server has its environment.
	health := exec.Command(buildDecree(t), "health")
	health.Env = []string{"DECREE_LISTEN=" + addresses[0], "DECREE_TLS_CERT=" + certificateFile}
	text, err := health.CombinedOutput()
	require.NoError(t, err, "%s", text)

	secondCertificate, secondKey := certificate(t, 2)
	require.True(t, roots.AppendCertsFromPEM([]byte(secondCertificate)))
	replaceFile(t, certificateFile, secondCertificate) // and not its key yet
	p.waitLog("cannot be read again")
	require.Equal(t, "1", serial(addresses[0]))
	replaceFile(t, keyFile, secondKey)
	s.eventually(func() bool { return serial(addresses[0]) == "2" }, "the new certificate")
	for _, address := range addresses {
		require.Equal(t, "2", serial(address))
		response, err := get(kept, address, "/livez")
		require.NoError(t, err, "connections that are open stay")
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	for i, broken := range []string{"", "no certificate", secondCertificate[:len(secondCertificate)/2], secondKey} {
		writeFile(t, certificateFile, broken)
		s.eventually(func() bool { return strings.Count(p.stderr.String(), "cannot be read again") == i+2 }, "the log of it")
		require.Equal(t, "2", serial(addresses[0]))
	}
	require.NotContains(t, p.stderr.String(), "PRIVATE")
}

// TestTLSCannotStart checks that a pair which does not fit is told at start.
func TestTLSCannotStart(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	first, firstKey := certificate(t, 1)
	_, secondKey := certificate(t, 2)
	file := func(name, content string) string { return writeFile(t, filepath.Join(directory, name), content) }
	first, firstKey, secondKey = file("first", first), file("first-key", firstKey), file("second-key", secondKey)
	for i, story := range []struct{ certificate, key, mentions string }{
		{first, secondKey, "private key does not match"},
		{firstKey, first, "certificate"},
		{first + "x", firstKey, first + "x"},
		{first, firstKey + "x", firstKey + "x"},
	} {
		err := run(t.Context(), []string{
			"-api", "k", "-listen", "127.0.0.1:0", "-storage-dsn", filepath.Join(directory, fmt.Sprint(i)),
			"-tls-cert", story.certificate, "-tls-key", story.key,
		}, nil, io.Discard, io.Discard)
		require.ErrorContains(t, err, "-tls-cert and -tls-key")
		require.ErrorContains(t, err, story.mentions)
	}
}
