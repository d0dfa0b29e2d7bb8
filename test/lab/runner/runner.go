// Package runner runs the pods of a light node, in the place of kubelet and container
// runtime: the pods that are bound to the node in the API server, and those that the
// files of a directory describe (a kubelet's static pods), which is how Manx's own agent
// gets onto a light node. One process of it runs on each node.
//
//	API server ── Pods of this node ──┐
//	/etc/kubernetes/manifests ────────┼─▶ worker, one per pod ─┬─▶ network namespace, the CNI plugins (libcni)
//	                                  │                        ├─▶ processes: Manx's contained, others in the namespace
//	Pod status, Events, Node ◀────────┘                        └─▶ restarts, readiness
//
// # What it does as a kubelet does
//
// It registers the Node and keeps its condition Ready (a CNI configuration must be
// there), connects pods with the plugins that the configuration names and repeats what
// fails, with an Event FailedCreatePodSandBox for each new reason, runs init containers
// and then containers, starts those again that end, asks their readiness, writes the
// pods' status, shows static pods as mirror pods, and takes pods off the network before
// their objects go. "kubectl exec" and "kubectl logs" work.
//
// # What it leaves out
//
// Images: a pod runs programs that the node has (see [Config]). Liveness and startup
// probes, readiness other than HTTP's, restart policies other than Always (which is what
// every pod gets; an Event says so), memory limits, volumes other than hostPath and
// emptyDir, the grace period of a pod that is deleted, terminals and the container's
// limits for "kubectl exec", "kubectl port-forward". What is about those is tried on a full lab.
//
// # What it leaves, and how it finds it again
//
// The state of each pod is a file below /run/lab/pods, which goes with the machine's
// power, as the pods do. A runner that was killed leaves all pods running, and the next
// one goes on with them; a runner that is stopped by a signal starts and ends nothing
// until it continues.
package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/manx-cni/manx/test/lab/image"
)

// Program is the name of the runner's process.
const Program = "lab-runner"

// Where things are on a node.
const (
	// ConfigFile is the runner's Config, in JSON.
	ConfigFile = "/etc/lab/runner.json"
	// StaticDir has the static pods, a Pod in JSON each.
	StaticDir = "/etc/kubernetes/manifests"
	// LogDir has a log per container of the pods, static pods' named by the container alone.
	LogDir = "/var/log"

	stateDir = "/run/lab/pods"
	netnsDir = "/run/netns"
	confDir  = "/etc/cni/net.d"
	binDir   = "/opt/cni/bin"
)

// Config is what a runner needs to know.
type Config struct {
	// Node is the name of the Node that it registers. On a machine that is none it is
	// empty, and the runner has static pods only; Machine is what their objects say.
	Node    string `json:"node"`
	Machine string `json:"machine"`
	// Addrs are the machine's addresses, IPv4 before IPv6.
	Addrs []netip.Addr `json:"addrs"`
	// Kubeconfig is the file of its access to the API server, Server where that is.
	Kubeconfig string         `json:"kubeconfig"`
	Server     netip.AddrPort `json:"server"`
	// CA, Cert and Key are files: of the cluster's authority, and what "kubectl exec"
	// and "kubectl logs" see. Without them the runner does not listen.
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
	// Images are the files of images whose containers are contained, see package contain.
	Images map[string][]image.File `json:"images"`
	// Programs are the programs of images whose containers are processes in the pod's
	// network namespace, and see all files of the node.
	Programs map[string]string `json:"programs"`
	// Kubernetes is the version to report for the node.
	Kubernetes string `json:"kubernetes"`
}

