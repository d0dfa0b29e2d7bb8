//go:build cluster

package chaos_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/manx-cni/manx/internal/controllers"
)

// runControllers is manx-controllers.
func runControllers(ctx context.Context, s spec, log *slog.Logger) error {
	return controllers.Run(ctx, controllers.Settings{
		Kubeconfig: s.Kubeconfig, Namespace: "kube-system", Collect: true, LeakGrace: s.Grace,
		Host: "127.0.0.1", Port: s.Metrics,
	}, log)
}

// startControllers starts the controllers' process, each time with a port of its own.
func (w *world) startControllers() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	w.spec.Metrics = uint16(l.Addr().(*net.TCPAddr).Port)
	if err := l.Close(); err != nil {
		return err
	}
	w.controllers, err = startProcess(roleController, w.spec)
	return err
}

// writeKubeconfig writes the file that the controllers reach the API server with.
func (w *world) writeKubeconfig() {
	w.t.Helper()
	tls := w.spec.TLS
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: w.spec.Host, CertificateAuthority: tls.CAFile, CertificateAuthorityData: tls.CAData}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{
		ClientCertificate: tls.CertFile, ClientCertificateData: tls.CertData, ClientKey: tls.KeyFile, ClientKeyData: tls.KeyData,
	}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	w.spec.Kubeconfig = filepath.Join(w.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, w.spec.Kubeconfig); err != nil {
		w.t.Fatal(err)
	}
}

// awaitCandidates waits until the collector has that many addresses of a node on
// its list of those that seem to be in no use.
func (w *world) awaitCandidates(ctx context.Context, node string, n int) {
	w.t.Helper()
	err := insist(ctx, "candidates for collection", func() error {
		got, err := w.metric(ctx, "ipam_allocations_gc_candidates", fmt.Sprintf("node=%q", node))
		if err == nil && got < float64(n) {
			err = fmt.Errorf("%v of %s, want %d", got, node, n)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// metric returns the sum of a metric of the controllers over the series that have
// a label.
func (w *world) metric(ctx context.Context, name, label string) (sum float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", w.spec.Metrics), nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		series, value, ok := strings.Cut(lines.Text(), "} ")
		if !ok || !strings.HasPrefix(series, name+"{") || !strings.Contains(series, label) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", lines.Text(), err)
		}
		sum += v
	}
	return sum, lines.Err()
}
