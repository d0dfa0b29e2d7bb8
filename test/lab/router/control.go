package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/machine"
)

// patience bounds every wait for a daemon.
func patience() time.Duration {
	if host.Emulated() {
		return 5 * time.Minute
	}
	return 30 * time.Second
}

// until asks again and again; done's last error says what is missing.
func (r *Router) until(ctx context.Context, what string, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience())
	defer cancel()
	for {
		start := time.Now()
		err := done(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			path, pathErr := r.LogFile()
			return fmt.Errorf("wait for router %s: %s: %w\nthe log %s ends with:\n%s",
				r.Name, what, errors.Join(err, ctx.Err(), pathErr), path, machine.Tail(path, 10))
		case <-time.After(max(50*time.Millisecond, time.Since(start))): // half of the time is for others
		}
	}
}

// run runs a command on the router and returns what it wrote.
func (r *Router) run(ctx context.Context, args ...string) (string, error) {
	place, err := r.Place()
	if err != nil {
		return "", fmt.Errorf("router %s: %w", r.Name, err)
	}
	var stdout, stderr bytes.Buffer
	p, err := place.Start(ctx, machine.Command{Args: args, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return "", fmt.Errorf("router %s: %w", r.Name, err)
	}
	if err := p.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("router %s: %s: %w: %s%s", r.Name, strings.Join(args, " "), err, stderr.String(), stdout.String())
	}
	return stdout.String(), nil
}

// Ask asks the daemon with its own program: the arguments are those of birdc, of vtysh -c
// (as one), of gobgp and of bgpctl.
func (r *Router) Ask(ctx context.Context, args ...string) (string, error) {
	switch r.Daemon {
	case BIRD:
		return r.run(ctx, birdc(args...)...)
	case FRR:
		return r.run(ctx, vtysh(strings.Join(args, " "))...)
	case GoBGP:
		return r.run(ctx, append([]string{"gobgp"}, args...)...)
	}
	return r.run(ctx, bgpctl(args...)...)
}

// Start starts the daemon after Stop or Kill and returns when it serves.
func (r *Router) Start(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(r.Disk(r.Name), onFile), nil, 0o644); err != nil {
		return fmt.Errorf("start router %s: %w", r.Name, err)
	}
	return r.WaitServing(ctx)
}

// WaitServing returns when the daemon answers questions and has been told everything.
func (r *Router) WaitServing(ctx context.Context) error {
	d, err := r.daemon()
	if err != nil {
		return err
	}
	err = r.until(ctx, "its daemon answers", func(ctx context.Context) error {
		_, err := r.run(ctx, d.alive...)
		return err
	})
	if err != nil || r.Daemon != GoBGP {
		return err
	}
	// Its file has no place for routes of its own.
	c, err := r.Config()
	if err != nil {
		return err
	}
	var with []string
	if list := c.Standard(); len(list) > 0 {
		with = append(with, "community", strings.Join(list, ","))
	}
	if list := c.Large(); len(list) > 0 {
		with = append(with, "large-community", strings.Join(list, ","))
	}
	for _, p := range c.Announce {
		add := append([]string{"-a", afi(p.Addr()), "global", "rib", "add", p.String()}, with...)
		if _, err := r.Ask(ctx, add...); err != nil {
			return err
		}
	}
	return nil
}

func afi(a netip.Addr) string { return strings.ToLower(family.Of(a).String()) }

// Stop has the daemon end in good order, and it stays down until Start.
func (r *Router) Stop(ctx context.Context) error { return r.end(ctx, "TERM") }

// Kill ends the daemon at once, and it stays down until Start.
func (r *Router) Kill(ctx context.Context) error { return r.end(ctx, "KILL") }

func (r *Router) end(ctx context.Context, signal string) error {
	d, err := r.daemon()
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(r.Disk(r.Name), onFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stop router %s: %w", r.Name, err)
	}
	kill := []string{"pkill", "-" + signal, "-x", d.name}
	if signal == "TERM" {
		kill = append(kill, "-P", "1") // which tells its helpers itself
	}
	if _, err := r.run(ctx, kill...); err != nil && !none(err) {
		return err
	}
	return r.until(ctx, "its daemon ends", func(ctx context.Context) error {
		out, err := r.run(ctx, "pgrep", "-x", d.name)
		if none(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("processes %s are left", strings.Join(strings.Fields(out), ", ")))
	})
}

// none reports whether pgrep, or pkill, has found no process.
func none(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == 1
}

