package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/manx-cni/manx/cni-plugin/install"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/hostinit"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/podnet"
)

// hostFiles are the host's files as the init container of manifests/manx.yaml has
// them mounted.
var hostFiles = hostinit.Config{ProcSys: "/proc/sys", IPRoute2: "/host/etc/iproute2", Protocol: state.RouteProtocol}

// podNetworkSocket is where PodNetwork is asked.
const podNetworkSocket = "/var/run/manx/pod-network.sock"

// tunnelMemory keeps what the host's devices were before the tunnel: until the machine
// starts again, as they do.
var tunnelMemory = former.File{Path: filepath.Join(filepath.Dir(nodeapi.DefaultSocket), "tunnel.json")}

// netNSDir is where the container runtime keeps the pods' network namespaces.
const netNSDir = "/var/run/netns"

// PodNetwork is `manx-node pod-network`: the one part of Manx that may enter pods. It
// reads nothing from the network and knows one request, made by the agent beside it.
func PodNetwork(ctx context.Context, log *slog.Logger) error {
	return podnet.Serve(ctx, podnet.Config{Socket: podNetworkSocket, NetNSDir: netNSDir, Log: log.With("component", "pod-network")})
}

// InitHost is `manx-node init-host`. IPv6 is forwarded where the agent will have an
// IPv6 address: the container has the same IP6 as the agent's.
func InitHost(_ context.Context, log *slog.Logger) error {
	files := hostFiles
	var err error
	if files.IPv6, err = wantsIPv6(os.Getenv("IP6")); err != nil {
		return fmt.Errorf("prepare the host: %w", err)
	}
	changed, err := hostinit.Run(files)
	for _, c := range changed {
		log.Info("host prepared", "changed", c)
	}
	return err
}

// wantsIPv6 reads IP6 as the agent does.
func wantsIPv6(ip6 string) (bool, error) {
	a, err := autodetect.ParseAddress6(ip6)
	if err != nil {
		return false, fmt.Errorf("IP6=%q: %w; want %s", ip6, err, autodetect.AddressForms6)
	}
	return a.Wanted(), nil
}

// UninstallOptions are the flags of `manx-node uninstall`.
type UninstallOptions struct {
	// Wait waits for an agent that runs, until ctx ends, instead of refusing.
	Wait bool
	// Pods removes the interfaces of pods as well.
	Pods bool
}

// Uninstall is `manx-node uninstall`: it removes the CNI configuration, so that no new
// pod is plugged in, every kernel object that carries our marks, and our files, where
// the host's directories are mounted as manifests/manx.yaml has them. Pods keep their
// interfaces and lose their routes. It refuses beside an agent, which would put
// everything back, and is safe to repeat.
func Uninstall(ctx context.Context, log *slog.Logger, opts UninstallOptions) error {
	return uninstall(ctx, log, nodeapi.DefaultSocket, opts.Wait, func(ctx context.Context) error {
		installed := install.Uninstall(install.FromEnvironment(os.Environ()), log)
		dataplane := felix.Uninstall(ctx, felix.UninstallOptions{Pods: opts.Pods, Memory: tunnelMemory})
		return errors.Join(installed, clearAfter(dataplane, filepath.Dir(nodeapi.DefaultSocket)), hostinit.Undo(hostFiles))
	})
}

// clearAfter empties the agent's directory once the dataplane is removed: what is
// remembered there is needed for another try.
func clearAfter(dataplane error, dir string) error {
	if dataplane != nil {
		return dataplane
	}
	return clearDir(dir)
}

// agentGoneEvery is how often the socket of an agent that is to go is tried.
const agentGoneEvery = 500 * time.Millisecond

func uninstall(ctx context.Context, log *slog.Logger, socket string, wait bool, remove func(context.Context) error) error {
	for waited := false; answers(ctx, socket); waited = true {
		if !wait {
			return fmt.Errorf("uninstall: an agent runs on this node and would write everything again (it answers on %s); "+
				"stop it first: manxctl uninstall does both", socket)
		}
		if !waited {
			log.Info("waiting for the agent of this node to end", "socket", socket)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("uninstall: an agent still runs on this node (it answers on %s): %w", socket, ctx.Err())
		case <-time.After(agentGoneEvery):
		}
	}
	if err := remove(ctx); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	log.Info("uninstalled: no route, no rule and no file of Manx is left on this node")
	return nil
}

func answers(ctx context.Context, socket string) bool {
	c, err := nodeapi.Dial(ctx, socket)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// clearDir empties a directory, which stays: it may be a mount point.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
