//go:build cluster

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	udp "golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/netns"
)

// flow is numbered UDP packets from one network namespace to another, and which of
// them arrived, in the family of its ends' addresses. The sockets live in the
// namespaces; the goroutines need not.
type flow struct {
	name     string
	in, out  *net.UDPConn
	rate     atomic.Int64 // packets per second
	sent     atomic.Int64
	arrivals atomic.Int64 // duplicates included

	// Of the sender.
	started time.Time
	last    time.Time
	owed    float64         // packets, at last
	batches *udp.PacketConn // of out; they know no family

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
	f := &flow{name: name}
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
	f.rate.Store(int64(rate))
	f.started, f.batches = time.Now(), udp.NewPacketConn(f.out)
	f.last = f.started
	go f.receive()
	theSender.add(f)
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

// batch is how many packets one system call takes at most.
const batch = 64

// sender sends the packets of all flows, so that who sends wakes up once in a beat,
// however many flows there are: waking up costs an emulated machine more than sending.
type sender struct {
	mu    sync.Mutex // held over a beat
	flows []*flow
	runs  bool
	msgs  []udp.Message
}

var theSender = sender{msgs: messages(numberSize)}

// add begins to send the flow's packets.
func (s *sender) add(f *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flows = append(s.flows, f)
	if !s.runs {
		s.runs = true
		go s.run()
	}
}

// remove ends that. None is under way to the socket when it returns.
func (s *sender) remove(f *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flows = slices.DeleteFunc(s.flows, func(g *flow) bool { return g == f })
}

func (s *sender) run() {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for s.beat() {
		<-tick.C
	}
}

// beat sends what all flows owe, and reports whether there are any.
func (s *sender) beat() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.flows {
		f.send(s.msgs)
	}
	s.runs = len(s.flows) > 0
	return s.runs
}

// send keeps the average rate: a late beat sends what it owes, and the next ones what is
// more than a batch. An emulated machine that cannot keep up is not asked for ever more:
// what it has owed for a second is dropped, and the result tells how many were sent.
func (f *flow) send(msgs []udp.Message) {
	now, rate, sent := time.Now(), float64(f.rate.Load()), f.sent.Load()
	f.owed += now.Sub(f.last).Seconds() * rate
	if emulated() {
		f.owed = min(f.owed, rate)
	}
	f.last = now
	n := min(int(f.owed), batch)
	if n == 0 {
		return
	}
	for i := range n {
		binary.BigEndian.PutUint64(msgs[i].Buffers[0], uint64(sent)+uint64(i))
	}
	n, err := f.batches.WriteBatch(msgs[:n], 0)
	if err != nil {
		f.mu.Lock()
		f.sendErr = err
		f.mu.Unlock()
		// An ICMP error about an earlier packet comes back here in the place of
		// the next one, which so counts as sent and is lost.
		n = max(n, 1)
	}
	f.owed -= float64(n)
	f.sent.Add(int64(n))
}

// receive empties the socket now and then; its buffer holds far more than comes meanwhile.
func (f *flow) receive() {
	tick := time.NewTicker(10 * beat)
	defer tick.Stop()
	conn := udp.NewPacketConn(f.in)
	msgs := messages(2 * numberSize) // what is longer is not ours
	for ; ; <-tick.C {
		for n := batch; n == batch; {
			var err error
			n, err = conn.ReadBatch(msgs, 0)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			f.arrived(msgs[:max(n, 0)])
		}
	}
}

// arrived takes note of packets.
func (f *flow) arrived(msgs []udp.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range msgs {
		if m.N != numberSize {
			continue
		}
		number := binary.BigEndian.Uint64(m.Buffers[0])
		if number >= maxNumber {
			continue
		}
		for uint64(len(f.seen)) <= number {
			f.seen = append(f.seen, 0)
		}
		f.seen[number]++
		f.arrivals.Add(1)
	}
}

// missing is how many of the first n numbers have not arrived.
func (f *flow) missing(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	missing := max(n-len(f.seen), 0)
	for _, times := range f.seen[:min(n, len(f.seen))] {
		if times == 0 {
			missing++
		}
	}
	return missing
}

const (
	numberSize = 8
	maxNumber  = 1 << 24 // of a packet; more is not ours
)

func messages(size int) []udp.Message {
	msgs := make([]udp.Message, batch)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, size)}
	}
	return msgs
}

// result is the account of a flow.
type result struct {
	Name             string
	Sent, Lost, Dups int
	Over             time.Duration // it was sent
	Gaps             []string      // lost numbers, as ranges
	FirstLost        int           // the lowest lost number
	LastLost         int           // the highest
	SendErr          error
}

func (r result) String() string {
	s := fmt.Sprintf("%s: sent %d (%.0f/s), lost %d, duplicates %d", r.Name, r.Sent, float64(r.Sent)/r.Over.Seconds(), r.Lost, r.Dups)
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
	theSender.remove(f)
	sent, over := f.sent.Load(), time.Since(f.started)
	for last, quiet := int64(-1), 0; f.arrivals.Load() < sent && quiet < 10*slowness; {
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // quiet is a time in which nothing arrives
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
	r := result{Name: f.name, Sent: int(sent), Over: over, SendErr: f.sendErr}
	first := -1
	for i := 0; i <= int(sent); i++ {
		arrived := i == int(sent) || i < len(f.seen) && f.seen[i] > 0
		if !arrived {
			if r.Lost == 0 {
				r.FirstLost = i
			}
			r.Lost++
			r.LastLost = i
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
