package machine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// waitFor returns when what the component needs is there.
func waitFor(c Component) {
	if c.WaitPath != "" {
		until(20*time.Millisecond, func() error { _, err := os.Stat(c.WaitPath); return err })
	}
	if c.WaitTCP != "" {
		until(20*time.Millisecond, func() error { return accepts(c.WaitTCP) })
	}
	if c.WaitURL != "" {
		t := &http.Transport{} // one connection for all questions
		defer t.CloseIdleConnections()
		until(100*time.Millisecond, func() error { return saysOK(t, c.WaitURL, c.WaitCA) })
	}
}

func until(pause time.Duration, done func() error) {
	for done() != nil {
		time.Sleep(pause)
	}
}

func accepts(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// saysOK asks the URL, with t's connection if there is one; an emulated server needs
// seconds for a handshake.
func saysOK(t *http.Transport, url, ca string) error {
	if t.TLSClientConfig == nil {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s has no certificate", ca)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	resp, err := (&http.Client{Transport: t, Timeout: 30 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %s", url, resp.Status)
	}
	return nil
}
