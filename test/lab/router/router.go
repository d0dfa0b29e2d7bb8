// Package router runs BGP routers of other makers in a lab: BIRD, FRR, GoBGP's daemon and
// OpenBGPD from Debian's packages, each in a machine of its own (package machine), with
// its programs, users and files there only: nothing is installed on the host but bird2,
// and no service of it starts.
//
// A router accepts sessions from everywhere in its Ranges (the nodes' subnet) and dials
// its Neighbors, takes every route that it is offered, passes its best ones on, and
// announces the networks in Announce. Its Config can be changed while it runs.
//
// What a daemon is told (config.go) and what its answers mean (parse.go and those beside
// it) is plain text to plain values; control.go is what starts, stops and asks it.
package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
)

// The daemons.
const (
	BIRD     = "bird"
	FRR      = "frr"
	GoBGP    = "gobgp"
	OpenBGPD = "openbgpd"
)

// Daemons lists them.
func Daemons() []string { return []string{BIRD, FRR, GoBGP, OpenBGPD} }

// Forwards reports whether a daemon writes the routes it has learnt to the kernel, so that
// packets follow them. GoBGP's needs a zebra for that, and OpenBGPD can do it on BSD only.
func Forwards(daemon string) bool { return daemon == BIRD || daemon == FRR }

// Config is what a router is told, whichever daemon it is.
type Config struct {
	AS uint32 `json:"as"`
	// PeerAS is that of all who connect from Ranges; AS makes them internal peers.
	PeerAS uint32 `json:"peerAS"`
	// Ranges are the networks from which sessions are accepted, for routes of their own family.
	// Where there is a password, those of GoBGP and OpenBGPD have to be Neighbors instead, and
	// OpenBGPD's not passive: it does not set the key on the socket it listens on.
	Ranges []netip.Prefix `json:"ranges,omitempty"`
	// Neighbors are routers that are known by their addresses.
	Neighbors []Neighbor `json:"neighbors,omitempty"`
	// Password is of every session (TCP-MD5, RFC 2385); empty is none.
	Password string `json:"password,omitempty"`
	// TTLSecurity has packets of sessions sent with TTL 255 and others dropped (RFC 5082).
	TTLSecurity bool `json:"ttlSecurity,omitempty"`
	// Reflector makes internal peers clients of a route reflector (RFC 4456). A reflector
	// leaves the kernel's routes alone.
	Reflector bool `json:"reflector,omitempty"`
	// Restarts has peers keep its routes while its daemon is away (RFC 4724); of BIRD only.
	// That it does so for others, all daemons do anyway.
	Restarts bool `json:"restarts,omitempty"`
	// Announce are networks that the router says are behind it.
	Announce []netip.Prefix `json:"announce,omitempty"`
	// Communities are those of what is announced: "65001:1", or large ones, "65001:1:2".
	Communities []string `json:"communities,omitempty"`
}

// Neighbor is a router to connect to, or whose connection is awaited. Its addresses of both
// families are two neighbors.
type Neighbor struct {
	Addr    netip.Addr `json:"addr"`
	AS      uint32     `json:"as"`
	Passive bool       `json:"passive,omitempty"`
}

// Router is one router of a lab. It holds no state of its own.
type Router struct {
	layout.Lab
	Name   string
	Daemon string
	// Addr and Addr6 are its addresses on the fabric; Addr6 is zero without IPv6.
	Addr, Addr6 netip.Addr
	// Place is where its programs run, and an error while the machine is off.
	Place func() (machine.Place, error) `json:"-"`
}

// Families are those that the router has an address of.
func (r *Router) Families() []family.Family {
	if r.Addr6.IsValid() {
		return family.All[:]
	}
	return family.All[:1]
}

// onFile is there while the daemon is to run.
const onFile = "/etc/router.on"

