package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/manx-cni/manx/test/lab/contain"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/netns"
	"github.com/manx-cni/manx/test/lab/proc"
)

const (
	// restartPause is how long a container that ended stays down.
	restartPause = 500 * time.Millisecond
	// lookEvery is how often a process that an earlier runner started is looked at.
	lookEvery = 100 * time.Millisecond
)

// keep runs a container, again when it ends, until ctx ends. It goes on with one that an
// earlier runner has started.
func (w *worker) keep(ctx context.Context, c corev1.Container) {
	w.mu.Lock()
	now := w.state.Containers[c.Name]
	if now == nil {
		now = &container{}
		w.state.Containers[c.Name] = now
	}
	adopted := now.Process
	w.mu.Unlock()
	ended := make(chan struct{})
	if adopted != (proc.ID{}) {
		go func() {
			defer close(ended)
			for adopted.Alive() && pause(ctx, lookEvery) {
			}
		}()
	} else {
		close(ended) // the first start
	}
	for first := adopted == (proc.ID{}); ; first = false {
		probing, stopProbing := context.WithCancel(ctx)
		if !first {
			go w.probe(probing, c)
		}
		select {
		case <-ctx.Done():
			stopProbing()
			return
		case <-ended:
		}
		stopProbing()
		if !first {
			w.log.Warn("container ended", "pod", w.pod.Name, "container", c.Name)
			machine.KillCgroup(now.ID) // its children end with it
			w.update(func(*state) { now.Ready, now.Process = false, proc.ID{} })
			if !pause(ctx, restartPause) {
				return
			}
		}
		for {
			done, err := w.launch(ctx, c, func(_ *state, id string, p proc.ID) {
				if !first {
					now.Restarts++
				}
				now.ID, now.Process, now.Waiting = id, p, ""
			})
			if err == nil {
				ended = done
				w.tell()
				break
			}
			if ctx.Err() != nil {
				return
			}
			w.complain(ctx, "Failed", fmt.Sprintf("container %s: %v", c.Name, err))
			w.update(func(*state) { now.Waiting = err.Error() })
			if !pause(ctx, retryPause) {
				return
			}
		}
	}
}

// runOnce runs an init container to its end.
func (w *worker) runOnce(ctx context.Context, c corev1.Container) error {
	var p proc.ID
	ended, err := w.launch(ctx, c, func(s *state, _ string, started proc.ID) { p, s.Init = started, started })
	if err != nil {
		return err
	}
	defer w.update(func(s *state) { s.Init = proc.ID{} })
	select {
	case <-ctx.Done():
		if w.ending.Err() == nil { // the runner ends, and the next one deals with it
			return ctx.Err()
		}
		return errors.Join(ctx.Err(), p.Kill(context.WithoutCancel(ctx)))
	case <-ended:
	}
	if status := w.exit(c.Name); status != nil {
		return fmt.Errorf("%w; its log %s ends with: %s", status, w.log1(c.Name), machine.Tail(w.log1(c.Name), 5))
	}
	return nil
}

// log1 is the file of a container's output.
func (w *worker) log1(container string) string {
	if w.static {
		return filepath.Join(LogDir, container+".log")
	}
	return filepath.Join(LogDir, "containers", fmt.Sprintf("%s_%s_%s.log", w.pod.Name, w.pod.Namespace, container))
}

