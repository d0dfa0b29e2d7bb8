// Package config turns the environment of manx-node into one typed, immutable
// value.
//
// Every setting is defined once, in settings.go: its name, default, accepted
// values, explanation and the field it fills. Parsing, error messages and the
// page docs/reference/settings.md all come from that definition, so none of
// them can disagree with the others.
//
// The variables and their values are Calico's. What Calico's manifests set but
// Manx has no use for is listed, with the reason, in api/settings: such a value is
// accepted, and reported when it asks for something that does not happen. A bad
// value stops the start; all bad values are reported together.
//
// The package reads nothing but its arguments and sits on no packet path.
package config

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
)

// Config is the configuration of manx-node. It is not changed after Parse.
type Config struct {
	NodeName     string // NODENAME; see ResolveNodeName
	NodeNameFile string
	hostname     string // HOSTNAME
	ClusterType  string

	Datastore Datastore
	Address   Address
	BGP       BGP
	Pool      Pool
	Pool6     Pool
	Dataplane Dataplane
	Health    Server
	Metrics   Server
	LogLevel  slog.Level

	given map[string]string // the variables that were set, with their values
}

// Datastore says how the Kubernetes API is reached.
type Datastore struct {
	Wait       bool   // until it answers, instead of failing
	Kubeconfig string // a file; empty: the pod's service account
}

// Address says how the node's own addresses are found.
type Address struct {
	IP     autodetect.Address
	Method autodetect.Method
	// IP6 and Method6 are the same for IPv6, where the default is none.
	IP6     autodetect.Address
	Method6 autodetect.Method
	// IPv6Support is Calico's switch; nil: as IP6 says, which is what decides.
	IPv6Support       *bool
	PollInterval      time.Duration // between looks for a changed address; 0: never
	SkipConflictCheck bool          // do not look for another node with the same address
}

// WantsIPv6 tells whether the node is to carry IPv6 beside IPv4.
func (a Address) WantsIPv6() bool { return a.IP6.Wanted() }

// Backend is who carries routes between nodes.
type Backend string

// The backends. BackendBGP is called bird, as in Calico, whose BGP speaker that was.
const (
	BackendBGP   Backend = "bird"
	BackendVXLAN Backend = "vxlan"
	BackendNone  Backend = "none"
)

// BGP holds the speaker's settings.
type BGP struct {
	Backend  Backend
	AS       uint32 // of this node; 0: the cluster's, from BGPConfiguration
	RouterID RouterID
}

// RouterID says how the BGP identifier is made. The zero value means: the
// node's IPv4 address.
type RouterID struct {
	Hash    bool
	Literal netip.Addr
}

// For returns the BGP identifier (RFC 4271 §4.2) of the named node. address is
// the node's IPv4 address.
func (r RouterID) For(node string, address netip.Addr) netip.Addr {
	switch {
	case r.Literal.IsValid():
		return r.Literal
	case r.Hash:
		sum := sha256.Sum256([]byte(node))
		if sum[0] > 223 { // stay below the multicast range, as Calico's template does
			sum[0] -= 32
		}
		return netip.AddrFrom4([4]byte(sum[:4]))
	}
	return address
}

// Pool describes the pool that is created when the cluster has none of its family.
type Pool struct {
	Skip             bool         // NO_DEFAULT_POOLS, or CIDR none
	CIDR             netip.Prefix // zero: kubeadm's podSubnet or a default range; of IPv6: no pool
	IPIP, VXLAN      v1.EncapMode // of IPv6: empty, never
	BlockSize        int          // prefix length
	NATOutgoing      bool
	NodeSelector     string
	DisableBGPExport bool
}

// NFTablesMode chooses the packet filter.
type NFTablesMode string

// The packet filter modes.
const (
	NFTablesAuto     NFTablesMode = "Auto"
	NFTablesEnabled  NFTablesMode = "Enabled"
	NFTablesDisabled NFTablesMode = "Disabled"
)

