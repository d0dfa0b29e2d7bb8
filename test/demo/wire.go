package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// wireFilter lets a capture show pings, plain and in IPIP.
const wireFilter = "icmp or ip proto 4"

// The shape of tunl0: up, without ARP, room for 20 more bytes in the uplink's 1500, a pod
// address that is nobody else's.
var (
	tunnelUp   = regexp.MustCompile(`(?m)^\d+: tunl0@NONE: <NOARP,UP,LOWER_UP> mtu 1480 `)
	tunnelKind = regexp.MustCompile(`(?m)^ +link/ipip 0\.0\.0\.0 `)
	tunnelAddr = regexp.MustCompile(`(?m)^ +inet 10\.244\.\d+\.\d+/32 `)
)

func tunnelFits(out string) bool {
	return tunnelUp.MatchString(out) && tunnelKind.MatchString(out) && tunnelAddr.MatchString(out)
}

// tunnel shows a node's end of all tunnels.
func (d *demo) tunnel(node string) {
	out := d.showOn(node, tunnelFits, "ip", "-d", "addr", "show", "tunl0")
	d.check(tunnelFits(out), "tunl0 of "+node+" is up, without ARP, with MTU 1480 and a pod address as a /32",
		"<NOARP,UP,LOWER_UP>, mtu 1480, link/ipip, inet 10.244.x.y/32", fmt.Sprintf("%q", out))
}

// wire shows what one ping of the client is on its node's uplink.
func (d *demo) wire(client, to pod) {
	capture := []string{"tcpdump", "-nei", "eth0", "-c", "1", wireFilter}
	ping := []string{"exec", "client", "--", "ping", "-c", "1", "-W", "2", to.IP}
	shape := d.mode.frame(client, to)
	out := d.show(fmt.Sprintf("%s $ %s &\n", client.Node, quoted(capture)), shape.MatchString,
		func() (string, error) { return d.captured(client.Node, capture, ping) }, append([]string{"kubectl"}, ping...)...)
	what := "on the wire it is the pod's own packet, in a frame of 98 bytes"
	if d.mode.tunnelled(client, to) {
		what = fmt.Sprintf("on the wire it is in a packet from %s to %s (protocol 4), in a frame of 98 + 20 bytes", client.Node, to.Node)
	}
	d.check(shape.MatchString(out), what, "a line like "+shape.String(), fmt.Sprintf("%q", strings.TrimSpace(out)))
}

// captured runs a kubectl command while a capture listens on a node, and returns what the capture prints.
func (d *demo) captured(node string, capture, kubectl []string) (string, error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.patience)
	defer cancel()
	l := *d.lab
	l.ctx = ctx
	cmd := l.command(append([]string{"exec", node}, capture...)...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	for said := bufio.NewScanner(stderr); said.Scan(); {
		if strings.Contains(said.Text(), "listening on") {
			break
		}
	}
	_, pingErr := l.kubectl(kubectl...)
	if pingErr != nil {
		cancel() // There may be nothing to capture.
	}
	_, _ = io.Copy(io.Discard, stderr) // It ends with the capture.
	err = cmd.Wait()
	switch {
	case pingErr != nil:
		return stdout.String(), pingErr
	case err != nil:
		return stdout.String(), fmt.Errorf("capture on %s: %w", node, err)
	}
	return stdout.String(), nil
}