// Reconfigure has the router do as c says from now on. Sessions that c does not change stay
// with BIRD and OpenBGPD; the others are started again.
func (r *Router) Reconfigure(ctx context.Context, c Config) error {
	d, err := r.daemon()
	if err != nil {
		return err
	}
	old, err := r.Config()
	if err != nil {
		return err
	}
	if old.Reflector != c.Reflector {
		return fmt.Errorf("router %s cannot become a reflector, or cease to be one: a reflector does not forward", r.Name)
	}
	if err := r.write(c); err != nil {
		return err
	}
	// A session keeps the key it was opened with (OpenBGPD).
	if d.reload == nil || r.Daemon == OpenBGPD && old.Password != c.Password {
		if err := r.Stop(ctx); err != nil {
			return err
		}
		return r.Start(ctx)
	}
	out, err := r.run(ctx, d.reload...)
	if err == nil && r.Daemon == BIRD && !strings.Contains(out, "econfigur") {
		err = fmt.Errorf("router %s: its daemon refuses the configuration: %s", r.Name, out)
	}
	return err
}

// Session is what a router says of a peer.
type Session struct {
	// State is the daemon's word for it.
	State       string
	Established bool
}

// Sessions are the router's peers by address. Those that have connected from Ranges are
// there while they are connected.
func (r *Router) Sessions(ctx context.Context) (map[netip.Addr]Session, error) {
	parse, question := parseBIRDSessions, []string{"show", "protocols", "all"}
	switch r.Daemon {
	case FRR:
		parse, question = parseFRRSessions, []string{"show bgp summary json"}
	case GoBGP:
		parse, question = parseGoBGPSessions, []string{"neighbor", "-j"}
	case OpenBGPD:
		parse, question = parseOpenBGPDSessions, []string{"-j", "show", "neighbor"}
	}
	out, err := r.Ask(ctx, question...)
	if err != nil {
		return nil, err
	}
	sessions, err := parse(out)
	if err != nil {
		return nil, fmt.Errorf("router %s: %w", r.Name, err)
	}
	return sessions, nil
}

// WaitEstablished returns when the router has an established session with each of the peers.
func (r *Router) WaitEstablished(ctx context.Context, peers ...netip.Addr) error {
	return r.until(ctx, "sessions are established", func(ctx context.Context) error {
		sessions, err := r.Sessions(ctx)
		if err != nil {
			return err
		}
		for _, p := range peers {
			if s := sessions[p]; !s.Established {
				return fmt.Errorf("that with %s is %q", p, s.State)
			}
		}
		return nil
	})
}

// Route is one path to a network.
type Route struct {
	// NextHop is zero for a network of the router's own.
	NextHop netip.Addr
	ASPath  []uint32
	// Communities are as "64512:1", large ones as "64512:1:2".
	Communities, LargeCommunities []string
	LocalPref                     uint32
	// Best is set for the path that the router prefers.
	Best bool
}

// Routes are all paths that the router knows, by network.
func (r *Router) Routes(ctx context.Context, f family.Family) (map[netip.Prefix][]Route, error) {
	version := "ipv4"
	if f == family.IPv6 {
		version = "ipv6"
	}
	parse, question := parseBIRDRoutes, []string{"show", "route", "table", "master" + version[3:], "all"}
	switch r.Daemon {
	case FRR:
		parse, question = parseFRRRoutes, []string{"show bgp " + version + " unicast json detail"}
	case GoBGP:
		parse, question = parseGoBGPRoutes, []string{"global", "rib", "-j", "-a", version}
	case OpenBGPD:
		parse, question = parseOpenBGPDRoutes, []string{"-j", "show", "rib", version, "detail"}
	}
	out, err := r.Ask(ctx, question...)
	if err != nil {
		return nil, err
	}
	routes, err := parse(out)
	if err != nil {
		return nil, fmt.Errorf("router %s: %w", r.Name, err)
	}
	return routes, nil
}

// WaitRoute returns the paths to a network when there is a best one.
func (r *Router) WaitRoute(ctx context.Context, to netip.Prefix) (paths []Route, err error) {
	err = r.until(ctx, "there is a route to "+to.String(), func(ctx context.Context) error {
		routes, err := r.Routes(ctx, family.Of(to.Addr()))
		if err != nil {
			return err
		}
		paths = routes[to]
		if best := func(p Route) bool { return p.Best }; !slices.ContainsFunc(paths, best) {
			return fmt.Errorf("there are the paths %+v, and routes to %d networks", paths, len(routes))
		}
		return nil
	})
	return paths, err
}
