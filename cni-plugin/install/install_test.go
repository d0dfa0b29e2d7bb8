package install

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const template = `{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {"type": "manx", "log_level": "__LOG_LEVEL__", "datastore_type": "__DATASTORE_TYPE__",
     "nodename": "__KUBERNETES_NODE_NAME__", "mtu": __CNI_MTU__, "ipam": {"type": "manx-ipam"},
     "policy": {"type": "k8s"}, "kubernetes": {"kubeconfig": "__KUBECONFIG_FILEPATH__"}},
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
  ]
}`

// host is an image and a node in temporary directories.
func host(t *testing.T, environ ...string) Config {
	t.Helper()
	c := FromEnvironment(append([]string{"CNI_NETWORK_CONFIG=" + template, "KUBERNETES_NODE_NAME=node-1"}, environ...))
	dir := t.TempDir()
	c.BinSource, c.BinTarget, c.NetTarget = filepath.Join(dir, "image"), filepath.Join(dir, "bin"), filepath.Join(dir, "net.d")
	if err := os.Mkdir(c.BinSource, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range Binaries {
		write(t, filepath.Join(c.BinSource, name), "program "+name, 0o644)
	}
	return c
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// run installs and returns what was logged.
func run(t *testing.T, c Config) (string, error) {
	t.Helper()
	var log bytes.Buffer
	err := Run(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)))
	return log.String(), err
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = info.Mode().String()
	}
	return out
}

