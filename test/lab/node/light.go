package node

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/pki"
	"github.com/manx-cni/manx/test/lab/runner"
)

// Light says what a light node is given: package runner in the place of containerd and
// kubelet.
type Light struct {
	// Images are the files of images, as the node sees them.
	Images map[string][]image.File
	// Pods are the static pods.
	Pods []*corev1.Pod
	// KubeProxy has kube-proxy run on the node, for Services.
	KubeProxy bool
	// OnCall has kube-proxy wait for the file OnCallFile on the node's disk.
	OnCall bool
}

// OnCallFile starts a kube-proxy that is on call.
const OnCallFile = "/etc/kubernetes/kube-proxy.called"

// PrepareLight is Prepare for a light node.
func PrepareLight(l layout.Lab, ca *pki.CA, bin, name string, addr, addr6 netip.Addr, hosts []byte, o Light) error {
	dir, disk := l.Machine(name), l.Disk(name)
	if err := machine.MakeDisk(dir, name, hosts); err != nil {
		return err
	}
	etc := filepath.Join(disk, "etc/kubernetes")
	if err := os.MkdirAll(filepath.Join(etc, "pki"), 0o755); err != nil {
		return fmt.Errorf("prepare node %s: %w", name, err)
	}
	if err := os.WriteFile(filepath.Join(disk, controlplane.CA), ca.PEM(), 0o644); err != nil {
		return fmt.Errorf("prepare node %s: %w", name, err)
	}
	serving, err := ca.Issue(pki.Subject{
		Name: "system:node:" + name, Groups: []string{"system:nodes"}, Names: []string{name}, Addrs: []netip.Addr{addr},
	})
	if err != nil {
		return err
	}
	if err := serving.Save(filepath.Join(etc, "pki/runner")); err != nil {
		return err
	}
	cfg := runner.Config{
		Node: name, Machine: name, Addrs: []netip.Addr{addr},
		Kubeconfig: "/etc/kubernetes/runner.conf", Server: netip.AddrPortFrom(controlplane.Addr(), controlplane.Port),
		CA: controlplane.CA, Cert: "/etc/kubernetes/pki/runner.crt", Key: "/etc/kubernetes/pki/runner.key",
		Images: o.Images, Programs: Programs(), Kubernetes: kubebuild.Version,
	}
	if addr6.IsValid() {
		cfg.Addrs = append(cfg.Addrs, addr6)
	}
	if err := cfg.Prepare(disk, o.Pods); err != nil {
		return err
	}
	// It makes tokens for the service accounts of static pods, which a node's own
	// credential may not do for a pod that the scheduler has not seen.
	if err := ca.WriteKubeconfig(filepath.Join(disk, cfg.Kubeconfig),
		controlplane.Server(), pki.Subject{Name: "lab-runner:" + name, Groups: []string{"system:masters"}}); err != nil {
		return err
	}
	if err := plugins(filepath.Join(disk, "opt/cni/bin")); err != nil {
		return fmt.Errorf("prepare node %s: %w", name, err)
	}
	components := []machine.Component{runner.Component(controlplane.Ready(), controlplane.CA)}
	if o.KubeProxy {
		if err := os.WriteFile(filepath.Join(etc, "kube-proxy.yaml"),
			fmt.Appendf(nil, proxyConfig, controlplane.PodCIDRs(addr6.IsValid())), 0o644); err != nil {
			return fmt.Errorf("prepare node %s: %w", name, err)
		}
		if err := ca.WriteKubeconfig(filepath.Join(etc, "kube-proxy.conf"),
			controlplane.Server(), pki.Subject{Name: "system:kube-proxy"}); err != nil {
			return err
		}
		proxy := kubeProxy(name)
		if o.OnCall {
			proxy.WaitPath = OnCallFile
		}
		components = append(components, proxy)
	}
	return machine.Spec{
		Hostname:   name,
		NetNS:      l.NetNSPath(name),
		Cgroup:     l.Cgroup() + "/" + name,
		Groups:     map[string]int{podCgroup: 2},
		Binds:      []machine.Bind{{Source: bin, Target: machine.BinDir}},
		Components: components,
	}.Save(dir)
}

// Programs are what a light node runs in the place of the lab's images.
func Programs() map[string]string {
	return map[string]string{image.Agnhost: filepath.Join(machine.BinDir, "agnhost"), image.Pause: filepath.Join(machine.BinDir, "pause")}
}

func kubeProxy(name string) machine.Component {
	return machine.Component{
		Name: "kube-proxy", Env: host.GoEnv(), WaitURL: controlplane.Ready(), WaitCA: controlplane.CA,
		Args: []string{"kube-proxy", "--config=/etc/kubernetes/kube-proxy.yaml", "--hostname-override=" + name},
	}
}