// launch starts a container's process. It does nothing yet when note writes down that it
// is there: a runner that is killed in between leaves a process that ends.
func (w *worker) launch(ctx context.Context, c corev1.Container, note func(*state, string, proc.ID)) (ended chan struct{}, err error) {
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	id := hex.EncodeToString(random)
	cmd, err := w.command(ctx, c)
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(w.log1(c.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer open.Close()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{gate}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = w.startIn(cmd)
	gate.Close()
	if err != nil {
		return nil, err
	}
	group, err := machine.ContainerCgroup(id, milliCPU(c))
	if err == nil {
		err = machine.EnterCgroups(group, cmd.Process.Pid)
	}
	var p proc.ID
	if err == nil {
		p, err = proc.Identify(cmd.Process.Pid)
	}
	if err == nil {
		err = w.keepState(func(s *state) { note(s, id, p) })
	}
	if err == nil {
		_, err = open.WriteString("\n")
	}
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		w.ended(c.Name, cmd.Wait())
		machine.KillCgroup(id) // as all of a container ends with its first process
	}()
	if err != nil {
		_ = cmd.Process.Kill()
		<-ended
		return nil, fmt.Errorf("start a process: %w", err)
	}
	return ended, nil
}

// startIn starts a command in the pod's network namespace, with the pod's name for its host's.
func (w *worker) startIn(cmd *exec.Cmd) error {
	if w.pod.Spec.HostNetwork {
		return cmd.Start()
	}
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes with the goroutine
		err := netns.Join(w.netns())
		if err == nil {
			err = unix.Unshare(unix.CLONE_NEWUTS)
		}
		if err == nil {
			err = unix.Sethostname([]byte(w.pod.Name)) // what /hostname of a web pod answers
		}
		if err == nil {
			err = cmd.Start()
		}
		errc <- err
	}()
	return <-errc
}

// throughGate runs a program when there is a line to be read, as package contain does.
const throughGate = `read -r _ <&3 && exec "$@" 3<&-`

// command is what a container runs, once there is a line to be read from contain.Gate.
func (w *worker) command(ctx context.Context, c corev1.Container) (*exec.Cmd, error) {
	env, err := w.environment(ctx, c)
	if err != nil {
		return nil, err
	}
	if root, ok := w.Images[c.Image]; ok {
		args := append(append([]string{}, c.Command...), c.Args...)
		if len(args) == 0 {
			return nil, fmt.Errorf("image %s: the container says no command", c.Image)
		}
		s := contain.Spec{Args: args, Env: env, Root: root}
		if s.Mounts, err = w.mounts(ctx, c); err != nil {
			return nil, err
		}
		secure(&s, w.pod.Spec.SecurityContext, c.SecurityContext)
		return contain.Command(s, filepath.Join(w.dir, c.Name+".json"))
	}
	program, ok := w.Programs[c.Image]
	if !ok {
		return nil, fmt.Errorf("image %s: a light node has no images, and programs for %s only", c.Image, w.known())
	}
	args := c.Args
	if len(c.Command) > 0 {
		program, args = c.Command[0], append(append([]string{}, c.Command[1:]...), c.Args...)
	}
	if program, err = exec.LookPath(program); err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", throughGate, "sh", program}, args...)...)
	cmd.Env, cmd.Dir = env, "/"
	return cmd, nil
}

// secure gives the container the rights that its security context says.
func secure(s *contain.Spec, pod *corev1.PodSecurityContext, sc *corev1.SecurityContext) {
	if pod != nil {
		if pod.RunAsUser != nil {
			s.UID = int(*pod.RunAsUser)
		}
		if pod.RunAsGroup != nil {
			s.GID = int(*pod.RunAsGroup)
		}
	}
	s.Capabilities = contain.DefaultCapabilities()
	if sc == nil {
		return
	}
	if sc.RunAsUser != nil {
		s.UID = int(*sc.RunAsUser)
	}
	if sc.RunAsGroup != nil {
		s.GID = int(*sc.RunAsGroup)
	}
	s.Privileged = sc.Privileged != nil && *sc.Privileged
	s.ReadOnly = sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
	s.NoNewPrivs = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
	if sc.Capabilities == nil {
		return
	}
	kept := []string{}
	dropped := map[string]bool{}
	for _, d := range sc.Capabilities.Drop {
		dropped[string(d)] = true
	}
	for _, name := range s.Capabilities {
		if !dropped["ALL"] && !dropped[name] {
			kept = append(kept, name)
		}
	}
	for _, a := range sc.Capabilities.Add {
		kept = append(kept, string(a))
	}
	s.Capabilities = kept
}

// milliCPU is what the container asks of a CPU, in thousandths; 0 for nothing.
func milliCPU(c corev1.Container) int64 { return c.Resources.Requests.Cpu().MilliValue() }