func TestInstall(t *testing.T) {
	c := host(t)
	write(t, filepath.Join(c.BinTarget, "manx"), "an older program", 0o700)
	write(t, filepath.Join(c.BinTarget, ".manx123456"), "half a prog", 0o600)
	write(t, filepath.Join(c.BinTarget, "bridge"), "somebody else's", 0o755)
	if _, err := run(t, c); err != nil {
		t.Fatal(err)
	}
	const program = "-rwxr-xr-x"
	want := map[string]string{"manx": program, "manx-ipam": program, "portmap": program, "loopback": program, "bridge": program}
	if got := tree(t, c.BinTarget); !reflect.DeepEqual(got, want) {
		t.Errorf("programs: %v", got)
	}
	if got := tree(t, c.NetTarget); !reflect.DeepEqual(got, map[string]string{"10-manx.conflist": "-rw-------"}) {
		t.Errorf("configurations: %v", got)
	}
	raw, err := os.ReadFile(filepath.Join(c.NetTarget, "10-manx.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Plugins []map[string]any
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	entry := list.Plugins[0]
	if entry["nodename"] != "node-1" || entry["mtu"] != 0.0 || entry["log_level"] != "info" || entry["datastore_type"] != "kubernetes" {
		t.Errorf("entry: %v", entry)
	}

	before, _ := os.Stat(filepath.Join(c.NetTarget, "10-manx.conflist"))
	log, err := run(t, c)
	after, _ := os.Stat(filepath.Join(c.NetTarget, "10-manx.conflist"))
	if err != nil || log != "" || !os.SameFile(before, after) {
		t.Errorf("a second run was not silent and idle: %v %s", err, log)
	}
}

func TestConfigurationComesLast(t *testing.T) {
	c := host(t)
	if err := os.Remove(filepath.Join(c.BinSource, "loopback")); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, c); err == nil || !strings.Contains(err.Error(), "loopback") || !strings.Contains(err.Error(), "SKIP_CNI_BINARIES") {
		t.Errorf("an incomplete image: %v", err)
	}
	if got := tree(t, c.NetTarget); len(got) != 0 {
		t.Errorf("configurations: %v", got)
	}
}

func TestSkipAndKeep(t *testing.T) {
	c := host(t, "SKIP_CNI_BINARIES=loopback, portmap", "UPDATE_CNI_BINARIES=false", "CNI_CONF_NAME=05-manx.conflist")
	write(t, filepath.Join(c.BinTarget, "manx"), "kept", 0o755)
	log, err := run(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, c.BinTarget); len(got) != 2 {
		t.Errorf("programs: %v", got)
	}
	if raw, _ := os.ReadFile(filepath.Join(c.BinTarget, "manx")); string(raw) != "kept" {
		t.Errorf("manx was updated: %s", raw)
	}
	if !strings.Contains(log, "not installed: pods will not start") || !strings.Contains(log, "plugin=portmap") {
		t.Errorf("no warning about portmap: %s", log)
	}
	if got := tree(t, c.NetTarget); got["05-manx.conflist"] == "" {
		t.Errorf("configurations: %v", got)
	}
}

func TestOtherConfigurationsAreNamed(t *testing.T) {
	c := host(t)
	for _, name := range []string{"10-calico.conflist", "00-bridge.conf", "99-last.conflist", "00-readme.txt", "10-manx.conflist.bak"} {
		write(t, filepath.Join(c.NetTarget, name), "{}", 0o600)
	}
	log, err := run(t, c)
	if err != nil || !strings.Contains(log, `files="[00-bridge.conf 10-calico.conflist]"`) {
		t.Errorf("%v: %s", err, log)
	}
}

// A key that is misspelt, or known and not acted on, is named when it is installed.
func TestKeysWithoutEffectAreNamed(t *testing.T) {
	c := host(t)
	c.NetworkConfig = strings.Replace(template, `"policy":`, `"include_default_routes": true, "asign_ipv4": "x", "policy":`, 1)
	log, err := run(t, c)
	if err != nil || !strings.Contains(log, "keys of the CNI configuration have no effect") ||
		!strings.Contains(log, "include_default_routes=true") || !strings.Contains(log, "asign_ipv4") {
		t.Errorf("%v: %s", err, log)
	}
}

// With CNI_EXCLUSIVE they are moved, after ours is there, and come back with Uninstall.
func TestOtherConfigurationsAreMoved(t *testing.T) {
	c := host(t, "CNI_EXCLUSIVE=true")
	for name, text := range map[string]string{
		"05-cilium.conflist": `{"plugins":[{"type":"cilium-cni"}]}`, "10-calico.conflist": "{", "00-multus.conf": `{"type":"multus"}`,
		"99-last.conflist": "{}", "05-note.txt": "",
	} {
		write(t, filepath.Join(c.NetTarget, name), text, 0o600)
	}
	log, err := run(t, c)
	if err != nil || !strings.Contains(log, `files="[05-cilium.conflist 10-calico.conflist]" suffix=.manx_bak`) {
		t.Errorf("%v: %s", err, log)
	}
	const conf = "-rw-------"
	want := map[string]string{
		"05-cilium.conflist.manx_bak": conf, "10-calico.conflist.manx_bak": conf, "00-multus.conf": conf, "10-manx.conflist": conf,
		"99-last.conflist": conf, "05-note.txt": conf,
	}
	if got := tree(t, c.NetTarget); !reflect.DeepEqual(got, want) {
		t.Errorf("configurations: %v", got)
	}
	if log, err := run(t, c); err != nil || log != "" {
		t.Errorf("a second run was not silent and idle: %v %s", err, log)
	}
	var out bytes.Buffer
	if err := Uninstall(c, slog.New(slog.NewTextHandler(&out, nil))); err != nil ||
		!strings.Contains(out.String(), `files="[05-cilium.conflist 10-calico.conflist]"`) {
		t.Errorf("%v: %s", err, &out)
	}
	if got := tree(t, c.NetTarget); got["05-cilium.conflist"] == "" || got["10-calico.conflist"] == "" || len(got) != 5 {
		t.Errorf("configurations: %v", got)
	}
	if raw, _ := os.ReadFile(filepath.Join(c.NetTarget, "05-cilium.conflist")); string(raw) != `{"plugins":[{"type":"cilium-cni"}]}` {
		t.Errorf("%s", raw)
	}
}

func TestConfigurationFromFile(t *testing.T) {
	c := host(t)
	c.NetworkConfigFile = filepath.Join(t.TempDir(), "conf")
	write(t, c.NetworkConfigFile, strings.ReplaceAll(template, "k8s-pod-network", "from-file"), 0o600)
	if _, err := run(t, c); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(filepath.Join(c.NetTarget, c.ConfName)); !strings.Contains(string(raw), "from-file") {
		t.Errorf("configuration: %s", raw)
	}
}

func TestBadConfigurationWritesNothing(t *testing.T) {
	swap := func(old, new string) string { return "CNI_NETWORK_CONFIG=" + strings.Replace(template, old, new, 1) }
	for _, tc := range []struct{ set, says string }{
		{"CNI_NETWORK_CONFIG=", "CNI_NETWORK_CONFIG is empty, want a CNI configuration list"},
		{"CNI_NETWORK_CONFIG_FILE=/manx-absent", "CNI_NETWORK_CONFIG_FILE: open /manx-absent"},
		{"CNI_MTU=big", `CNI_MTU is "big", want a number of bytes`},
		{"CNI_MTU=100", "mtu is 100, want a number of bytes, 0 (the agent decides) or 576 to 65535"},
		{"CNI_EXCLUSIVE=yes", `CNI_EXCLUSIVE is "yes", want true or false`},
		{"UPDATE_CNI_BINARIES=perhaps", `UPDATE_CNI_BINARIES is "perhaps", want true or false`},
		{"CNI_CONF_NAME=../x.conflist", `CNI_CONF_NAME is "../x.conflist", want a file name`},
		{"CNI_CONF_NAME=10-manx.conf", `CNI_CONF_NAME is "10-manx.conf", want a file name that ends in .conflist`},
		{"KUBERNETES_NODE_NAME=", "KUBERNETES_NODE_NAME is empty"},
		{"DATASTORE_TYPE=etcdv3", `datastore_type is "etcdv3", want one of ["kubernetes"]`},
		{swap("__KUBECONFIG_FILEPATH__", "__SERVICEACCOUNT_TOKEN__"), "placeholders __SERVICEACCOUNT_TOKEN__, want only __CNI_MTU__"},
		{swap(`"mtu"`, `mtu`), "line 6: invalid character 'm'"},
		{swap(`"k8s-pod-network"`, `""`), "name is missing"},
		{swap(`"k8s-pod-network"`, `"a/b"`), `name is "a/b", want letters`},
		{swap(`"1.0.0"`, `"0.1.0"`), `cniVersion is "0.1.0", want one of ["0.3.1"`},
		{swap(`"type": "manx"`, `"type": "calico"`), `plugins[0].type is "calico", want manx first`},
		{swap(`"type": "portmap"`, `"type": "../../sbin/init"`), `plugins[1].type is "../../sbin/init", want the file name of a plugin`},
		{swap(`"type": "portmap"`, `"kind": "portmap"`), `plugins[1].type is , want`},
		{`CNI_NETWORK_CONFIG={"name":"n","cniVersion":"1.0.0","type":"manx"}`, "plugins is empty"},
		{swap(`"manx-ipam"`, `"host-local"`), `ipam.type is "host-local", want one of`},
	} {
		t.Run(tc.says, func(t *testing.T) {
			c := host(t, tc.set)
			_, err := run(t, c)
			if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.says)
			}
			for _, dir := range []string{c.BinTarget, c.NetTarget} {
				if _, err := os.Stat(dir); err == nil {
					t.Errorf("%s was made", dir)
				}
			}
		})
	}
}

