//go:build cluster

package e2e

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/manx-cni/manx/test/lab/netns"
)

// mailbox is a UDP port in a pod, and how often it was sent which text.
type mailbox struct {
	conn *net.UDPConn

	mu  sync.Mutex
	got map[string]int
}

func openMailbox(t *testing.T, at end) *mailbox {
	t.Helper()
	m := &mailbox{got: map[string]int{}}
	err := netns.Do(at.netns, func() (err error) {
		m.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.addr, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.conn.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			n, err := m.conn.Read(buf)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.got[string(buf[:n])]++
			m.mu.Unlock()
		}
	}()
	return m
}

func (m *mailbox) port() uint16 { return m.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

func (m *mailbox) count(text string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.got[text]
}
