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
	"strconv"
	"time"

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
	var p proc.ID
	if c := w.state.Containers[name]; c != nil {
		p = c.Process
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
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

// logs sends all that a container has written, or its last lines.
func (r *runner) logs(w http.ResponseWriter, req *http.Request) {
	worker := r.find(req.PathValue("namespace"), req.PathValue("pod"))
	if worker == nil {
		http.Error(w, "no such pod on this node", http.StatusNotFound)
		return
	}
	file := worker.log1(req.PathValue("container"))
	if n, err := strconv.Atoi(req.URL.Query().Get("tailLines")); err == nil {
		fmt.Fprintln(w, machine.Tail(file, n))
		return
	}
	f, err := os.Open(file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	_, _ = io.Copy(w, f)
}
