//go:build cluster

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/netns"
)

// flow is numbered UDP packets from one network namespace to another, and which of
// them arrived, in the family of its ends' addresses. The sockets live in the namespaces; the goroutines need not.
type flow struct {
	name     string
	in, out  *net.UDPConn
	stop     chan struct{}
	stopped  sync.WaitGroup
	sent     atomic.Int64
	arrivals atomic.Int64 // duplicates included

	mu      sync.Mutex
	seen    []uint8 // times that each number arrived
	sendErr error
}

// end is one end of a flow: a namespace and an address in it.
type end struct {
	netns string
	addr  netip.Addr
}

// receiveBuffer holds seconds of packets, so that a busy machine does not look like a lossy network.
const receiveBuffer = 8 << 20

// startFlow sends rate packets per second from one end to the other until finish.
func startFlow(name string, from, to end, rate int) (*flow, error) {
	f := &flow{name: name, stop: make(chan struct{})}
	err := netns.Do(to.netns, func() (err error) {
		if f.in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.addr, 0))); err != nil {
			return err
		}
		return force(f.in, receiveBuffer)
	})
	if err != nil {
		return nil, fmt.Errorf("receiver of %s: %w", name, err)
	}
	err = netns.Do(from.netns, func() (err error) {
		f.out, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.addr, 0)), f.in.LocalAddr().(*net.UDPAddr))
		return err
	})
	if err != nil {
		f.in.Close()
		return nil, fmt.Errorf("sender of %s: %w", name, err)
	}
	go f.receive()
	f.stopped.Go(func() { f.send(rate) })
	return f, nil
}

// force sets the receive buffer beyond net.core.rmem_max.
func force(c *net.UDPConn, bytes int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes)
	}); err != nil {
		return err
	}
	return set
}

// send keeps the average rate: a late tick sends what it owes.
func (f *flow) send(rate int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	var number [8]byte
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		due := int64(time.Since(start).Seconds() * float64(rate))
		for n := f.sent.Load(); n < due; n++ {
			binary.BigEndian.PutUint64(number[:], uint64(n))
			// ICMP errors about earlier packets come back here; the packets count as lost.
			if _, err := f.out.Write(number[:]); err != nil {
				f.mu.Lock()
				f.sendErr = err
				f.mu.Unlock()
			}
			f.sent.Store(n + 1)
		}
	}
}

func (f *flow) receive() {
	buf := make([]byte, 64)
	for {
		n, err := f.in.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue
		}
		number := binary.BigEndian.Uint64(buf)
		f.mu.Lock()
		for uint64(len(f.seen)) <= number && number < 1<<24 {
			f.seen = append(f.seen, 0)
		}
		f.seen[number]++
		f.mu.Unlock()
		f.arrivals.Add(1)
	}
}

// result is the account of a flow.
type result struct {
	Name             string
	Sent, Lost, Dups int
	Gaps             []string // lost numbers, as ranges
	SendErr          error
}

func (r result) String() string {
	s := fmt.Sprintf("%s: sent %d, lost %d, duplicates %d", r.Name, r.Sent, r.Lost, r.Dups)
	if r.Lost > 0 {
		s += ", lost numbers " + strings.Join(r.Gaps, " ")
	}
	if r.SendErr != nil {
		s += fmt.Sprintf(" (last error of the sender: %v)", r.SendErr)
	}
	return s
}

// finish stops the sender, waits for what is under way, and accounts for every packet.
func (f *flow) finish() result {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.stopped.Wait()
	sent := f.sent.Load()
	for last, quiet := int64(-1), 0; f.arrivals.Load() < sent && quiet < 10*slowness; time.Sleep(100 * time.Millisecond) {
		if now := f.arrivals.Load(); now == last {
			quiet++
		} else {
			last, quiet = now, 0
		}
	}
	f.in.Close()
	f.out.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	r := result{Name: f.name, Sent: int(sent), SendErr: f.sendErr}
	first := -1
	for i := 0; i <= int(sent); i++ {
		arrived := i == int(sent) || i < len(f.seen) && f.seen[i] > 0
		if !arrived {
			r.Lost++
			if first < 0 {
				first = i
			}
			continue
		}
		if first >= 0 {
			r.Gaps = append(r.Gaps, fmt.Sprintf("%d-%d", first, i-1))
			first = -1
		}
		if i < len(f.seen) && f.seen[i] > 1 {
			r.Dups += int(f.seen[i]) - 1
		}
	}
	return r
}
