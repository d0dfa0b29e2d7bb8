package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/proc"
)

// stateFile is a pod's state in its directory.
const stateFile = "state.json"

// state is what the next runner has to know of a pod.
type state struct {
	Pod    *corev1.Pod `json:"pod"`
	Static bool        `json:"static,omitempty"`
	// Sandbox is the id of the pod's network: CNI's container id, and the name of its
	// namespace. It is written before the plugins are asked, so that they can be told of its end.
	Sandbox string   `json:"sandbox,omitempty"`
	IPs     []string `json:"ips,omitempty"`
	// Init is the process of the init container that runs now.
	Init proc.ID `json:"init"`
	// Prepared is set when the init containers have ended well.
	Prepared   bool                  `json:"prepared,omitempty"`
	Containers map[string]*container `json:"containers,omitempty"`
}

// container is a container's process, as of now and before.
type container struct {
	ID       string  `json:"id"`
	Process  proc.ID `json:"process"`
	Restarts int32   `json:"restarts"`
	Ready    bool    `json:"ready"` // the last answer counts until the next runner has asked
	Waiting  string  `json:"-"`     // why it does not run
	Unready  string  `json:"-"`     // what it says when it is asked and not ready
}

// worker runs one pod. Its goroutine is the only one that connects and disconnects it;
// each container has a goroutine that keeps it.
type worker struct {
	*runner
	pod    *corev1.Pod
	static bool
	dir    string

	ending  context.Context // ends when the pod is to end
	end     context.CancelFunc
	changed chan struct{} // the status is to be published

	exits sync.Map // how the processes of containers ended, by name

	mu    sync.Mutex // guards what follows
	state state
	said  string // by the last Event
}

func newWorker(r *runner, pod *corev1.Pod, static bool) *worker {
	w := &worker{
		runner: r, pod: pod, static: static, dir: filepath.Join(stateDir, string(pod.UID)), changed: make(chan struct{}, 1),
		state: state{Pod: pod, Static: static, Containers: map[string]*container{}},
	}
	w.ending, w.end = context.WithCancel(context.Background())
	return w
}

// run runs the pod until it is to end and has ended, or, when ctx ends, leaves it as it is.
func (w *worker) run(ctx context.Context) {
	log := w.log.With("pod", w.pod.Namespace+"/"+w.pod.Name)
	if err := w.load(); err != nil {
		log.Error("the pod's state is lost", "error", err)
	}
	publishing, stopPublishing := context.WithCancel(ctx)
	defer stopPublishing()
	published := make(chan struct{})
	go func() { defer close(published); w.publish(publishing) }()

	// What follows goes on until the pod ends or the runner does.
	on, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(w.ending, stop)()
	if w.ending.Err() != nil { // it ends before it has begun: nothing is to be started
		stop()
	}
	var keepers sync.WaitGroup
	if w.up(on) {
		log.Info("pod runs", "addresses", w.ips())
		for _, c := range w.pod.Spec.Containers {
			keepers.Go(func() { w.keep(on, c) })
		}
	}
	select {
	case <-ctx.Done():
		return
	case <-w.ending.Done():
	}
	keepers.Wait()
	stopPublishing()
	<-published
	if w.down(ctx) {
		log.Info("pod has ended")
	}
}

// up gives the pod its network and runs its init containers, as often as it takes.
func (w *worker) up(ctx context.Context) bool {
	for !w.pod.Spec.HostNetwork && len(w.ips()) == 0 {
		if ctx.Err() != nil {
			return false
		}
		err := w.connect(ctx)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			break
		}
		w.complain(ctx, "FailedCreatePodSandBox", fmt.Sprintf("Failed to create pod sandbox: %v", err))
		if !pause(ctx, retryPause) {
			return false
		}
	}
	if p := w.pod.Spec.RestartPolicy; p != "" && p != corev1.RestartPolicyAlways {
		w.complain(ctx, "Unsupported",
			fmt.Sprintf("restartPolicy %s: a light node starts every container again that ends, as if it were Always", p))
	}
	w.mu.Lock()
	prepared, left := w.state.Prepared, w.state.Init
	w.mu.Unlock()
	if left != (proc.ID{}) { // of a runner that was killed: it runs once more, and alone
		if err := left.Kill(ctx); err != nil {
			w.log.Error("an init container does not end", "error", err)
		}
	}
	wait := tokenPause
	for _, c := range w.pod.Spec.InitContainers {
		for !prepared {
			if ctx.Err() != nil {
				return false
			}
			err := w.runOnce(ctx, c)
			if ctx.Err() != nil {
				return false
			}
			if err == nil {
				break
			}
			w.complain(ctx, "Failed", fmt.Sprintf("init container %s: %v", c.Name, err))
			if !pause(ctx, wait) {
				return false
			}
			wait = min(2*wait, retryPause)
		}
	}
	w.update(func(s *state) { s.Prepared = true })
	return ctx.Err() == nil
}

// down ends the pod's processes and its network, and then its object.
func (w *worker) down(ctx context.Context) bool {
	w.mu.Lock()
	var (
		processes []proc.ID
		ids       []string
	)
	processes = append(processes, w.state.Init)
	for _, c := range w.state.Containers {
		processes, ids = append(processes, c.Process), append(ids, c.ID)
	}
	w.mu.Unlock()
	for _, p := range processes {
		if p == (proc.ID{}) {
			continue
		}
		if err := p.Kill(ctx); err != nil {
			w.log.Error("a process does not end", "error", err)
		}
	}
	for _, id := range ids {
		machine.KillCgroup(id)
	}
	for w.sandbox() != "" {
		err := w.disconnect(ctx)
		if err == nil {
			break
		}
		w.complain(ctx, "FailedKillPod", fmt.Sprintf("error killing pod: %v", err))
		if !pause(ctx, retryPause) {
			return false
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.log.Error("a pod's state stays", "error", err)
	}
	_ = os.Remove(w.link())
	return w.forget(ctx)
}

// link is the name under which the pod's directory is found by the pod's.
func (w *worker) link() string {
	return filepath.Join(filepath.Dir(stateDir), "by-name", w.pod.Namespace+"_"+w.pod.Name)
}

// NetNSLink is where a pod's network namespace is found on its node, by the pod's name.
func NetNSLink(namespace, name string) string {
	return filepath.Join(filepath.Dir(stateDir), "by-name", namespace+"_"+name, "netns")
}

func (w *worker) load() error {
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(w.link()), 0o700); err != nil {
		return err
	}
	_ = os.Remove(w.link())
	// Relative, so that it leads to the same for who looks at the machine's root from outside.
	if err := os.Symlink(filepath.Join("..", filepath.Base(stateDir), filepath.Base(w.dir)), w.link()); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(w.dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s := state{Containers: map[string]*container{}}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	s.Pod, s.Static = w.pod, w.static
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
	return nil
}

// sandbox is the id of the pod's network, empty without one.
func (w *worker) sandbox() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Sandbox
}

// ips are the pod's own addresses, none for a pod in its node's network.
func (w *worker) ips() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.IPs // never changed in place
}

// update changes the pod's state, keeps it and has it published.
func (w *worker) update(change func(*state)) {
	if err := w.keepState(change); err != nil {
		w.log.Error("a pod's state is not kept", "pod", w.pod.Name, "error", err)
	}
	w.tell()
}

// keepState writes while it holds the lock: two writers must not overtake each other.
func (w *worker) keepState(change func(*state)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.state)
	b, err := json.Marshal(w.state)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(w.dir, stateFile), b, 0o600)
}

// tell has the status published.
func (w *worker) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}
