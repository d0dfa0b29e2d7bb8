package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/cni-plugin/install"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

// shipped is the CNI configuration of manifests/manx.yaml, for the agent of the test.
func shipped(t *testing.T, socket string) string {
	t.Helper()
	manifest, err := os.ReadFile("../../manifests/src/10-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct{ Data map[string]string }
	if err := yaml.Unmarshal(manifest, &config); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(config.Data["cni_network_config"], `"type": "manx",`, `"type": "manx", "socket": "`+socket+`",`, 1)
}

// installed is what install-cni makes of it with the reference plugins in dir.
func (n *plugged) installed(plugins string) *libcni.NetworkConfigList {
	n.t.Helper()
	bin, net := n.cni.Path[0], n.t.TempDir()
	c := install.FromEnvironment([]string{
		"CNI_NETWORK_CONFIG=" + shipped(n.t, n.socket), "KUBERNETES_NODE_NAME=node1", "SKIP_CNI_BINARIES=manx,manx-ipam,loopback",
	})
	c.BinSource, c.BinTarget, c.NetTarget = plugins, bin, net
	log := newTestLog(n.t)
	if err := install.Run(n.t.Context(), c, log); err != nil {
		n.t.Fatal(err)
	}
	list, err := libcni.ConfListFromFile(filepath.Join(net, c.ConfName))
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// The configuration that we ship, as the installer writes it and libcni reads it: where
// every plugin speaks 1.1.0, STATUS and GC arrive; with a portmap that does not, pods
// start as before and neither is sent.
func TestShippedConfiguration(t *testing.T) {
	n := newPlugged(t)
	reference := t.TempDir()
	build := exec.Command("go", "build", "-C", "../../hack/cni-plugins", "-o", reference+"/", "tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the reference plugins: %v: %s", err, out)
	}
	older := t.TempDir()
	const says = "#!/bin/sh\nif [ $CNI_COMMAND = VERSION ]; " +
		"then echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"0.4.0\",\"1.0.0\"]}'; exit; fi\nexec "
	if err := os.WriteFile(filepath.Join(older, "portmap"), []byte(says+filepath.Join(reference, "portmap")+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for version, plugins := range map[string]string{"1.1.0": reference, "1.0.0": older} {
		t.Run(version, func(t *testing.T) {
			list := n.installed(plugins)
			if list.CNIVersion != version {
				t.Fatalf("libcni takes version %s, want %s", list.CNIVersion, version)
			}
			pod := nltest.NewNS(t)
			eth0 := n.port("k8s-pod-network", "c-"+version[2:3], "web", "eth0", pod)
			eth0.list = list
			eth0.rt.CapabilityArgs = map[string]any{"portMappings": []map[string]any{{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}}}
			eth0.add()
			n.wantAlone(pod, eth0)

			sent := version == "1.1.0"
			status := func() error { return n.cni.GetStatusNetworkList(context.Background(), list) }
			if err := status(); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			n.stop()
			if err := status(); (err != nil) != sent {
				t.Errorf("STATUS without an agent: %v; it arrives: %v", err, sent)
			}
			n.start()
			eth0.gc()
			if gone := len(n.ipam.ByHandle()) == 0; gone != sent {
				t.Errorf("after GC the pod is gone: %v; it arrives: %v", gone, sent)
			}
			eth0.del()
			n.wantAlone(pod)
		})
	}
}
