package runner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	remote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/proc"
)

// listen answers the API server, which it knows by the cluster's authority, on the
// kubelet's port.
func (r *runner) listen(ctx context.Context) error {
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(pem)
	cert, err := tls.LoadX509KeyPair(r.Cert, r.Key)
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", net.JoinHostPort(r.Addrs[0].String(), strconv.Itoa(Port)), &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		NextProtos: []string{"http/1.1"}, // streams are upgraded connections
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", r.exec)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", r.logs)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 30 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	go func() { _ = s.Serve(l) }()
	return nil
}

const streamIdle, streamCreation = 4 * time.Hour, time.Minute

func (r *runner) exec(w http.ResponseWriter, req *http.Request) {
	options, err := remote.NewOptions(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	worker := r.find(req.PathValue("namespace"), req.PathValue("pod"))
	if worker == nil {
		http.Error(w, "no such pod on this node", http.StatusNotFound)
		return
	}
	remote.ServeExec(w, req, worker, req.PathValue("pod"), "", req.PathValue("container"), req.URL.Query()["command"], options,
		streamIdle, streamCreation, remote.SupportedStreamingProtocols)
}

// ExecInContainer runs a command where a container's program runs.
func (w *worker) ExecInContainer(ctx context.Context, _ string, _ string, name string, args []string,
	in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remote.TerminalSize, _ time.Duration) error {
	if tty {
		return errors.New("a light node has no terminals for \"kubectl exec\": leave out -t, or use \"lab exec\"")
	}
	w.mu.Lock()
	var (
		p  proc.ID
		id string
	)
	if c := w.state.Containers[name]; c != nil {
		p, id = c.Process, c.ID
	}
	w.mu.Unlock()
	if !p.Alive() {
		return fmt.Errorf("container %s does not run", name)
	}
	target := []string{"--target", strconv.Itoa(p.PID), "--net", "--mount", "--root", "--wd"}
	cmd := exec.CommandContext(ctx, "nsenter", append(append(target, "--"), args...)...)
	cmd.Env = []string{"PATH=" + machine.Path, "HOME=/root"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	if in != nil { // a stream that stays open must not keep a command that has ended
		cmd.Stdin = nil
		pipe, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() { defer pipe.Close(); _, _ = io.Copy(pipe, in) }()
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err := machine.EnterCgroups(machine.ContainerCgroups(id), cmd.Process.Pid) // to end with the container
	if err != nil {
		_ = cmd.Process.Kill()
	}
	err = errors.Join(err, cmd.Wait())
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

// notLogs are what "kubectl logs" can ask a kubelet for, and not this.
var notLogs = []string{"previous", "sinceSeconds", "sinceTime", "timestamps", "limitBytes"}

// logs sends all that a container has written, or its last lines, and what it goes on to
// write when that is asked for.
func (r *runner) logs(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	for _, name := range notLogs {
		if v := q.Get(name); v != "" && v != "false" {
			http.Error(w, fmt.Sprintf("a light node does not know %s of \"kubectl logs\": all of a log is a file in %s of its disk",
				name, LogDir), http.StatusBadRequest)
			return
		}
	}
	worker := r.find(req.PathValue("namespace"), req.PathValue("pod"))
	if worker == nil {
		http.Error(w, "no such pod on this node", http.StatusNotFound)
		return
	}
	container := req.PathValue("container")
	if !worker.has(container) {
		http.Error(w, "the pod has no container "+container, http.StatusNotFound)
		return
	}
	f, err := os.Open(worker.log1(container))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	if n, err := strconv.Atoi(q.Get("tailLines")); err == nil {
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, machine.Tail(f.Name(), n))
	}
	flush := http.NewResponseController(w)
	for {
		if _, err := io.Copy(w, f); err != nil || q.Get("follow") != "true" {
			return
		}
		if flush.Flush() != nil || !pause(req.Context(), lookEvery) {
			return
		}
	}
}

// has reports whether the pod has a container of this name.
func (w *worker) has(container string) bool {
	is := func(c corev1.Container) bool { return c.Name == container }
	return slices.ContainsFunc(w.pod.Spec.Containers, is) || slices.ContainsFunc(w.pod.Spec.InitContainers, is)
}
