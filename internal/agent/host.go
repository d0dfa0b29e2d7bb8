package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/manx-cni/manx/felix"
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

// Uninstall is `manx-node uninstall`: it removes every kernel object that carries
// our marks, and the route protocol's name where the host's files are mounted. Pods
// keep their interfaces and lose their routes. It refuses while an agent answers,
// which would put everything back.
func Uninstall(ctx context.Context, log *slog.Logger) error {
	return uninstall(ctx, log, nodeapi.DefaultSocket, func(ctx context.Context) error {
		return errors.Join(felix.Uninstall(ctx, felix.UninstallOptions{}), hostinit.Undo(hostFiles))
	})
}

func uninstall(ctx context.Context, log *slog.Logger, socket string, remove func(context.Context) error) error {
	if c, err := nodeapi.Dial(ctx, socket); err == nil {
		c.Close()
		return fmt.Errorf("uninstall: an agent runs on this node and would write everything again (it answers on %s); delete the DaemonSet first", socket)
	}
	if err := remove(ctx); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	log.Info("uninstalled: no route and no rule of Manx is left on this node")
	return nil
}
