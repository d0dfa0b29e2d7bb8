//go:build cluster

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/netns"
)

// connect opens a TCP connection from one end to the other.
func connect(from, to end) (client, server *net.TCPConn, err error) {
	var l *net.TCPListener
	err = netns.Do(to.netns, func() (err error) {
		l, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to.addr, 0)))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	err = netns.Do(from.netns, func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.addr, 0)), Timeout: patience}
		c, err := d.Dial("tcp4", l.Addr().String())
		if err == nil {
			client = c.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	if server, err = l.AcceptTCP(); err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return client, server, nil
}

// tcpInfo is what the kernel knows of a connection.
func tcpInfo(c *net.TCPConn) (info *unix.TCPInfo, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	return info, errors.Join(cerr, err)
}

// stream is one TCP connection on which numbered bytes trickle, and how long its
// receiver has had to wait for the next ones.
type stream struct {
	client, server *net.TCPConn
	stop           chan struct{}
	work           sync.WaitGroup

	mu      sync.Mutex
	last    time.Time     // of the last read
	longest time.Duration // between two reads
	resent  uint32        // segments, until the last lap
	sent    int64
	got     int64
	errs    []error
}

// A chunk is many segments, which are cut anew when the path's MTU changes. The pause
// between two leaves an emulated machine time for other things.
const (
	chunkSize  = 32 << 10
	chunkEvery = 100 * time.Millisecond
)

func startStream(t *testing.T, from, to end) *stream {
	t.Helper()
	client, server, err := connect(from, to)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{client: client, server: server, stop: make(chan struct{}), last: time.Now()}
	t.Cleanup(func() { client.Close(); server.Close() })
	s.work.Go(func() {
		n, err := io.Copy(client, &source{stop: s.stop})
		s.mu.Lock()
		s.sent = n
		s.mu.Unlock()
		s.failed("send", errors.Join(err, client.CloseWrite()))
	})
	s.work.Go(func() {
		_, err := io.Copy(s, server)
		s.failed("receive", err)
	})
	return s
}

func (s *stream) failed(what string, err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, fmt.Errorf("%s: %w", what, err))
}

// byteAt is the byte that travels at an offset of the stream.
func byteAt(offset int64) byte { return byte(offset) ^ byte(offset>>8) ^ byte(offset>>16) }

// source reads as the bytes to be sent, a chunk at a time, until stop is closed.
type source struct {
	stop chan struct{}
	at   int64
}

func (s *source) Read(p []byte) (int, error) {
	select {
	case <-s.stop:
		return 0, io.EOF
	case <-time.After(chunkEvery):
	}
	p = p[:min(len(p), chunkSize)]
	for i := range p {
		p[i] = byteAt(s.at)
		s.at++
	}
	return len(p), nil
}

// Write takes what the receiver has read.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause()
	for i, b := range p {
		if b != byteAt(s.got) {
			return i, fmt.Errorf("byte %d is %#x, want %#x", s.got, b, byteAt(s.got))
		}
		s.got++
	}
	return len(p), nil
}

func (s *stream) pause() {
	now := time.Now()
	s.longest = max(s.longest, now.Sub(s.last))
	s.last = now
}

// lap is what happened to a stream in some time.
type lap struct {
	longest time.Duration // pause
	resent  uint32        // segments
}

func (l lap) String() string {
	return fmt.Sprintf("longest pause %v, %d segments resent", l.longest.Round(time.Millisecond), l.resent)
}

// lap returns what happened since the last lap, or since the start.
func (s *stream) lap() lap {
	info, err := tcpInfo(s.client)
	s.failed("read the connection's state", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := lap{longest: max(s.longest, time.Since(s.last))}
	s.longest = 0
	if err == nil {
		l.resent, s.resent = info.Total_retrans-s.resent, info.Total_retrans
	}
	return l
}

// finish ends the transfer and demands that everything arrived.
func (s *stream) finish(t *testing.T) {
	t.Helper()
	close(s.stop)
	deadline := time.Now().Add(patience)
	_, _ = s.client.SetDeadline(deadline), s.server.SetDeadline(deadline)
	s.work.Wait()
	if err := errors.Join(s.errs...); err != nil || s.got != s.sent || s.sent == 0 {
		t.Errorf("TCP: %d bytes sent, %d arrived: %v", s.sent, s.got, err)
	}
	t.Logf("TCP: %d bytes", s.got)
}

// transfer sends n bytes over a connection and waits until all have arrived.
func transfer(client, server *net.TCPConn, n int) error {
	deadline := time.Now().Add(patience)
	if err := errors.Join(client.SetDeadline(deadline), server.SetDeadline(deadline)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := client.Write(make([]byte, n))
		sent <- err
	}()
	got, err := io.CopyN(io.Discard, server, int64(n))
	if err != nil {
		// Unblocks the sender.
		err = errors.Join(fmt.Errorf("%d of %d bytes arrived: %w", got, n, err), client.Close())
	}
	return errors.Join(err, <-sent)
}
