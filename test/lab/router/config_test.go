package router

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// configs are those of the golden files.
var configs = map[string]struct {
	addr, addr6 string
	Config
}{
	"tor": {"172.30.0.251", "fd00:172:30::251", Config{
		AS: 65001, PeerAS: 64512, Ranges: prefixes("172.30.0.0/24", "fd00:172:30::/64"),
		Announce: prefixes("172.30.100.0/24", "fd00:172:30:100::/64"),
	}},
	"guarded": {"172.30.0.252", "", Config{
		AS: 65002, Password: "correct-horse", TTLSecurity: true, Announce: prefixes("172.30.100.0/24"),
		Communities: []string{"65002:1", "65002:1:2"},
		Neighbors:   []Neighbor{{Addr: netip.MustParseAddr("172.30.0.11"), AS: 64512}, {Addr: netip.MustParseAddr("172.30.0.12"), AS: 64512}},
	}},
	"rr": {"172.30.0.241", "", Config{
		AS: 64512, PeerAS: 64512, Reflector: true, Ranges: prefixes("172.30.0.0/24", "172.30.1.0/24"),
	}},
}

func TestRender(t *testing.T) {
	for _, daemon := range Daemons() {
		for name, c := range configs {
			var addr6 netip.Addr
			if c.addr6 != "" {
				addr6 = netip.MustParseAddr(c.addr6)
			}
			got, err := Render(daemon, netip.MustParseAddr(c.addr), addr6, c.Config)
			if err != nil {
				t.Errorf("%s, %s: %v", daemon, name, err)
				continue
			}
			golden := filepath.Join("testdata", daemon+"-"+name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s: the configuration is\n%s\nwant that of %s (-update rewrites it)", daemon, got, golden)
			}
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	addr := netip.MustParseAddr("172.30.0.251")
	neighbor := []Neighbor{{Addr: netip.MustParseAddr("172.30.0.11"), AS: 64512, Passive: true}}
	for _, c := range []struct {
		daemon, want string
		Config
	}{
		{"quagga", "no daemon", Config{AS: 1}},
		{BIRD, "without AS", Config{}},
		{BIRD, "without AS", Config{AS: 1, Ranges: prefixes("172.30.0.0/24")}},
		{BIRD, "bits beyond", Config{AS: 1, Announce: prefixes("172.30.0.1/24")}},
		{BIRD, "where the router has it", Config{AS: 1, Announce: prefixes("fd00::/64")}},
		{FRR, "no spaces", Config{AS: 1, Password: "a\nb"}},
		{FRR, "two or three numbers", Config{AS: 1, Communities: []string{"no-export"}}},
		{FRR, "want both", Config{AS: 1, Neighbors: []Neighbor{{AS: 1}}}},
		{GoBGP, "range of peers", Config{AS: 1, PeerAS: 1, Password: "a", Ranges: prefixes("172.30.0.0/24")}},
		{FRR, "bird does", Config{AS: 1, Restarts: true}},
		{OpenBGPD, "connections of its own", Config{AS: 1, Password: "a", Neighbors: neighbor}},
	} {
		if text, err := Render(c.daemon, addr, netip.Addr{}, c.Config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s with %+v: %q, %v, want an error with %q", c.daemon, c.Config, text, err, c.want)
		}
	}
}

// The users of daemons come into a machine's files once.
func TestAddUser(t *testing.T) {
	disk := t.TempDir()
	if err := os.Mkdir(filepath.Join(disk, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n_openbgpd:x:77:\n"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(disk, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for daemon, want := range map[string]int{FRR: 64901, OpenBGPD: 64903} {
			for i, u := range daemons[daemon].users {
				if id, err := addUser(disk, u); err != nil || i == 0 && id != want {
					t.Errorf("%s has the number %d, %v, want %d", u.name, id, err, want)
				}
			}
		}
	}
	for name, want := range map[string][]string{
		"etc/passwd": {"frr:x:64901:64901::/nonexistent:/usr/sbin/nologin\n", "_openbgpd:x:64903:77::/var/lib/openbgpd:/usr/sbin/nologin\n"},
		"etc/group":  {"frr:x:64901:\n", "frrvty:x:64902:frr\n", "_openbgpd:x:77:\n"},
	} {
		b, err := os.ReadFile(filepath.Join(disk, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range want {
			if strings.Count(string(b), line) != 1 {
				t.Errorf("%s has no, or more than one, %q:\n%s", name, line, b)
			}
		}
	}
}

func TestLibraries(t *testing.T) {
	out := "frr\n  Depends: iproute2\n  Depends: libc6\n  PreDepends: libx\n  Depends: <libvirtual>\n    libreal\n  Depends: libyang2\n"
	if got := strings.Join(libraries(out), " "); got != "libc6 libyang2" {
		t.Errorf("the libraries are %q", got)
	}
}
