package ctl

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/nearest"
)

// connection is how commands reach the API server: by clientcmd's own flags, so that
// they mean what they mean to kubectl. The root has them; a command that asks the
// cluster says so with uses, and any other refuses them.
type connection struct {
	kubeconfig string
	overrides  clientcmd.ConfigOverrides
	flags      *pflag.FlagSet
	// inCluster is the access of a pod's service account.
	inCluster func() (*rest.Config, error)
}

// asksCluster marks commands that a connection is of use to.
const asksCluster = "manxctl: asks the cluster"

func newConnection(root *cobra.Command) *connection {
	c := &connection{flags: pflag.NewFlagSet("", pflag.ContinueOnError), inCluster: rest.InClusterConfig}
	c.flags.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster (default: the files of $KUBECONFIG, or ~/.kube/config)")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	// of the agents, and a command's own
	names.ContextOverrideFlags.Namespace = clientcmd.FlagInfo{}
	names.AuthOverrideFlags.Username, names.AuthOverrideFlags.Password = clientcmd.FlagInfo{}, clientcmd.FlagInfo{} // no API server takes them
	for flag, text := range map[*clientcmd.FlagInfo]string{
		&names.CurrentContext:                             "context of the kubeconfig",
		&names.Timeout:                                    "how long one request to the API server may take, such as 1s, 2m or 3h; 0 is no limit",
		&names.ContextOverrideFlags.ClusterName:           "cluster of the kubeconfig",
		&names.ContextOverrideFlags.AuthInfoName:          "user of the kubeconfig",
		&names.AuthOverrideFlags.ClientCertificate:        "file with a client certificate for TLS",
		&names.AuthOverrideFlags.ClientKey:                "file with the key of the client certificate",
		&names.AuthOverrideFlags.Token:                    "bearer token for the API server",
		&names.AuthOverrideFlags.Impersonate:              "user to act as",
		&names.AuthOverrideFlags.ImpersonateUID:           "UID to act as",
		&names.AuthOverrideFlags.ImpersonateGroups:        "group to act as; can be repeated",
		&names.ClusterOverrideFlags.APIServer:             "address and port of the API server",
		&names.ClusterOverrideFlags.CertificateAuthority:  "file with the certificate of the authority that the API server's is of",
		&names.ClusterOverrideFlags.InsecureSkipTLSVerify: "do not check the API server's certificate: others may read and change what is said",
		&names.ClusterOverrideFlags.TLSServerName:         "name that the API server's certificate is to have",
		&names.ClusterOverrideFlags.ProxyURL:              "proxy on the way to the API server",
		&names.ClusterOverrideFlags.DisableCompression:    "have answers sent as they are",
	} {
		flag.Description = text
	}
	names.Timeout.Default = ""
	clientcmd.BindOverrideFlags(&c.overrides, c.flags, names)
	root.PersistentFlags().AddFlagSet(c.flags)
	root.PersistentPreRunE = c.check
	return c
}

// uses marks a command that asks the cluster.
func (c *connection) uses(cmd *cobra.Command) *cobra.Command {
	cmd.Annotations = map[string]string{asksCluster: "yes"}
	return cmd
}

// namespaceFlag gives a command the namespace of the agents.
func namespaceFlag(f *pflag.FlagSet, namespace *string) {
	f.StringVarP(namespace, "namespace", "n", metav1.NamespaceSystem, "namespace of the agents")
}

// check refuses what a command would take and not act on.
func (c *connection) check(cmd *cobra.Command, _ []string) error {
	given := c.given()
	if len(given) == 0 || cmd.Name() == "help" || strings.HasPrefix(cmd.Name(), "__") {
		return nil
	}
	if cmd.Annotations[asksCluster] == "" {
		return cmdline.Usagef("--%s has no effect on %s, which does not ask the cluster", given[0], cmd.CommandPath())
	}
	if _, err := clientcmd.ParseTimeout(c.overrides.Timeout); err != nil && c.overrides.Timeout != "" {
		return cmdline.Usagef("--%s=%q: want a time such as 10s", clientcmd.FlagTimeout, c.overrides.Timeout)
	}
	return nil
}

