package ctl

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/status"
)

// apiServers are API servers that have nothing and note who asked.
type apiServers struct {
	mu    sync.Mutex
	asked []string
}

func (a *apiServers) start(t *testing.T, name string) (url string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.asked = append(a.asked, strings.TrimSpace(fmt.Sprintf("%s %s %s",
			name, r.Header.Get("Impersonate-User"), strings.Join(r.Header.Values("Impersonate-Group"), ","))))
		a.mu.Unlock()
		http.NotFound(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// first is who asked first, and forgets.
func (a *apiServers) first() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.asked = nil }()
	if len(a.asked) == 0 {
		return ""
	}
	return a.asked[0]
}

func writeKubeconfig(t *testing.T, current string, servers map[string]string) string {
	t.Helper()
	cfg := clientcmdapi.NewConfig()
	for name, url := range servers {
		cfg.Clusters[name] = &clientcmdapi.Cluster{Server: url}
		cfg.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: "t"}
		cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	}
	cfg.CurrentContext = current
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConnectionFlags: what names the cluster for kubectl does for manxctl, for every
// command that asks it.
func TestConnectionFlags(t *testing.T) {
	var api apiServers
	a, b, c := api.start(t, "a"), api.start(t, "b"), api.start(t, "c")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	// Two files, as kubectl takes them.
	t.Setenv("KUBECONFIG", writeKubeconfig(t, "a", map[string]string{"a": a})+":"+writeKubeconfig(t, "", map[string]string{"bee": b}))
	local := serve(t, status.Node{Name: "node1", Ready: true})
	for _, tc := range []struct {
		flags, asked, err string
	}{
		{"", "a", ""},
		{"--context bee", "b", ""},
		{"--cluster bee", "b", ""},
		{"--user bee --as joe --as-group ops --as-group dev", "a joe ops,dev", ""},
		{"--server " + c, "c", ""},
		{"--kubeconfig " + writeKubeconfig(t, "x", map[string]string{"x": c}), "c", ""},
		{"--request-timeout 7s", "a", ""},
		{"--context be", "", `--context="be": the kubeconfig has no such context; there are: a, bee; did you mean bee?`},
		{"--cluster q", "", `--cluster="q": the kubeconfig has no such cluster; there are: a, bee`},
		{"--user aa", "", `--user="aa": the kubeconfig has no such user; there are: a, bee; did you mean a?`},
		{"--request-timeout soon", "", `--request-timeout="soon": want a time such as 10s`},
	} {
		for _, command := range []string{
			"status --socket " + local, "preflight ipip", "preflight bgp",
			"ippool mode pool Always", "ipam show", "ipam check", "ipam release --ip 10.244.0.1",
			"ipam configure --strictaffinity true", "uninstall --yes --timeout 1s",
		} {
			if strings.HasPrefix(command, "status") && tc.flags == "" {
				continue // that is the agent's socket
			}
			if strings.HasPrefix(command, "uninstall") && tc.asked != "a" {
				continue // it does not hurry
			}
			_, err := run(strings.Fields(command + " " + tc.flags)...)
			if got := api.first(); got != tc.asked || err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("manxctl %s %s asked %q: %v; want %q and %q", command, tc.flags, got, err, tc.asked, tc.err)
			}
		}
	}
	// In front of the command, too.
	if _, err := run("--context", "bee", "ipam", "show"); err == nil || api.first() != "b" {
		t.Errorf("a flag in front of the command: %v", err)
	}
	if _, err := run("status", "--socket", local, "-n", "elsewhere"); err == nil || api.first() != "a" {
		t.Errorf("status on a node lets --namespace go: %v", err)
	}
	if out, err := run("status", "--socket", local); err != nil || !strings.Contains(out, "node1") || api.first() != "" {
		t.Errorf("status on a node asks the API server: %v\n%s", err, out)
	}
}

// A flag that a command has no use for is refused, and every command that has no use for
// these says so.
func TestConnectionFlagsAreRefused(t *testing.T) {
	var without []string
	cmdline.Walk(NewCommand(io.Discard, io.Discard), func(c *cobra.Command) {
		if !c.HasSubCommands() && c.Annotations[asksCluster] == "" && !strings.Contains(c.CommandPath(), "completion") {
			without = append(without, c.CommandPath())
		}
	})
	if got := strings.Join(without, ", "); got != "manxctl help, manxctl preflight node, manxctl version" {
		t.Errorf("%s do not ask the cluster", got)
	}
	for _, args := range []string{
		"version --context a", "--as joe version", "preflight node ipip --token x", "completion bash --kubeconfig f",
	} {
		if _, err := run(strings.Fields(args)...); !cmdline.IsUsage(err) || !strings.Contains(err.Error(), "has no effect on manxctl") {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// In a pod status has its service account, and the flags act on that, too.
func TestConnectionInCluster(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBECONFIG", "")
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(args ...string) (*rest.Config, error) {
		root := &cobra.Command{}
		c := newConnection(root)
		c.inCluster = func() (*rest.Config, error) {
			return &rest.Config{Host: "https://192.0.2.1:443", BearerToken: "secret", BearerTokenFile: token}, nil
		}
		if err := root.PersistentFlags().Parse(args); err != nil {
			t.Fatal(err)
		}
		return c.config()
	}
	cfg, err := load()
	if err != nil || cfg.Host != "https://192.0.2.1:443" || cfg.BearerToken != "secret" || cfg.BearerTokenFile != token {
		t.Errorf("%+v, %v", cfg, err)
	}
	cfg, err = load("--as", "joe", "--request-timeout", "7s", "--tls-server-name", "api")
	if err != nil || cfg.Impersonate.UserName != "joe" || cfg.Timeout.Seconds() != 7 ||
		cfg.ServerName != "api" || cfg.BearerToken != "secret" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if _, err := load("--context", "prod"); err == nil || !strings.Contains(err.Error(), `--context="prod"`) {
		t.Errorf("a context of no kubeconfig: %v", err)
	}
}
