package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/bgp"
)

// GoBGP tells how many messages came, and of their size nothing; its connections are its own.
// The kernel knows the bytes. So this process's descriptors are looked through for TCP
// connections with the peers. Each one found is duplicated while it is read: a number
// that GoBGP closes at the same moment may be another connection's by then.

// closerAt is how many bytes a peer has sent since GoBGP's counters for it were last read
// before they are read again: more than two keepalives.
const closerAt = 2*keepaliveSize + 1

const keepaliveSize = 19

// closer is what GoBGP has said of a session.
type closer struct {
	connection, read, requests uint64
	paths                      int
	next                       time.Time // not before
}

// Traffic reads the established sessions' connections, and sees to it that each is given up
// when what was sent is not acknowledged for the session's hold time (TCP_USER_TIMEOUT): the
// peer, which has had no keepalive then, has ended the session already.
func (s *Speaker) Traffic(ctx context.Context) ([]bgp.Traffic, error) {
	readings, err := s.connections()
	if err != nil {
		return nil, err
	}
	seen := make(map[netip.Addr]closer, len(readings))
	out := readings[:0]
	for _, r := range readings {
		if !s.notes.of(r.Peer).up.Load() {
			continue
		}
		c := s.closer[r.Peer]
		if c.connection != r.Connection {
			c = closer{connection: r.Connection}
		}
		if now := time.Now(); r.Read-c.read >= closerAt && now.After(c.next) {
			if c.requests, c.paths, err = s.counters(ctx, r.Peer); err != nil {
				return nil, err
			}
			c.read = r.Read
			c.next = time.Now().Add(min(restAfterCount*time.Since(now), longestRest)) // it walks the peer's paths
		}
		seen[r.Peer] = c
		// What was read by then and not now: the two belong together.
		r.Read, r.Requests, r.Paths = c.read, c.requests, c.paths
		out = append(out, r)
	}
	s.closer = seen
	return out, nil
}

// restAfterCount: GoBGP's counters of a peer are left alone so many times as long as it took
// to read them, longestRest at most.
const (
	restAfterCount = 50
	longestRest    = time.Second
)

// counters reads GoBGP's counters for a peer.
func (s *Speaker) counters(ctx context.Context, peer netip.Addr) (requests uint64, paths int, err error) {
	err = s.server.ListPeer(ctx, &api.ListPeerRequest{Address: peer.String()}, func(p *api.Peer) {
		requests = p.GetState().GetMessages().GetReceived().GetRefresh()
		for _, f := range p.GetAfiSafis() {
			paths += int(f.GetState().GetReceived())
		}
	})
	if err != nil {
		return 0, 0, fmt.Errorf("read the counters of %s: %w", peer, err)
	}
	return requests, paths, nil
}

// connections reads all TCP connections of this process with peers: of several with one peer
// the one that has brought most.
func (s *Speaker) connections() ([]bgp.Traffic, error) {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("look for the sessions' connections: %w", err)
	}
	found := map[netip.Addr]bgp.Traffic{}
	for _, e := range open {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, ok := s.peerOf(fd); !ok {
			continue
		}
		r, ok := s.connection(fd)
		if have, known := found[r.Peer]; ok && (!known || have.Read < r.Read) {
			found[r.Peer] = r
		}
	}
	out := make([]bgp.Traffic, 0, len(found))
	for _, r := range found {
		out = append(out, r)
	}
	return out, nil
}

// connection reads one.
func (s *Speaker) connection(fd int) (bgp.Traffic, bool) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return bgp.Traffic{}, false // closed by now
	}
	defer unix.Close(own) //nolint:errcheck // a duplicate, which nothing was written to
	p, ok := s.peerOf(own)
	if !ok {
		return bgp.Traffic{}, false
	}
	info, err := unix.GetsockoptTCPInfo(own, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return bgp.Traffic{}, false // no TCP
	}
	r := bgp.Traffic{Peer: p.Addr, Read: info.Bytes_received, Taken: info.Bytes_acked}
	if unread, err := unix.IoctlGetInt(own, unix.SIOCINQ); err == nil {
		r.Read -= min(r.Read, uint64(unread))
	}
	if waiting, err := unix.IoctlGetInt(own, unix.SIOCOUTQ); err == nil {
		r.Waiting = uint64(waiting)
	}
	if r.Connection, err = unix.GetsockoptUint64(own, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return bgp.Traffic{}, false
	}
	if s.closer[p.Addr].connection != r.Connection {
		hold := time.Duration(seconds(p.Hold, bgp.HoldTime)) * time.Second
		if err := unix.SetsockoptInt(own, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(hold/time.Millisecond)); err != nil {
			s.log.Warn("a session's connection is not given up by itself when nothing is acknowledged", "peer", p.Addr, "err", err)
		}
	}
	return r, true
}

// peerOf is the peer that a descriptor is a BGP connection with.
func (s *Speaker) peerOf(fd int) (p bgp.Peer, ok bool) {
	connects(fd, func(local, remote netip.AddrPort) bool {
		p, ok = s.peers[remote.Addr()]
		ok = ok && s.carries(p, local, remote)
		return ok
	})
	return p, ok
}