// given are the names of the flags that the user has given.
func (c *connection) given() (names []string) {
	c.flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			names = append(names, f.Name)
		}
	})
	return names
}

// requestTimeout is how long one request may take: what the user says, or otherwise.
func (c *connection) requestTimeout(otherwise time.Duration) time.Duration {
	if c.overrides.Timeout == "" {
		return otherwise
	}
	d, _ := clientcmd.ParseTimeout(c.overrides.Timeout) // check has read it
	return d
}

// config is the user's access, or in a pod that of its service account.
func (c *connection) config() (*rest.Config, error) {
	cfg, err := c.load(true)
	if err != nil {
		err = fmt.Errorf("no usable kubeconfig (--kubeconfig, KUBECONFIG): %w", err)
		if len(c.given()) == 0 {
			err = fmt.Errorf("no agent's socket on this machine, and %w", err)
		}
	}
	return cfg, err
}

// userConfig is config without a pod's own service account: the agent's may do none of
// what the command is for.
func (c *connection) userConfig() (*rest.Config, error) { return c.load(false) }

// errNoKubeconfig says what is missing and where it was looked for.
func errNoKubeconfig(files []string) error {
	return fmt.Errorf("this command needs a kubeconfig (--kubeconfig, KUBECONFIG or ~/.kube/config), and there is none in %s: "+
		"run it where kubectl works, or give --server and --token; the agent's own rights do not suffice", strings.Join(files, ", "))
}

func (c *connection) load(inCluster bool) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	rules.WarnIfAllMissing = false // it is an error, or said with it
	raw, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	if clientcmdapi.IsConfigEmpty(raw) && c.overrides.ClusterInfo.Server == "" {
		if !inCluster {
			return nil, errNoKubeconfig(rules.GetLoadingPrecedence())
		}
		if raw, err = c.serviceAccount(); err != nil {
			return nil, fmt.Errorf("nothing is in %s, and %w", strings.Join(rules.GetLoadingPrecedence(), ", "), err)
		}
	}
	if err := c.known(raw); err != nil {
		return nil, err
	}
	cfg, err := clientcmd.NewNonInteractiveClientConfig(*raw, "", &c.overrides, rules).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("use kubeconfig: %w", err)
	}
	return noticed(cfg), nil
}

// serviceAccount is a pod's access as a kubeconfig, so that the flags act on it as on
// any other. (What clientcmd makes of it by itself leaves --as and --request-timeout out.)
func (c *connection) serviceAccount() (*clientcmdapi.Config, error) {
	cfg, err := c.inCluster()
	if err != nil {
		return nil, err
	}
	const name = "service-account"
	raw := clientcmdapi.NewConfig()
	raw.Clusters[name] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthority: cfg.CAFile}
	raw.AuthInfos[name] = &clientcmdapi.AuthInfo{TokenFile: cfg.BearerTokenFile}
	raw.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	raw.CurrentContext = name
	return raw, nil
}

// known refuses names that the kubeconfig does not have.
func (c *connection) known(raw *clientcmdapi.Config) error {
	for _, n := range []struct {
		flag, name string
		names      []string
	}{
		{clientcmd.FlagContext, c.overrides.CurrentContext, slices.Sorted(maps.Keys(raw.Contexts))},
		{clientcmd.FlagClusterName, c.overrides.Context.Cluster, slices.Sorted(maps.Keys(raw.Clusters))},
		{clientcmd.FlagAuthInfoName, c.overrides.Context.AuthInfo, slices.Sorted(maps.Keys(raw.AuthInfos))},
	} {
		if n.name == "" || slices.Contains(n.names, n.name) {
			continue
		}
		near := ""
		if found := nearest.Name(n.name, n.names); found != "" {
			near = "; did you mean " + found + "?"
		}
		return fmt.Errorf("--%s=%q: the kubeconfig has no such %[1]s; there are: %[3]s%[4]s", n.flag, n.name, orNone(n.names), near)
	}
	return nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
