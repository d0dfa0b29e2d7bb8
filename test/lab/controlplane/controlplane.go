// Package controlplane describes the machine that runs etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler. It has an address on the fabric like
// a node, and no kubelet: its address is the endpoint behind the Service "kubernetes".
package controlplane

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/manx-cni/manx/test/lab/audit"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/pki"
	"github.com/manx-cni/manx/test/lab/runner"
)

const (
	// Port is the API server's.
	Port = 6443
	// PodCIDR is the cluster's pod range; the node agent makes the pools in it.
	PodCIDR = "10.244.0.0/16"
	// ServiceCIDR is the range of cluster IPs.
	ServiceCIDR = "10.96.0.0/16"
	// PodCIDR6 and ServiceCIDR6 are the IPv6 ones of a dual-stack cluster.
	PodCIDR6     = "fd00:10:244::/48"
	ServiceCIDR6 = "fd00:10:96::/112"

	// AuditLog is the log of the API server's requests, named like a component's.
	AuditLog = "audit"

	// CA is the file of the cluster's certificate authority in every machine.
	CA = pkiDir + "/ca.crt"

	pkiDir      = "/etc/kubernetes/pki"
	auditPolicy = "/etc/kubernetes/audit.yaml"
)

// ServiceIP is the cluster IP of the Service "kubernetes".
var ServiceIP = netip.MustParseAddr("10.96.0.1")

// Addr is the control plane's address in every lab.
func Addr() netip.Addr { return fabric.Addr(2) }

// Server is the URL of the API server, reachable inside the lab.
func Server() string { return fmt.Sprintf("https://%s:%d", Addr(), Port) }

// Ready is the URL that says 200 when the API server has made what others need of it,
// their permissions above all. Whoever starts before that takes the processor from it, and
// an API server that has no roles after 30 s begins again.
func Ready() string { return Server() + "/readyz" }

// PodCIDRs is what Kubernetes is told of the pod range: IPv4, and after a comma IPv6.
func PodCIDRs(dualStack bool) string { return families(PodCIDR, PodCIDR6, dualStack) }

// ServiceCIDRs is the same of the range of cluster IPs.
func ServiceCIDRs(dualStack bool) string { return families(ServiceCIDR, ServiceCIDR6, dualStack) }

func families(ipv4, ipv6 string, dualStack bool) string {
	if dualStack {
		return ipv4 + "," + ipv6
	}
	return ipv4
}

// Options say what control plane to prepare.
type Options struct {
	Audit     bool // the API server writes AuditLog
	DualStack bool // Services have cluster IPs of both families
	// Light is a control plane for light nodes: no scheduler, and no controller manager
	// unless Services is set, which then makes the endpoints of Services. Runner and Pods
	// are the lab's own program there, and what it runs.
	Light    bool
	Services bool
	Runner   runner.Config
	Pods     []*corev1.Pod
}

// Prepare makes the control plane's disk and certificates, the administrator's
// kubeconfig, and the machine's spec. bin is the directory of the Kubernetes binaries.
func Prepare(l layout.Lab, ca *pki.CA, bin string, hosts []byte, o Options) error {
	dir := l.Machine(layout.Control)
	var err error
	if err := machine.MakeDisk(dir, layout.Control, hosts); err != nil {
		return err
	}
	if err := makePKI(l, ca); err != nil {
		return err
	}
	for name, s := range map[string]pki.Subject{
		"controller-manager": {Name: "system:kube-controller-manager"},
		"scheduler":          {Name: "system:kube-scheduler"},
	} {
		path := filepath.Join(l.Disk(layout.Control), "etc/kubernetes", name+".conf")
		if err := ca.WriteKubeconfig(path, Server(), s); err != nil {
			return err
		}
	}
	admin := pki.Subject{Name: "kubernetes-admin", Groups: []string{"system:masters"}}
	if err := ca.WriteKubeconfig(l.Kubeconfig(), Server(), admin); err != nil {
		return err
	}
	var apiFlags []string
	if o.Audit {
		if err := os.WriteFile(filepath.Join(l.Disk(layout.Control), auditPolicy), []byte(audit.Policy), 0o644); err != nil {
			return fmt.Errorf("write the audit policy: %w", err)
		}
		apiFlags = audit.Flags(auditPolicy, "/var/log/"+AuditLog+".log")
	}
	programs := components(apiFlags, o.DualStack)
	var groups map[string]int
	if o.Light {
		groups = map[string]int{machine.PodCgroup: 1}
		if programs, err = lightComponents(l, ca, apiFlags, o); err != nil {
			return err
		}
	}
	return machine.Spec{
		Hostname:   layout.Control,
		NetNS:      l.NetNSPath(layout.Control),
		Cgroup:     l.Cgroup() + "/" + layout.Control,
		Share:      3, // who waits for it does so with a limit: kubectl for 10 s
		Groups:     groups,
		Binds:      []machine.Bind{{Source: bin, Target: machine.BinDir}},
		Components: programs,
	}.Save(dir)
}

