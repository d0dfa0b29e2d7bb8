package hostile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// Config is what the peer says of itself.
type Config struct {
	AS uint32
	ID netip.Addr // BGP Identifier
	// Hold in seconds; 0: 90. Keepalives are sent every third of it.
	Hold uint16
	// Families of the session; none: IPv4 unicast.
	Families []bgp.Family
	// Extended offers messages of up to 65,535 bytes, RFC 8654.
	Extended bool
	// RestartTime in seconds, when it is not 0, is offered as graceful restart (RFC 4724);
	// Restarting sets the bits of a speaker that comes back.
	RestartTime uint16
	Restarting  bool
	// Capabilities are offered besides.
	Capabilities []bgp.ParameterCapabilityInterface
	// Deaf: nothing is read once the session is up, until Listen.
	Deaf bool
}

// Peer is an established session.
type Peer struct {
	// Theirs is the OPEN of the other end.
	Theirs *bgp.BGPOpen

	conn   net.Conn
	cancel context.CancelFunc
	write  sync.Mutex // messages are written whole
	listen sync.Once
	done   chan struct{} // closed when the session has ended

	mu           sync.Mutex
	ended        error
	notification *bgp.BGPNotification
	updates      []*bgp.BGPUpdate
	onUpdate     func(*bgp.BGPUpdate)
	sent         atomic.Int64 // bytes
}

// handshake bounds how long Open waits for the other end.
const handshake = 10 * time.Second

// Open brings a session up on a connection, which it takes over: it closes it when it fails.
// An error that is ErrTurnedAway says that the other end closed before it said a word, as
// speakers do for some seconds after a session was lost.
func Open(conn net.Conn, c Config) (*Peer, error) {
	p := &Peer{conn: conn, done: make(chan struct{})}
	if err := p.greet(c); err != nil {
		_ = conn.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go p.keepalives(ctx, c.hold()/3)
	if !c.Deaf {
		p.Listen()
	}
	return p, nil
}

// ErrTurnedAway is Open's error when the other end closes the connection without a message.
var ErrTurnedAway = errors.New("the speaker closed the connection before its OPEN")

func (c Config) hold() time.Duration {
	if c.Hold == 0 {
		return 90 * time.Second
	}
	return time.Duration(c.Hold) * time.Second
}

func (c Config) open() (*bgp.BGPMessage, error) {
	families := c.Families
	if len(families) == 0 {
		families = []bgp.Family{bgp.RF_IPv4_UC}
	}
	caps := []bgp.ParameterCapabilityInterface{bgp.NewCapFourOctetASNumber(c.AS), bgp.NewCapRouteRefresh()}
	var kept []*bgp.CapGracefulRestartTuple
	for _, f := range families {
		caps = append(caps, bgp.NewCapMultiProtocol(f))
		kept = append(kept, bgp.NewCapGracefulRestartTuple(f, c.Restarting))
	}
	if c.RestartTime > 0 {
		caps = append(caps, bgp.NewCapGracefulRestart(c.Restarting, true, c.RestartTime, kept))
	}
	if c.Extended {
		caps = append(caps, bgp.NewCapExtendedMessage())
	}
	as := uint16(bgp.AS_TRANS)
	if c.AS <= 0xffff {
		as = uint16(c.AS)
	}
	return bgp.NewBGPOpenMessage(as, uint16(c.hold()/time.Second), c.ID,
		[]bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(append(caps, c.Capabilities...))})
}

