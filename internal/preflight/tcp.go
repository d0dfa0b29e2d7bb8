package preflight

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// dialTimeout is enough for the first SYN to be repeated after 1 s.
	dialTimeout = 3 * time.Second
	// dials is the number of connections attempted at once.
	dials = 256
)

// connectAll connects to every peer's BGP port until it has been answered.
func (e *engine) connectAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, dials)
	for _, t := range e.cfg.Targets {
		wg.Go(func() {
			for {
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return
				}
				err := connect(ctx, e.cfg.Self.Addr, netip.AddrPortFrom(t.Addr, e.cfg.BGPPort))
				<-slots
				if err == nil {
					e.answered(t.Addr, CheckTCP)
					return
				}
				if ctx.Err() == nil {
					e.failed(t.Addr, CheckTCP, err)
				}
				select {
				case <-time.After(e.cfg.Every):
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

// connect opens a connection from self and closes it at once.
func connect(ctx context.Context, self netip.Addr, to netip.AddrPort) error {
	d := net.Dialer{Timeout: dialTimeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(self, 0))}
	conn, err := d.DialContext(ctx, "tcp4", to.String())
	if err != nil {
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return errNoAnswer
		}
		return err
	}
	return conn.Close()
}

var errNoAnswer = errors.New("no answer")