func TestValuesStayInsideTheirQuotes(t *testing.T) {
	c := host(t, `KUBERNETES_NODE_NAME=a", "socket": "/evil`)
	if _, err := run(t, c); err != nil {
		t.Fatal(err)
	}
	raw, _ := os.ReadFile(filepath.Join(c.NetTarget, c.ConfName))
	var list pluginList
	if err := json.Unmarshal(raw, &list); err != nil || list.Plugins[0]["socket"] != nil {
		t.Errorf("%v: %s", err, raw)
	}
}

func TestUninstall(t *testing.T) {
	c := host(t)
	log := slog.New(slog.DiscardHandler)
	if _, err := run(t, c); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Uninstall(c, log); err != nil {
			t.Fatal(err)
		}
	}
	if got := tree(t, c.BinTarget); len(got) != 2 || got["portmap"] == "" || got["loopback"] == "" {
		t.Errorf("programs: %v", got)
	}
	if got := tree(t, c.NetTarget); len(got) != 0 {
		t.Errorf("configurations: %v", got)
	}
	write(t, filepath.Join(c.NetTarget, c.ConfName), `{"plugins":[{"type":"bridge"}]}`, 0o600)
	if err := Uninstall(c, log); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, c.NetTarget); len(got) != 1 {
		t.Error("somebody else's configuration was removed")
	}
}

func FuzzRender(f *testing.F) {
	f.Add(template, "node-1", "0")
	f.Add(`{"plugins":[{"type":"manx"}],"name":"n","cniVersion":"1.0.0"}`, "\"", "1500")
	f.Fuzz(func(t *testing.T, conf, node, mtu string) {
		c := Config{NetworkConfig: conf, NodeName: node, MTU: mtu, LogLevel: "info", DatastoreType: "kubernetes"}
		out, types, err := c.render()
		if err != nil {
			return
		}
		if !json.Valid(out) || types[0] != "manx" {
			t.Errorf("accepted %q", out)
		}
	})
}