// Dataplane holds the settings of routes, links and rules.
type Dataplane struct {
	MTU          int           // of pod interfaces, in bytes; 0: the uplink's, less what encapsulation adds
	RouteRefresh time.Duration // between reads of the kernel's routes; 0: never
	NFTables     NFTablesMode
	// IPIPEnabled forces tunl0 on or off; nil: as FelixConfiguration or the pools say.
	IPIPEnabled *bool
	IPIPMTU     int // of tunl0 in bytes; 0: as FelixConfiguration says, or the uplink's less the header
	// WireGuardOff and WireGuardOffV6 are FELIX_WIREGUARDENABLED=false and its like for
	// IPv6: not encrypted, whatever a FelixConfiguration says.
	WireGuardOff, WireGuardOffV6 bool
	// HostOpen is a FELIX_DEFAULTENDPOINTTOHOSTACTION: pods reach their host, whatever
	// a FelixConfiguration says.
	HostOpen bool
	// AllowIPIPFromPods and AllowVXLANFromPods let pods send tunnel packets.
	AllowIPIPFromPods, AllowVXLANFromPods bool
}

// Server is an HTTP listener of the agent.
type Server struct {
	Enabled bool
	Host    string
	Port    uint16
}

// Addr returns host:port for net.Listen. localhost stands for 127.0.0.1, so that
// the agent needs no name service to start.
func (s Server) Addr() string {
	host := s.Host
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, s.Port)
}

// Given returns the value that the environment has for the named setting, if it
// is set and not empty.
func (c Config) Given(name string) (string, bool) {
	v, ok := c.given[name]
	return v, ok
}

// ResolveNodeName returns the name of the Kubernetes Node that this agent serves
// and where it comes from: NODENAME, the file CALICO_NODENAME_FILE, HOSTNAME, or
// the kernel's host name, in this order.
func (c Config) ResolveNodeName(readFile func(string) ([]byte, error), hostname func() (string, error)) (name, source string, err error) {
	if c.NodeName != "" {
		return c.NodeName, "NODENAME", nil
	}
	if b, err := readFile(c.NodeNameFile); err == nil && strings.TrimSpace(string(b)) != "" {
		name, source = strings.TrimSpace(string(b)), "file "+c.NodeNameFile
	} else if c.hostname != "" {
		name, source = strings.ToLower(strings.TrimSpace(c.hostname)), "HOSTNAME"
	} else if name, err = hostname(); err == nil {
		name, source = strings.ToLower(strings.TrimSpace(name)), "the kernel's host name"
	} else {
		return "", "", fmt.Errorf("node name: %w; want NODENAME to be the name of the Kubernetes Node", err)
	}
	if why := validation.IsDNS1123Subdomain(name); len(why) > 0 {
		return "", "", fmt.Errorf("node name %q from %s: not a name that a Node can have; want NODENAME to be the name of the Kubernetes Node",
			name, source)
	}
	return name, source, nil
}

// Warning is something in the environment that the user should know of and that
// does not stop the start.
type Warning struct {
	Name, Value string
	Text        string
}

// String returns NAME="value": text.
func (w Warning) String() string { return fmt.Sprintf("%s=%q: %s", w.Name, w.Value, w.Text) }

// Parse reads the environment, given as NAME=value strings. An empty value
// counts as not set; of a name given twice the last one counts. Names that begin
// with FELIX_ count in any case. The warnings are sorted by name. The error joins
// one line for every bad value, each naming the variable, its value and what is
// accepted.
func Parse(environ []string) (Config, []Warning, error) {
	c := Config{given: map[string]string{}}
	env, errs := variables(environ)
	var warnings []Warning
	for _, s := range settings {
		v := env[s.name]
		if v == "" {
			if _, err := s.parse(&c, s.preset); err != nil {
				errs = append(errs, fmt.Errorf("default of %s: %w", s.name, s.fault(s.preset, err)))
			}
			continue
		}
		c.given[s.name] = v
		note, err := s.parse(&c, v)
		if err != nil {
			errs = append(errs, s.fault(v, err))
		} else if note != "" {
			warnings = append(warnings, Warning{s.name, v, note})
		}
	}
	errs = append(errs, c.checkPools()...)
	w, err := c.checkIPv6()
	warnings, errs = append(warnings, w...), append(errs, err...)
	w, err = checkCompat(env)
	warnings, errs = append(warnings, w...), append(errs, err...)
	// Any value but a quiet one has just been refused.
	c.Dataplane.WireGuardOff, c.Dataplane.WireGuardOffV6 = env["FELIX_WIREGUARDENABLED"] != "", env["FELIX_WIREGUARDENABLEDV6"] != ""
	c.Dataplane.HostOpen = env["FELIX_DEFAULTENDPOINTTOHOSTACTION"] != ""
	warnings = append(warnings, unknown(env)...)
	slices.SortFunc(warnings, func(a, b Warning) int { return strings.Compare(a.Name, b.Name) })
	return c, warnings, errors.Join(errs...)
}