// Prepare makes the disk and the spec of the router's machine. layers are what Ready gave.
func (r *Router) Prepare(layers []string, hosts []byte, c Config) error {
	d, err := r.daemon()
	if err != nil {
		return err
	}
	dir, disk := r.Machine(r.Name), r.Disk(r.Name)
	if err := machine.MakeDisk(dir, r.Name, hosts); err != nil {
		return err
	}
	if err := d.furnish(disk); err != nil {
		return fmt.Errorf("prepare router %s: %w", r.Name, err)
	}
	if err := r.write(c); err != nil {
		return err
	}
	spec := machine.Spec{
		Hostname: r.Name, NetNS: r.NetNSPath(r.Name), Cgroup: r.Cgroup() + "/" + r.Name, Layers: layers,
		Sysctls: []machine.Sysctl{
			{Path: "net/ipv4/conf/all/rp_filter", Value: "0"},
			{Path: "net/ipv4/conf/eth0/rp_filter", Value: "0"},
		},
		Components: []machine.Component{{Name: d.name, Args: d.args, Env: host.GoEnv(), WaitPath: onFile, WaitTCP: d.after}},
	}
	if c.Reflector && r.Daemon == FRR {
		spec.Components[0].Args = append(spec.Components[0].Args, "--no_kernel")
	}
	if d.beside != nil {
		spec.Components = append([]machine.Component{*d.beside}, spec.Components...)
	}
	if !c.Reflector {
		// Nodes go on through it, as tests want to see, and not past it to each other.
		for _, name := range []string{"all", "default", "eth0"} {
			spec.Sysctls = append(spec.Sysctls, machine.Sysctl{Path: "net/ipv4/conf/" + name + "/send_redirects", Value: "0"})
		}
		spec.Sysctls = append(spec.Sysctls, machine.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"},
			machine.Sysctl{Path: "net/ipv4/fib_multipath_hash_policy", Value: "1"})
		if r.Addr6.IsValid() {
			spec.Sysctls = append(spec.Sysctls, machine.Sysctl{Path: "net/ipv6/conf/all/forwarding", Value: "1"},
				machine.Sysctl{Path: "net/ipv6/fib_multipath_hash_policy", Value: "1"})
		}
	}
	return spec.Save(dir)
}

// furnish puts on a disk what the daemon's package would.
func (d daemon) furnish(disk string) error {
	owner := 0
	for i, u := range d.users {
		id, err := addUser(disk, u)
		if err != nil {
			return err
		}
		if i == 0 {
			owner = id
		}
	}
	for _, name := range d.dirs {
		dir := filepath.Join(disk, name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chown(dir, owner, -1)); err != nil {
			return err
		}
	}
	files := map[string]string{onFile: ""}
	maps.Copy(files, d.files)
	for name, text := range files {
		path := filepath.Join(disk, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// user is a system user, or a group alone, that a daemon was built for.
type user struct {
	name, home string
	// member is, of a group without a user, who is in it.
	member string
	id     int
}

// addUser makes a user of a machine, and the group of the same name, unless the host has
// it, and returns its number.
func addUser(disk string, u user) (id int, err error) {
	if id, err = addLine(filepath.Join(disk, "etc/group"), u.name, fmt.Sprintf("x:%d:%s", u.id, u.member)); err != nil || u.member != "" {
		return id, err
	}
	return addLine(filepath.Join(disk, "etc/passwd"), u.name, fmt.Sprintf("x:%d:%d::%s:/usr/sbin/nologin", u.id, id, u.home))
}

// addLine adds a line to a file such as /etc/passwd unless it has the name, and returns the
// number that it has then.
func addLine(path, name, line string) (id int, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	line = name + ":" + line
	for l := range strings.Lines(string(b)) {
		if strings.HasPrefix(l, name+":") {
			line, b = l, nil
		}
	}
	if id, err = strconv.Atoi(strings.Split(line, ":")[2]); err != nil || b == nil {
		return id, err
	}
	return id, os.WriteFile(path, append(b, line+"\n"...), 0o644)
}

// Config is what the router was told last.
func (r *Router) Config() (c Config, err error) {
	b, err := os.ReadFile(r.configFile())
	if err != nil {
		return c, fmt.Errorf("read the configuration of router %s: %w", r.Name, err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read %s: %w", r.configFile(), err)
	}
	return c, nil
}

// Text is the daemon's configuration.
func (r *Router) Text() (string, error) {
	d, err := r.daemon()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(r.Disk(r.Name), d.config))
	if err != nil {
		return "", fmt.Errorf("read the configuration of router %s: %w", r.Name, err)
	}
	return string(b), nil
}

func (r *Router) configFile() string { return filepath.Join(r.Machine(r.Name), "router.json") }

// write keeps the configuration, and writes the daemon's.
func (r *Router) write(c Config) error {
	d, err := r.daemon()
	if err != nil {
		return err
	}
	text, err := Render(r.Daemon, r.Addr, r.Addr6, c)
	if err != nil {
		return fmt.Errorf("configure router %s: %w", r.Name, err)
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("configure router %s: %w", r.Name, err)
	}
	// A daemon reads its file as another user, in part.
	path, mode := filepath.Join(r.Disk(r.Name), d.config), os.FileMode(0o644)
	if r.Daemon == OpenBGPD { // which refuses what others can read
		mode = 0o600
	}
	err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), renameio.WriteFile(path, []byte(text), mode),
		renameio.WriteFile(r.configFile(), b, 0o600))
	if err != nil {
		return fmt.Errorf("configure router %s: %w", r.Name, err)
	}
	return nil
}

// LogFile is the log of the router's daemon, on this machine.
func (r *Router) LogFile() (string, error) {
	d, err := r.daemon()
	if err != nil {
		return "", err
	}
	return r.Lab.Log(r.Name, d.name), nil
}

// Log is what the daemon has logged.
func (r *Router) Log() (string, error) {
	path, err := r.LogFile()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the log of router %s: %w", r.Name, err)
	}
	return string(b), nil
}