// init turns the process into a runner when it was started as one. It happens here,
// before main, so that every program that makes labs can be one.
func init() {
	if len(os.Args) == 0 || os.Args[0] != Program {
		return
	}
	name := append([]byte(Program), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0) // only for "ps"
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, log); err != nil {
		log.Error("the runner ends", "error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, log *slog.Logger) error {
	b, err := os.ReadFile(ConfigFile)
	if err != nil {
		return err
	}
	r := &runner{log: log, workers: map[types.UID]*worker{}}
	if err := json.Unmarshal(b, &r.Config); err != nil {
		return fmt.Errorf("read %s: %w", ConfigFile, err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", r.Kubeconfig)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.Kubeconfig, err)
	}
	cfg.QPS = -1 // no limit: sixty pods at once are nothing to wait for
	if r.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	if r.Cert != "" {
		if err := r.listen(ctx); err != nil {
			return err
		}
	}
	go r.static(ctx)
	if r.Node != "" {
		if err := r.register(ctx); err != nil {
			return err
		}
		go r.keepNode(ctx)
		if err := r.watch(ctx); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// runner is the runner of one machine.
type runner struct {
	Config
	log    *slog.Logger
	client kubernetes.Interface

	mu      sync.Mutex
	workers map[types.UID]*worker
}

// watch follows the pods of the node, and ends what is left of those that have gone.
func (r *runner) watch(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(r.client, 0, informers.WithTweakListOptions(byNode(r.Node)))
	pods := factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { r.saw(ctx, o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { r.saw(ctx, o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if pod, ok := o.(*corev1.Pod); ok {
				r.end(pod.UID)
			}
		},
	})
	if err != nil {
		return err
	}
	go pods.Run(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return ctx.Err()
	}
	return r.adoptOrphans(ctx)
}

// saw starts a pod, or hears of a change of one.
func (r *runner) saw(ctx context.Context, pod *corev1.Pod) {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return
	}
	r.mu.Lock()
	w := r.workers[pod.UID]
	if w == nil && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
		w = r.start(ctx, pod, false)
	}
	r.mu.Unlock()
	if w != nil && pod.DeletionTimestamp != nil {
		w.end()
	}
}

// start begins to run a pod; r.mu is held.
func (r *runner) start(ctx context.Context, pod *corev1.Pod, static bool) *worker {
	w := newWorker(r, pod, static)
	r.workers[pod.UID] = w
	go func() {
		w.run(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.workers, pod.UID)
	}()
	return w
}

// end takes a pod off the node, if it is there.
func (r *runner) end(uid types.UID) {
	r.mu.Lock()
	w := r.workers[uid]
	r.mu.Unlock()
	if w != nil {
		w.end()
	}
}

// find is the worker of a pod by its name, nil for none.
func (r *runner) find(namespace, name string) *worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.workers {
		if w.pod.Namespace == namespace && w.pod.Name == name {
			return w
		}
	}
	return nil
}

// adoptOrphans ends the pods that an earlier runner has started and that are gone from
// the API server since.
func (r *runner) adoptOrphans(ctx context.Context) error {
	for _, pod := range r.kept(false) {
		r.mu.Lock()
		if r.workers[pod.UID] == nil {
			r.start(ctx, pod, false).end()
		}
		r.mu.Unlock()
	}
	return nil
}

// kept are the pods, static ones or the others, that an earlier runner has left.
func (r *runner) kept(static bool) (pods []*corev1.Pod) {
	files, _ := filepath.Glob(filepath.Join(stateDir, "*", stateFile)) // the pattern is a good one
	for _, f := range files {
		var s state
		b, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err == nil && s.Pod == nil {
			err = errors.New("it names no pod")
		}
		if err != nil {
			r.log.Error("a pod's state cannot be read: its network stays", "file", f, "error", err)
			continue
		}
		if s.Static == static {
			pods = append(pods, s.Pod)
		}
	}
	return pods
}

const (
	// retryPause is how long something that failed is left alone.
	retryPause = time.Second
	// tokenPause is how long at first, when a pod has not begun yet: mostly its service
	// account is not there, and comes in a moment.
	tokenPause = 50 * time.Millisecond
)

// pause waits, and reports false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
