package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// healthTimeout is how long a server may take to say that it works.
const healthTimeout = 5 * time.Second

// runHealth asks a running server whether it works. It is made for what watches containers, where it has the server's
// own environment.
func runHealth(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("decree health", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", defaultListen, "the server's -listen, which says whom to ask")
	certificate := flags.String("tls-cert", "", "the server's -tls-cert: with one the server is asked by HTTPS")
	url := flags.String("health-url", "",
		"URL that a server which works answers with 200; by default /readyz of the server on this machine")
	if err := parseFlags(ctx, flags, args, environ); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	// It asks this machine, which a proxy does not reach.
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport}
	if *url == "" {
		address, err := localAddress(ctx, *listen)
		if err != nil {
			return fmt.Errorf("-listen %q does not tell where to ask, use -health-url: %w", *listen, err)
		}
		*url = "http://" + address + "/readyz"
		if *certificate != "" {
			*url = "https://" + address + "/readyz"
			// The certificate is for the name that clients use, which is not this one. Nothing secret is sent.
			transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // #nosec G402 -- see above
		}
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, *url, nil)
	if err != nil {
		return fmt.Errorf("-health-url: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status + ": " + strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(stdout, "ok")
	return err
}

// localAddress returns where somebody on this machine reaches a server with that listen address.
func localAddress(ctx context.Context, listen string) (string, error) {
	host, service, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service) // it may be a name, which URLs do not take
	if err != nil {
		return "", err
	}
	if port == 0 {
		return "", errors.New("the system chooses its port")
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1" // also where [::] listens
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}
