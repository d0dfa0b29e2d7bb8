// Package node describes a worker machine: Debian's containerd and runc, a kubelet,
// and kube-proxy in iptables mode.
//
// A node starts as kubeadm would leave it before a pod network is installed:
// /etc/cni/net.d is empty, /opt/cni/bin has the reference plugins, IP forwarding is off.
package node

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/pki"
)

// Socket is containerd's, inside the node.
const Socket = "/run/containerd/containerd.sock"

// podCgroup is where containerd puts all containers. They get together what the kubelet
// gives them on a machine of two CPUs (cpu.shares 2048), were it not told to leave the
// cgroups alone.
const podCgroup = machine.PodCgroup

const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# Out of reach of a lab: no device mapper, and no other file systems below.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]

# A machine that is emulated, or has no CPU to spare, is slow and not broken.
[timeouts]
  "io.containerd.timeout.task.state" = "60s"
  "io.containerd.timeout.shim.load" = "60s"
  "io.containerd.timeout.shim.cleanup" = "60s"
  "io.containerd.timeout.shim.shutdown" = "60s"

[grpc]
  address = "` + Socket + `"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + image.Pause + `"
  restrict_oom_score_adj = true
  disable_apparmor = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
    max_conf_num = 1

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "%s"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/pki/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/pki/kubelet.key
containerRuntimeEndpoint: unix://` + Socket + `
volumePluginDir: /var/lib/kubelet/volumeplugins
clusterDomain: cluster.local
resolvConf: ""
maxPods: 250
serializeImagePulls: false
runtimeRequestTimeout: 15m
# Tests kill containers on purpose; the kubelet would wait 10, 20, 40 s and more.
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
# The node's cgroups are a part of the host's: no reservations, no QoS tree.
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
failCgroupV1: false
localStorageCapacityIsolation: false
# A full disk of the host is not the cluster's affair.
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 24h
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
`

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: %s
clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.conf}
# Nobody else changes its rules: writing them anew every 30 s costs an emulated machine
# a tenth of its time.
iptables: {syncPeriod: 1h, minSyncPeriod: 1s}
# The size of the connection table can be set in the host's namespace only.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// Prepare makes the disk and the spec of node name with address addr, and, in a
// dual-stack cluster, the IPv6 address addr6; the zero Addr is none.
// bin is the directory of the Kubernetes binaries.
func Prepare(l layout.Lab, ca *pki.CA, bin, name string, addr, addr6 netip.Addr, hosts []byte) error {
	dir := l.Machine(name)
	if err := machine.MakeDisk(dir, name, hosts); err != nil {
		return err
	}
	snapshotter := "native"
	if host.Overlay(dir) {
		snapshotter = "overlayfs"
	}
	files := map[string]string{
		"etc/containerd/config.toml":     fmt.Sprintf(containerdConfig, snapshotter),
		"etc/kubernetes/kubelet.yaml":    kubeletConfig,
		"etc/kubernetes/kube-proxy.yaml": fmt.Sprintf(proxyConfig, controlplane.PodCIDRs(addr6.IsValid())),
		"etc/kubernetes/pki/ca.crt":      string(ca.PEM()),
	}
	for file, content := range files {
		path := filepath.Join(l.Disk(name), file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("prepare node %s: %w", name, err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("prepare node %s: %w", name, err)
		}
	}
	if err := credentials(l, ca, name, addr); err != nil {
		return err
	}
	if err := plugins(filepath.Join(l.Disk(name), "opt/cni/bin")); err != nil {
		return fmt.Errorf("prepare node %s: %w", name, err)
	}
	return machine.Spec{
		Hostname:   name,
		NetNS:      l.NetNSPath(name),
		Cgroup:     l.Cgroup() + "/" + name,
		Groups:     map[string]int{podCgroup: 2},
		Binds:      []machine.Bind{{Source: bin, Target: machine.BinDir}},
		Components: components(name, addr, addr6),
	}.Save(dir)
}

func credentials(l layout.Lab, ca *pki.CA, name string, addr netip.Addr) error {
	etc := filepath.Join(l.Disk(name), "etc/kubernetes")
	serving, err := ca.Issue(pki.Subject{
		Name: "system:node:" + name, Groups: []string{"system:nodes"}, Names: []string{name}, Addrs: []netip.Addr{addr},
	})
	if err != nil {
		return err
	}
	if err := serving.Save(filepath.Join(etc, "pki/kubelet")); err != nil {
		return err
	}
	for file, s := range map[string]pki.Subject{
		"kubelet.conf":    {Name: "system:node:" + name, Groups: []string{"system:nodes"}},
		"kube-proxy.conf": {Name: "system:kube-proxy"},
	} {
		if err := ca.WriteKubeconfig(filepath.Join(etc, file), controlplane.Server(), s); err != nil {
			return err
		}
	}
	return nil
}

// plugins links the reference plugins into dir. A link is enough, since they are in
// every machine's /usr, and an installer that writes by rename replaces it.
func plugins(dir string) error {
	entries, err := os.ReadDir(image.CNIDir)
	if err != nil {
		return fmt.Errorf("find the reference CNI plugins: %w", err)
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join(image.CNIDir, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("link CNI plugin: %w", err)
		}
	}
	return nil
}

func components(name string, addr, addr6 netip.Addr) []machine.Component {
	nodeIP := addr.String()
	if addr6.IsValid() {
		nodeIP += "," + addr6.String()
	}
	return []machine.Component{
		{Name: "containerd", Env: host.GoEnv(), Args: []string{"containerd", "--config", "/etc/containerd/config.toml"}},
		{
			Name: "kubelet", Env: host.GoEnv(), WaitPath: Socket, WaitURL: controlplane.Ready(), WaitCA: controlplane.CA,
			Args: []string{
				"kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.conf",
				"--hostname-override=" + name, "--node-ip=" + nodeIP,
			},
		},
		kubeProxy(name),
	}
}

// Snapshotter is the containerd snapshotter that Prepare chose for a node.
func Snapshotter(l layout.Lab, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(l.Disk(name), "etc/containerd/config.toml"))
	if err != nil {
		return "", fmt.Errorf("find the snapshotter of %s: %w", name, err)
	}
	if strings.Contains(string(b), `snapshotter = "overlayfs"`) {
		return "overlayfs", nil
	}
	return "native", nil
}
