package nl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// dumpTries bounds how often an interrupted dump is repeated. A table that
// changes faster than it can be read this many times in a row is reported.
const dumpTries = 8

// Config says where the kernel is.
type Config struct {
	// NetNS is an open network namespace; the zero value or netns.None() means
	// the caller's own. The handle does not close it.
	NetNS netns.NsHandle
}

// Handle is the real kernel. It may be used from several goroutines; calls on
// one handle wait for one another, so what may not wait has a handle of its own.
type Handle struct {
	ns netns.NsHandle

	mu  sync.Mutex
	lib *netlink.Handle
	rt  *rtSocket
}

var _ Kernel = (*Handle)(nil)

// noNS stands for the namespace of the calling thread.
var noNS = netns.None()

// Open opens the sockets. It needs CAP_NET_ADMIN only when something is changed.
func Open(cfg Config) (*Handle, error) {
	h := &Handle{ns: cfg.NetNS}
	if h.ns == 0 {
		h.ns = netns.None()
	}
	if err := h.reopen(); err != nil {
		return nil, err
	}
	return h, nil
}

// Close closes the sockets.
func (h *Handle) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lib != nil {
		h.lib.Close()
		h.rt.close()
		h.lib = nil
	}
}

func (h *Handle) reopen() error {
	lib, err := netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink sockets: %w", err)
	}
	rs, err := openRTSocket(h.ns)
	if err != nil {
		lib.Close()
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lib != nil {
		h.lib.Close()
		h.rt.close()
	}
	h.lib, h.rt = lib, rs
	return nil
}

func (h *Handle) sockets() (*netlink.Handle, *rtSocket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lib == nil {
		return nil, nil, os.ErrClosed
	}
	return h.lib, h.rt, nil
}

// broken reports whether a socket cannot be trusted after err: answers may be
// missing or still on their way.
func broken(err error) bool {
	for _, e := range []error{unix.EAGAIN, unix.ENOBUFS, unix.EBADF, unix.EPIPE, unix.EIO, os.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// read runs a dump until it is complete, on fresh sockets when the old ones
// broke. op must start its result afresh each time.
func (h *Handle) read(what string, op func(*netlink.Handle, *rtSocket) error) error {
	var err error
	for range dumpTries {
		lib, rs, openErr := h.sockets()
		if openErr != nil {
			return fmt.Errorf("%s: %w", what, openErr)
		}
		if err = op(lib, rs); err == nil {
			return nil
		}
		switch {
		case errors.Is(err, nl.ErrDumpInterrupted), errors.Is(err, unix.EINTR):
		case broken(err):
			if openErr := h.reopen(); openErr != nil {
				return fmt.Errorf("%s: %w (after %w)", what, openErr, err)
			}
		default:
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return fmt.Errorf("%s: still not complete after %d tries: %w", what, dumpTries, err)
}

// write makes one change. The change is not repeated when the sockets broke:
// it may have been made. They are replaced for the next one.
func (h *Handle) write(what string, op func(*netlink.Handle, *rtSocket) error) error {
	lib, rs, err := h.sockets()
	if err == nil {
		err = op(lib, rs)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s: %w", what, ErrExists)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%s: %w", what, ErrUnsupported)
	case broken(err) && !errors.Is(err, os.ErrClosed):
		err = errors.Join(err, h.reopen())
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Routes calls visit with every route of table, of all tables when it is 0: a
// dump for each family.
func (h *Handle) Routes(table uint32, visit func(Route)) error {
	var routes []Route
	for _, f := range []struct {
		family uint8
		name   string
	}{{unix.AF_INET, "routes"}, {unix.AF_INET6, "IPv6 routes"}} {
		before := len(routes)
		err := h.read(fmt.Sprintf("list %s of table %d", f.name, table), func(_ *netlink.Handle, rs *rtSocket) error {
			routes = routes[:before]
			return rs.dump(f.family, table, func(r Route) { routes = append(routes, r) })
		})
		if err != nil {
			return err
		}
	}
	for _, r := range routes {
		visit(r)
	}
	return nil
}

// ChangeRoutes makes all changes in order, batchSize of them per system call,
// and returns one error, or nil, for each.
func (h *Handle) ChangeRoutes(changes []RouteChange) []error {
	errs := make([]error, len(changes))
	for start := 0; start < len(changes); start += batchSize {
		end := min(start+batchSize, len(changes))
		_, rs, err := h.sockets()
		if err == nil {
			err = rs.change(changes[start:end], errs[start:end])
		}
		if err == nil {
			continue
		}
		if broken(err) {
			err = errors.Join(err, h.reopen())
		}
		for i := start; i < end; i++ {
			if errs[i] == nil || errors.Is(errs[i], ErrUnanswered) {
				errs[i] = fmt.Errorf("%w: %w", ErrUnanswered, err)
			}
		}
	}
	return errs
}

// ForgetConnections deletes the conntrack entries that have one of addrs at
// either end. It reads the connections of each family in addrs once.
func (h *Handle) ForgetConnections(addrs map[netip.Addr]bool) (int, error) {
	families := map[uint8]bool{}
	for a := range addrs {
		families[family(a)] = true
	}
	var n uint
	for _, fam := range slices.Sorted(maps.Keys(families)) {
		err := h.read("delete conntrack entries", func(lib *netlink.Handle, _ *rtSocket) error {
			deleted, err := lib.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(fam), connectionsOf(addrs))
			n += deleted
			return err
		})
		if err != nil {
			return int(n), err
		}
	}
	return int(n), nil
}

// connectionsOf selects connections by their ends.
type connectionsOf map[netip.Addr]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (c connectionsOf) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	for _, ip := range [][]byte{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP} {
		if a, ok := netip.AddrFromSlice(ip); ok && c[a.Unmap()] {
			return true
		}
	}
	return false
}

// Watch calls event for every change until ctx ends.
func (h *Handle) Watch(ctx context.Context, event func(Event)) error {
	return watch(ctx, h.ns, h.routePort, event)
}

// routePort is the port ID that our own route changes are echoed with.
func (h *Handle) routePort() uint32 {
	if _, rs, err := h.sockets(); err == nil {
		return rs.port
	}
	return 0
}