func (p *Peer) greet(c Config) error {
	_ = p.conn.SetDeadline(time.Now().Add(handshake))
	defer p.conn.SetDeadline(time.Time{}) //nolint:errcheck // of a connection that is used next
	m, err := p.read()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTurnedAway, err)
	}
	theirs, ok := m.Body.(*bgp.BGPOpen)
	if !ok {
		return fmt.Errorf("the speaker's first message is %T, not its OPEN", m.Body)
	}
	p.Theirs = theirs
	open, err := c.open()
	if err != nil {
		return err
	}
	for _, m := range []*bgp.BGPMessage{open, bgp.NewBGPKeepAliveMessage()} {
		b, err := m.Serialize()
		if err != nil {
			return err
		}
		if err := p.Send(b); err != nil {
			return fmt.Errorf("send OPEN: %w", err)
		}
	}
	if m, err = p.read(); err != nil {
		return fmt.Errorf("wait for the answer to our OPEN: %w", err)
	}
	if m.Header.Type != bgp.BGP_MSG_KEEPALIVE {
		return fmt.Errorf("the speaker answers our OPEN with %+v", m.Body)
	}
	return nil
}

func (p *Peer) read() (*bgp.BGPMessage, error) {
	head := make([]byte, bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(p.conn, head); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(head[16:18]))
	if length < len(head) {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	body := make([]byte, length-len(head))
	if _, err := io.ReadFull(p.conn, body); err != nil {
		return nil, err
	}
	return bgp.ParseBGPMessage(append(head, body...), &bgp.MarshallingOption{ExtendedMessage: true})
}

// Listen begins to read what the other end sends.
func (p *Peer) Listen() {
	p.listen.Do(func() { go p.receive() })
}

func (p *Peer) receive() {
	for {
		m, err := p.read()
		if err != nil {
			p.end(err)
			return
		}
		p.mu.Lock()
		on := p.onUpdate
		switch body := m.Body.(type) {
		case *bgp.BGPNotification:
			p.notification = body
		case *bgp.BGPUpdate:
			if on == nil {
				p.updates = append(p.updates, body)
			}
		}
		p.mu.Unlock()
		if u, ok := m.Body.(*bgp.BGPUpdate); ok && on != nil {
			on(u)
		}
	}
}

func (p *Peer) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = err
		p.cancel()
		close(p.done)
	}
}

func (p *Peer) keepalives(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	b, _ := bgp.NewBGPKeepAliveMessage().Serialize()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if p.Send(b) != nil {
				return
			}
		}
	}
}

// OnUpdate has UPDATEs handed to f, from the goroutine that reads, instead of being kept.
func (p *Peer) OnUpdate(f func(*bgp.BGPUpdate)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onUpdate = f
}

// Updates are the UPDATEs that came since the session was up.
func (p *Peer) Updates() []*bgp.BGPUpdate {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*bgp.BGPUpdate(nil), p.updates...)
}

// Ended returns why the session ended, nil while it is up, and the NOTIFICATION that it
// ended with, if the other end sent one and the peer has read it.
func (p *Peer) Ended() (error, *bgp.BGPNotification) { //nolint:revive,staticcheck // the error is the answer, not a failure
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended, p.notification
}

// Done is closed when the session has ended.
func (p *Peer) Done() <-chan struct{} { return p.done }

// Send writes messages as they are.
func (p *Peer) Send(messages ...[]byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	buffers := net.Buffers(append([][]byte(nil), messages...))
	n, err := buffers.WriteTo(p.conn)
	p.sent.Add(n)
	if err != nil && p.cancel != nil {
		p.end(err)
	}
	return err
}

// Sent is the number of bytes that were sent in all.
func (p *Peer) Sent() int64 { return p.sent.Load() }

// Flood sends what next returns, as fast as the other end takes it, until next returns
// nothing, ctx ends, or the session does. It returns how many messages were sent, and the
// error that ended the session.
func (p *Peer) Flood(ctx context.Context, next func(i int) [][]byte) (messages int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetWriteDeadline(time.Now()) })
	defer stop()
	for i := 0; ctx.Err() == nil; i++ {
		batch := next(i)
		if len(batch) == 0 {
			return messages, nil
		}
		if err := p.Send(batch...); err != nil {
			if ctx.Err() != nil {
				return messages, nil // a message is cut short: the session is of no use any more
			}
			return messages, err
		}
		messages += len(batch)
	}
	return messages, nil
}

// Close ends the connection without a word.
func (p *Peer) Close() error {
	p.end(net.ErrClosed)
	return p.conn.Close()
}