// lightComponents are the programs of a control plane for light nodes.
func lightComponents(l layout.Lab, ca *pki.CA, apiFlags []string, o Options) ([]machine.Component, error) {
	o.Runner.Machine, o.Runner.Addrs = layout.Control, []netip.Addr{Addr()}
	o.Runner.Server, o.Runner.CA, o.Runner.Kubeconfig = netip.AddrPortFrom(Addr(), Port), CA, "/etc/kubernetes/runner.conf"
	disk := l.Disk(layout.Control)
	if err := o.Runner.Prepare(disk, o.Pods); err != nil {
		return nil, err
	}
	runnerAccess := pki.Subject{Name: "lab-runner:" + layout.Control, Groups: []string{"system:masters"}}
	if err := ca.WriteKubeconfig(filepath.Join(disk, o.Runner.Kubeconfig), Server(), runnerAccess); err != nil {
		return nil, err
	}
	// Without a controller manager no namespace has a service account for its pods.
	all := components(append(apiFlags, "--disable-admission-plugins=ServiceAccount"), o.DualStack)
	var programs []machine.Component
	for _, c := range all {
		switch c.Name {
		case "kube-scheduler":
			continue
		case "kube-controller-manager":
			if !o.Services {
				continue
			}
			c.Args = append(c.Args, "--controllers=endpointslice-controller")
		}
		programs = append(programs, c)
	}
	return append(programs, runner.Component(Ready(), CA)), nil
}

func makePKI(l layout.Lab, ca *pki.CA) error {
	dir := filepath.Join(l.Disk(layout.Control), pkiDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	for _, name := range []string{"ca.crt", "ca.key", "sa.key", "sa.pub"} {
		b, err := os.ReadFile(filepath.Join(l.PKI(), name))
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	for name, s := range map[string]pki.Subject{
		"apiserver": {
			Name:  "kube-apiserver",
			Names: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			Addrs: []netip.Addr{Addr(), ServiceIP, netip.MustParseAddr("127.0.0.1")},
		},
		"kubelet-client": {Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
	} {
		leaf, err := ca.Issue(s)
		if err != nil {
			return err
		}
		if err := leaf.Save(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// components are the machine's programs; apiFlags are added to the API server's.
func components(apiFlags []string, dualStack bool) []machine.Component {
	return []machine.Component{
		{
			Name: "etcd", Env: host.GoEnv(),
			Args: []string{
				"etcd", "--name=lab", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn",
				"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
				"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
				"--initial-cluster=lab=http://127.0.0.1:2380",
			},
		},
		{
			Name: "kube-apiserver", Env: host.GoEnv(), WaitTCP: "127.0.0.1:2379",
			Args: append([]string{
				"kube-apiserver",
				"--etcd-servers=http://127.0.0.1:2379",
				"--advertise-address=" + Addr().String(),
				fmt.Sprintf("--secure-port=%d", Port),
				"--tls-cert-file=" + pkiDir + "/apiserver.crt", "--tls-private-key-file=" + pkiDir + "/apiserver.key",
				"--client-ca-file=" + CA,
				"--service-cluster-ip-range=" + ServiceCIDRs(dualStack),
				"--service-account-issuer=https://kubernetes.default.svc",
				"--service-account-key-file=" + pkiDir + "/sa.pub",
				"--service-account-signing-key-file=" + pkiDir + "/sa.key",
				"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
				"--allow-privileged=true",
				// Nodes are known by address; there is no DNS in a lab.
				"--kubelet-preferred-address-types=InternalIP",
				"--kubelet-certificate-authority=" + CA,
				"--kubelet-client-certificate=" + pkiDir + "/kubelet-client.crt",
				"--kubelet-client-key=" + pkiDir + "/kubelet-client.key",
			}, apiFlags...),
		},
		{
			Name: "kube-controller-manager", Env: host.GoEnv(), WaitURL: Ready(), WaitCA: CA,
			Args: []string{
				"kube-controller-manager",
				"--kubeconfig=/etc/kubernetes/controller-manager.conf",
				"--leader-elect=false", "--use-service-account-credentials=true",
				"--allocate-node-cidrs=false",
				"--root-ca-file=" + CA,
				"--service-account-private-key-file=" + pkiDir + "/sa.key",
				"--cluster-signing-cert-file=" + CA, "--cluster-signing-key-file=" + pkiDir + "/ca.key",
			},
		},
		{
			Name: "kube-scheduler", Env: host.GoEnv(), WaitURL: Ready(), WaitCA: CA,
			Args: []string{"kube-scheduler", "--kubeconfig=/etc/kubernetes/scheduler.conf", "--leader-elect=false"},
		},
	}
}