// variables reads NAME=value strings into a map. Felix lower-cases the names of its
// variables, so that there are manifests with FELIX_IpInIpMtu: such names are kept
// upper-cased. Two spellings of one must not differ, since nobody could tell which counts.
func variables(environ []string) (env map[string]string, errs []error) {
	env = map[string]string{}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			env[name] = value
		}
	}
	spelling := map[string]string{} // the one whose value was taken
	for _, name := range slices.Sorted(maps.Keys(env)) {
		upper := strings.ToUpper(name)
		if name == upper || !strings.HasPrefix(upper, "FELIX_") {
			continue
		}
		value, has := env[name], env[upper]
		delete(env, name)
		switch {
		case value == "":
		case has == "":
			env[upper], spelling[upper] = value, name
		case has != value:
			errs = append(errs, fmt.Errorf("%s=%q and %s=%q: two spellings of one variable with different values; want one of them unset",
				cmp.Or(spelling[upper], upper), has, name, value))
		}
	}
	return env, errs
}

// checkPools completes the default pools and reports settings of theirs that
// contradict one another.
func (c *Config) checkPools() (errs []error) {
	skip := isTrue(c.given["NO_DEFAULT_POOLS"])
	c.Pool6.Skip = c.Pool6.Skip || skip
	for _, f := range []struct {
		pool     Pool
		variable string // its start
		bits     int    // of an address
	}{{c.Pool, "CALICO_IPV4POOL", 32}, {c.Pool6, "CALICO_IPV6POOL", 128}} {
		p, cidr := f.pool, f.variable+"_CIDR"
		if v, ok := c.given[cidr]; ok && skip {
			errs = append(errs,
				fmt.Errorf("NO_DEFAULT_POOLS=%q with %s=%q: contradictory; want one of them unset", c.given["NO_DEFAULT_POOLS"], cidr, v))
		}
		if p.CIDR.IsValid() && p.BlockSize > 0 && p.BlockSize < p.CIDR.Bits() {
			errs = append(errs, fmt.Errorf("%s_BLOCK_SIZE=%d with %s=%q: a block is larger than the pool; want a block size of %d to %d",
				f.variable, p.BlockSize, cidr, c.given[cidr], p.CIDR.Bits(), f.bits))
		}
	}
	if p := c.Pool; encapsulates(p.IPIP) && encapsulates(p.VXLAN) {
		errs = append(errs,
			fmt.Errorf("CALICO_IPV4POOL_IPIP=%q with CALICO_IPV4POOL_VXLAN=%q: a pool has one encapsulation; want one of them Never",
				c.given["CALICO_IPV4POOL_IPIP"], c.given["CALICO_IPV4POOL_VXLAN"]))
	}
	return errs
}

// checkIPv6 reports settings of IPv6 that contradict one another, and those that do
// less than they seem to on a node without IPv6.
func (c *Config) checkIPv6() (warnings []Warning, errs []error) {
	a := c.Address
	if a.IPv6Support != nil && !*a.IPv6Support && a.WantsIPv6() {
		errs = append(errs, fmt.Errorf("FELIX_IPV6SUPPORT=%q with IP6=%q: contradictory; "+
			"want FELIX_IPV6SUPPORT true or unset for a node with IPv6, or IP6 none or unset for one without",
			c.given["FELIX_IPV6SUPPORT"], c.given["IP6"]))
	}
	if v, ok := c.given["IP6_AUTODETECTION_METHOD"]; ok && !a.IP6.Detects() {
		warnings = append(warnings, Warning{"IP6_AUTODETECTION_METHOD", v, "no effect: IP6 is not autodetect"})
	}
	if v, ok := c.given["CALICO_IPV6POOL_CIDR"]; ok && c.Pool6.CIDR.IsValid() && !a.WantsIPv6() {
		warnings = append(warnings, Warning{
			"CALICO_IPV6POOL_CIDR", v, "the pool is made, but this node has no IPv6: set IP6 to autodetect, or to the node's IPv6 address",
		})
	}
	return warnings, errs
}

func encapsulates(m v1.EncapMode) bool { return m != "" && m != v1.EncapNever }
