package confdir

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const (
	ours    = `{"name":"k8s-pod-network","cniVersion":"1.0.0","plugins":[{"type":"manx"},{"type":"portmap"}]}`
	flannel = `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"},{"type":"portmap"}]}`
	multus  = `{"name":"multus-cni-network","type":"multus-shim","delegates":[{"type":"manx"}]}`
)

func dirOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLook(t *testing.T) {
	for name, tc := range map[string]struct {
		files  map[string]string
		ours   string
		before string // name=plugin, with spaces in between
	}{
		"ours alone":       {map[string]string{"10-manx.conflist": ours}, "10-manx.conflist", ""},
		"another after it": {map[string]string{"10-manx.conflist": ours, "20-flannel.conflist": flannel}, "10-manx.conflist", ""},
		"another before it": {map[string]string{"10-manx.conflist": ours, "10-flannel.conflist": flannel},
			"10-manx.conflist", "10-flannel.conflist=flannel"},
		"two before it": {map[string]string{
			"10-manx.conflist": ours, "05-cilium.conf": `{"type":"cilium-cni"}`, "10-kindnet.conflist": `{"plugins":[{"type":"ptp"}]}`,
		}, "10-manx.conflist", "05-cilium.conf=cilium-cni 10-kindnet.conflist=ptp"},
		"Multus before it": {map[string]string{"10-manx.conflist": ours, "00-multus.conf": multus}, "10-manx.conflist", ""},
		"Multus before another": {map[string]string{"10-manx.conflist": ours, "00-multus.conf": multus, "10-calico.conflist": flannel},
			"10-manx.conflist", "10-calico.conflist=flannel"},
		"ours under another name": {map[string]string{"05-net.conflist": ours, "10-flannel.conflist": flannel}, "05-net.conflist", ""},
		"what is broken": {map[string]string{"10-manx.conflist": ours, "05-x.conf": "{", "06-y.json": "", "07-z.conflist": `{"plugins":[]}`},
			"10-manx.conflist", "05-x.conf=! 06-y.json=! 07-z.conflist="},
		"what no runtime reads": {map[string]string{
			"10-manx.conflist": ours, "05-x.txt": "{", "05-calico.conflist.manx_bak": flannel, "calico-kubeconfig": "x",
		}, "10-manx.conflist", ""},
		"ours is gone": {map[string]string{"20-flannel.conflist": flannel}, "", "20-flannel.conflist=flannel"},
		"none":         {nil, "", ""},
		"a list that has a type": {map[string]string{"05-a.conflist": `{"type":"manx","plugins":[{"type":"bridge"}]}`, "10-manx.conflist": ours},
			"10-manx.conflist", "05-a.conflist=bridge"},
		"manx is not first in line": {
			map[string]string{"05-a.conflist": `{"plugins":[{"type":"bridge"},{"type":"manx"}]}`, "10-manx.conflist": ours},
			"10-manx.conflist", "05-a.conflist=bridge",
		},
	} {
		v, err := Look(dirOf(t, tc.files))
		var before []string
		for _, f := range v.Before {
			if f.Fault != "" {
				f.Plugin = "!"
			}
			before = append(before, f.Name+"="+f.Plugin)
		}
		if err != nil || v.Ours != tc.ours || strings.Join(before, " ") != tc.before {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	if _, err := Look(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a directory that is not there was read")
	}
	dir := dirOf(t, nil)
	if err := syscall.Mkfifo(filepath.Join(dir, "05-pipe.conf"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("absent", filepath.Join(dir, "06-link.conf")); err != nil {
		t.Fatal(err)
	}
	done := make(chan View, 1)
	go func() { v, _ := Look(dir); done <- v }()
	if v := <-done; len(v.Before) != 1 || v.Before[0].Fault != "it is no ordinary file" {
		t.Errorf("a pipe: %+v", v)
	}
}

func TestMoveAwayAndBack(t *testing.T) {
	dir := dirOf(t, map[string]string{"05-cilium.conflist": flannel, "06-b.conf": "{}", "10-manx.conflist": ours})
	for _, name := range []string{"05-cilium.conflist", "06-b.conf"} {
		if err := MoveAway(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := Look(dir); err != nil || v.Ours != "10-manx.conflist" || len(v.Before) != 0 {
		t.Errorf("%+v %v", v, err)
	}
	// Another program has written one again: it is not replaced.
	if err := os.WriteFile(filepath.Join(dir, "06-b.conf"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	names, err := MoveBack(dir)
	if !slices.Equal(names, []string{"05-cilium.conflist"}) || err == nil || !strings.Contains(err.Error(), "06-b.conf") {
		t.Errorf("%v, %v", names, err)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "05-cilium.conflist")); string(text) != flannel {
		t.Errorf("%s", text)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "06-b.conf")); string(text) != "new" {
		t.Errorf("%s", text)
	}
}
