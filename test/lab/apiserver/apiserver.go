// Package apiserver runs a real etcd and kube-apiserver for a test: on free loopback
// ports, with their files in the test's temporary directory, and with Manx's CRDs.
// It needs no root.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/pki"
)

// patience bounds the start of a component.
const patience = 90 * time.Second

// startTries is how often a component is started when another program took its port first.
const startTries = 5

// Start starts the two and returns the administrator's access. They are stopped,
// and checked to be gone, at the end of the test. The first use on a machine builds
// the binaries, which takes minutes.
func Start(t testing.TB) *rest.Config {
	t.Helper()
	return Run(t).Config
}

// Run is Start for a test that stops and starts the two again.
func Run(t testing.TB) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	bin, err := kubebuild.Build(ctx, func(s string) { t.Log(s) }, kubebuild.ControlPlane...)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: t.TempDir(), bin: bin}
	out := &Server{server: s}
	url := out.startEtcd()
	out.startAPIServer(url)
	if err := InstallCRDs(ctx, out.Config); err != nil {
		t.Fatal(err)
	}
	return out
}

type server struct {
	t   testing.TB
	dir string
	bin string
}

// startEtcd returns the client URL.
func (s *Server) startEtcd() string {
	s.t.Helper()
	var client string
	s.etcd = s.retry("etcd", func() (*component, func() error, error) {
		ports, err := freePorts(2)
		if err != nil {
			return nil, nil, err
		}
		client = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
		peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
		if s.data, err = os.MkdirTemp(s.dir, "etcd-data-"); err != nil {
			return nil, nil, err
		}
		c, err := s.start("etcd", "--name=test", "--data-dir="+s.data, "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls="+client, "--advertise-client-urls="+client,
			"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=test="+peer)
		return c, func() error { return dial(ports[0]) }, err
	})
	return client
}

func (s *Server) startAPIServer(etcd string) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "pki")
	ca, err := pki.Create(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	leaf, err := ca.Issue(pki.Subject{
		Name: "kube-apiserver", Names: []string{"localhost"}, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := leaf.Save(at("apiserver")); err != nil {
		s.t.Fatal(err)
	}
	var cfg *rest.Config
	s.api = s.retry("kube-apiserver", func() (*component, func() error, error) {
		ports, err := freePorts(1)
		if err != nil {
			return nil, nil, err
		}
		admin := pki.Subject{Name: "admin", Groups: []string{"system:masters"}}
		url := fmt.Sprintf("https://127.0.0.1:%d", ports[0])
		if err := ca.WriteKubeconfig(at("kubeconfig"), url, admin); err != nil {
			return nil, nil, err
		}
		if cfg, err = clientcmd.BuildConfigFromFlags("", at("kubeconfig")); err != nil {
			return nil, nil, err
		}
		cfg.QPS, cfg.Burst = 1000, 2000
		c, err := s.start("kube-apiserver", "--etcd-servers="+etcd,
			"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[0]),
			"--endpoint-reconciler-type=none",
			"--tls-cert-file="+at("apiserver.crt"), "--tls-private-key-file="+at("apiserver.key"), "--client-ca-file="+at("ca.crt"),
			"--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file="+at("sa.pub"), "--service-account-signing-key-file="+at("sa.key"),
			"--authorization-mode=RBAC", "--allow-privileged=true",
			// Without a controller manager nobody makes service accounts.
			"--disable-admission-plugins=ServiceAccount")
		return c, func() error { return readyz(cfg) }, err
	})
	s.Config = cfg
}

func readyz(cfg *rest.Config) error {
	client, err := apiextensionsclient.NewForConfig(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// component is a running program.
type component struct {
	name  string
	args  []string
	ready func() error // set when it was started for good
	log   string
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
}

func (s *server) start(name string, args ...string) (*component, error) {
	c := &component{
		name: name, args: args, log: filepath.Join(s.dir, name+".log"),
		cmd: exec.Command(filepath.Join(s.bin, name), args...), done: make(chan struct{}),
	}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = s.dir, out, out
	// A test that panics or is killed takes it along. The kernel ties this signal to the
	// thread that starts the process, so that thread waits for its end and does nothing else.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait()
		}
	}()
	return c, <-started
}

// retry starts a component until it is ready, again when it ended at once: a port that was
// free when it was chosen may be taken when it is used.
func (s *server) retry(name string, try func() (*component, func() error, error)) *component {
	s.t.Helper()
	for i := 1; ; i++ {
		c, ready, err := try()
		if err != nil {
			s.t.Fatalf("start %s: %v", name, err)
		}
		err = c.await(ready)
		if err == nil {
			c.ready = ready
			s.t.Cleanup(func() { s.stop(c) })
			return c
		}
		ended := errors.Is(err, errEnded)
		s.stop(c)
		if !ended || i == startTries {
			s.t.Fatalf("start %s: %v\nits log ends with:\n%s", name, err, machine.Tail(c.log, 20))
		}
	}
}

var errEnded = errors.New("it ended before it was ready")

func (c *component) await(ready func() error) error {
	deadline := time.After(patience)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return errEnded
		case <-deadline:
			return fmt.Errorf("not ready after %s: %w", patience, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *server) stop(c *component) {
	s.t.Helper()
	select {
	case <-c.done:
		return
	default:
	}
	_ = c.cmd.Process.Kill() // What it has written is kept by the kernel, so nothing has to be closed in order.
	select {
	case <-c.done:
	case <-time.After(patience):
		s.t.Errorf("%s (process %d) does not end after SIGKILL", c.name, c.cmd.Process.Pid)
	}
}

func dial(port int) error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// freePorts finds n different TCP ports that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// InstallCRDs creates the repository's CRDs and returns when they are served.
func InstallCRDs(ctx context.Context, cfg *rest.Config) error {
	repo, err := kubebuild.Repository()
	if err != nil {
		return fmt.Errorf("find the CRDs: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(repo, "manifests/crds/*.yaml"))
	if err != nil {
		return fmt.Errorf("find the CRDs: %w", err)
	}
	client, err := apiextensionsclient.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("install CRDs: %w", err)
	}
	crds := client.ApiextensionsV1().CustomResourceDefinitions()
	var names []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("install CRD: %w", err)
		}
		crd := new(apiextensions.CustomResourceDefinition)
		if err := yaml.UnmarshalStrict(b, crd); err != nil {
			return fmt.Errorf("read CRD %s: %w", file, err)
		}
		if _, err := crds.Create(ctx, crd, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("install CRD %s: %w", file, err)
		}
		names = append(names, crd.Name)
	}
	for _, name := range names {
		if err := awaitEstablished(ctx, client, name); err != nil {
			return err
		}
	}
	return nil
}

func awaitEstablished(ctx context.Context, client apiextensionsclient.Interface, name string) error {
	for {
		crd, err := client.ApiextensionsV1().CustomResourceDefinitions().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("wait for CRD %s: %w", name, err)
		}
		for _, c := range crd.Status.Conditions {
			if c.Type == apiextensions.Established && c.Status == apiextensions.ConditionTrue {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for CRD %s to be served: %w", name, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
