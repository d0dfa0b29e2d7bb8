package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/manx-cni/manx/test/lab/netns"
)

// network reads the CNI configuration as a runtime does: the first file by name.
func network() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(confDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("cni plugin not initialized: there is no configuration in %s; a network plugin puts one there", confDir)
	}
	return libcni.NetworkConfFromFile(files[0]) // ConfFiles sorts them
}

// connect makes the pod's network namespace and has the plugins connect it.
func (w *worker) connect(ctx context.Context) error {
	conf, err := network()
	if err != nil {
		return err
	}
	if w.sandbox() != "" { // a runner was killed in the middle of this, or the plugins could not be told
		if err := w.disconnect(ctx); err != nil {
			return err
		}
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	id := hex.EncodeToString(random)
	if err := w.keepState(func(s *state) { s.Sandbox = id }); err != nil {
		return fmt.Errorf("keep the id of the pod's network: %w", err)
	}
	path := w.netns()
	if err := netns.Make(path); err != nil {
		return err
	}
	if err := os.Symlink(path, filepath.Join(w.dir, "netns")); err != nil {
		return err
	}
	if err := netns.Do(path, loopback); err != nil {
		return err
	}
	result, err := plugins().AddNetworkList(ctx, conf, w.attachment())
	if err != nil {
		err = fmt.Errorf("failed to setup network for sandbox %q: %w", id, err)
		return errors.Join(err, w.disconnect(context.WithoutCancel(ctx)))
	}
	got, err := current.NewResultFromResult(result)
	if err != nil {
		return errors.Join(err, w.disconnect(context.WithoutCancel(ctx)))
	}
	var ips []string
	for _, ip := range got.IPs {
		ips = append(ips, ip.Address.IP.String())
	}
	if len(ips) == 0 || net.ParseIP(ips[0]) == nil {
		return errors.Join(fmt.Errorf("the plugins' result has the addresses %q", ips), w.disconnect(context.WithoutCancel(ctx)))
	}
	w.update(func(s *state) { s.IPs = ips })
	return nil
}

// disconnect has the plugins forget the pod's network, and removes its namespace. As with
// containerd that takes a configuration: a network plugin that has gone must come back.
func (w *worker) disconnect(ctx context.Context) error {
	conf, err := network()
	if err != nil {
		return err
	}
	if err := plugins().DelNetworkList(ctx, conf, w.attachment()); err != nil {
		return fmt.Errorf("failed to destroy network for sandbox %q: %w", w.sandbox(), err)
	}
	if err := netns.Remove(w.netns()); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(w.dir, "netns")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	w.update(func(s *state) { s.Sandbox, s.IPs = "", nil })
	return nil
}

func (w *worker) netns() string { return filepath.Join(netnsDir, "cni-"+w.sandbox()) }

func plugins() *libcni.CNIConfig { return libcni.NewCNIConfig([]string{binDir}, nil) }

// attachment is what containerd tells the plugins.
func (w *worker) attachment() *libcni.RuntimeConf {
	id := w.sandbox()
	rt := &libcni.RuntimeConf{
		ContainerID: id, NetNS: filepath.Join(netnsDir, "cni-"+id), IfName: "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", w.pod.Namespace},
			{"K8S_POD_NAME", w.pod.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", id},
			{"K8S_POD_UID", string(w.pod.UID)},
		},
	}
	var ports []map[string]any
	for _, c := range w.pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				ports = append(ports, map[string]any{
					"hostPort": p.HostPort, "containerPort": p.ContainerPort, "protocol": strings.ToLower(string(p.Protocol)), "hostIP": p.HostIP,
				})
			}
		}
	}
	if ports != nil {
		rt.CapabilityArgs = map[string]any{"portMappings": ports}
	}
	return rt
}

func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
