package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/hostinit"
)

// hostFiles are the host's files as the init container of manifests/manx.yaml has
// them mounted.
var hostFiles = hostinit.Config{ProcSys: "/proc/sys", IPRoute2: "/host/etc/iproute2", Protocol: state.RouteProtocol}

// InitHost is `manx-node init-host`.
func InitHost(_ context.Context, log *slog.Logger) error {
	changed, err := hostinit.Run(hostFiles)
	for _, c := range changed {
		log.Info("host prepared", "changed", c)
	}
	return err
}

// Uninstall is `manx-node uninstall`: it removes every kernel object that carries
// our marks. Pods keep their interfaces and lose their routes.
func Uninstall(ctx context.Context, log *slog.Logger) error {
	if err := errors.Join(felix.Uninstall(ctx, felix.UninstallOptions{}), hostinit.Undo(hostFiles)); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	log.Info("uninstalled: no route, rule or name of Manx is left on this node")
	return nil
}
