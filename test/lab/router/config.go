package router

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/manx-cni/manx/internal/family"
)

// Render is the configuration of a daemon at addr, and addr6 when that is valid.
func Render(name string, addr, addr6 netip.Addr, c Config) (string, error) {
	if err := c.check(addr6.IsValid()); err != nil {
		return "", err
	}
	if c.Password != "" && len(c.Ranges) > 0 && (name == GoBGP || name == OpenBGPD) {
		// They know the system call for one address only (TCP_MD5SIG, not TCP_MD5SIG_EXT).
		return "", fmt.Errorf("%s has no password for a range of peers: name each, as a neighbor", name)
	}
	if c.Restarts && name != BIRD {
		return "", fmt.Errorf("%s does not ask its peers to keep its routes: %s does", name, BIRD)
	}
	passive := func(n Neighbor) bool { return n.Passive }
	if c.Password != "" && name == OpenBGPD && slices.ContainsFunc(c.Neighbors, passive) {
		return "", fmt.Errorf("%s has a password for connections of its own only, not for those that it accepts: "+
			"name neighbors that are not passive", name)
	}
	t, ok := templates[name]
	if !ok {
		return "", Check(name)
	}
	m := model{Config: c, ID: addr, Dual: addr6.IsValid()}
	for _, f := range family.All {
		v := view{model: &m, Version: 4, Addr: addr}
		if f == family.IPv6 {
			if !addr6.IsValid() {
				continue
			}
			v.Version, v.Addr = 6, addr6
		}
		for _, p := range c.Ranges {
			if family.Of(p.Addr()) == f {
				v.Ranges = append(v.Ranges, p)
			}
		}
		for _, p := range c.Announce {
			if family.Of(p.Addr()) == f {
				v.Announce = append(v.Announce, p)
			}
		}
		for _, n := range c.Neighbors {
			if family.Of(n.Addr) == f {
				v.Neighbors = append(v.Neighbors, n)
			}
		}
		m.Families = append(m.Families, v)
	}
	var b strings.Builder
	if err := t.Execute(&b, m); err != nil {
		return "", err
	}
	return b.String(), nil
}

func (c Config) check(dual bool) error {
	if c.AS == 0 || len(c.Ranges) > 0 && c.PeerAS == 0 {
		return errors.New("a router without AS, or with peers without one")
	}
	// It is quoted in none of the daemons' files as they would have it.
	if strings.ContainsAny(c.Password, "\"\\ \t\n#") {
		return fmt.Errorf("password %q: want no spaces, quotes, backslashes and hashes", c.Password)
	}
	for _, p := range slices.Concat(c.Ranges, c.Announce) {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is6() && !dual {
			return fmt.Errorf("network %s: want one with no bits beyond its length, and IPv6 only where the router has it", p)
		}
	}
	for _, text := range c.Communities {
		if !community.MatchString(text) {
			return fmt.Errorf("community %q: want two or three numbers, such as 65001:1", text)
		}
	}
	for _, n := range c.Neighbors {
		if !n.Addr.IsValid() || n.AS == 0 || n.Addr.Is6() && !dual {
			return fmt.Errorf("neighbor %v of AS %d: want both, and IPv6 only where the router has it", n.Addr, n.AS)
		}
	}
	return nil
}

var community = regexp.MustCompile(`^[0-9]+:[0-9]+(:[0-9]+)?$`)

// Standard and Large are the communities of the two kinds.
func (c Config) Standard() []string { return c.communities(1) }

// Large are the large ones (RFC 8092).
func (c Config) Large() []string { return c.communities(2) }

func (c Config) communities(colons int) (list []string) {
	for _, text := range c.Communities {
		if strings.Count(text, ":") == colons {
			list = append(list, text)
		}
	}
	return list
}

// model is what the templates see.
type model struct {
	Config
	ID       netip.Addr
	Dual     bool
	Families []view
}

// view is one family of it.
type view struct {
	*model
	Version   int
	Addr      netip.Addr
	Ranges    []netip.Prefix
	Announce  []netip.Prefix
	Neighbors []Neighbor
}

// Client reports whether peers of an AS are clients of this reflector.
func (m *model) Client(as uint32) bool { return m.Reflector && as == m.AS }

// Multihop reports whether peers of an AS may be beyond another router: internal ones are
// known by their addresses, wherever these are, unless the TTL is watched.
func (m *model) Multihop(as uint32) bool { return as == m.AS && !m.TTLSecurity }

var templates = map[string]*template.Template{
	BIRD: parse("bird", `router id {{.ID}};
log stderr all;
debug protocols { states, events };
protocol device { }
{{range .Families}}
protocol direct direct{{.Version}} { ipv{{.Version}}; interface "eth0"; }
{{- if .Announce}}
protocol static announced{{.Version}} {
	ipv{{.Version}};
{{- range .Announce}}
	route {{.}} blackhole
{{- if $.Communities}} {
{{- range $.Standard}} bgp_community.add(({{commas .}}));{{end}}
{{- range $.Large}} bgp_large_community.add(({{commas .}}));{{end}} }{{end}};
{{- end}}
}
{{- end}}
{{- if not .Reflector}}
protocol kernel kernel{{.Version}} {
	merge paths on limit 64;
	ipv{{.Version}} { import none; export where source = RTS_BGP; };
}
{{- end}}
{{- $family := .}}
{{- range $i, $net := .Ranges}}
protocol bgp range{{$family.Version}}x{{$i}} {
	local {{$family.Addr}} as {{$family.AS}};
	neighbor range {{$net}} as {{$family.PeerAS}};
	dynamic name "peer{{$family.Version}}x{{$i}}x";
	passive on; error wait time 1, 2;
{{- template "session" (peer $family $family.PeerAS)}}
}
{{- end}}
{{- range $i, $n := .Neighbors}}
protocol bgp neighbor{{$family.Version}}x{{$i}} {
	local {{$family.Addr}} as {{$family.AS}};
	neighbor {{.Addr}} as {{.AS}};
{{- if .Passive}}
	passive on;
{{- else}}
	connect delay time 1; connect retry time 2; error wait time 1, 2;
{{- end}}
{{- template "session" (peer $family .AS)}}
}
{{- end}}
{{end}}
{{- define "session"}}
	{{if .Multihop}}multihop{{else}}direct{{end}};
	graceful restart {{if .Restarts}}on{{else}}aware{{end}};
{{- if .Password}}
	password "{{.Password}}";
{{- end}}
{{- if .TTLSecurity}}
	ttl security on;
{{- end}}
{{- if .Client}}
	rr client;
{{- end}}
	ipv{{.Version}} { import all; export where source ~ [ RTS_BGP, RTS_STATIC ]; };
{{- end}}`),

	FRR: parse("frr", `frr defaults traditional
log stdout informational
!
{{- if .Communities}}
route-map ANNOUNCED permit 10
{{- with .Standard}}
 set community{{range .}} {{.}}{{end}}
{{- end}}
{{- with .Large}}
 set large-community{{range .}} {{.}}{{end}}
{{- end}}
exit
!
{{- end}}
router bgp {{.AS}}
 bgp router-id {{.ID}}
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 bgp listen limit 1000
 bgp bestpath as-path multipath-relax
 coalesce-time 0
{{- range .Families}}
{{- $family := .}}
{{- if .Ranges}}
 neighbor RANGE{{.Version}} peer-group
{{- template "session" (named $family (print "RANGE" .Version) .PeerAS)}}
{{- range .Ranges}}
 bgp listen range {{.}} peer-group RANGE{{$family.Version}}
{{- end}}
{{- end}}
{{- range .Neighbors}}
{{- template "session" (named $family (print .Addr) .AS)}}
{{- if .Passive}}
 neighbor {{.Addr}} passive
{{- else}}
 neighbor {{.Addr}} timers connect 2
{{- end}}
{{- end}}
 !
 address-family ipv{{.Version}} unicast
{{- range .Announce}}
  network {{.}}{{if $.Communities}} route-map ANNOUNCED{{end}}
{{- end}}
{{- if .Ranges}}
{{- template "activate" (named $family (print "RANGE" .Version) .PeerAS)}}
{{- end}}
{{- range .Neighbors}}
{{- template "activate" (named $family (print .Addr) .AS)}}
{{- end}}
  maximum-paths 64
  maximum-paths ibgp 64
 exit-address-family
{{- end}}
exit
!
{{- define "session"}}
 neighbor {{.Name}} remote-as {{.As}}
{{- if .Password}}
 neighbor {{.Name}} password {{.Password}}
{{- end}}
{{- if .TTLSecurity}}
 neighbor {{.Name}} ttl-security hops 1
{{- end}}
{{- end}}
{{- define "activate"}}
  neighbor {{.Name}} activate
  neighbor {{.Name}} soft-reconfiguration inbound
{{- if .Client}}
  neighbor {{.Name}} route-reflector-client
{{- end}}
{{- end}}
`),

	GoBGP: parse("gobgp", `[global.config]
  as = {{.AS}}
  router-id = "{{.ID}}"
[global.use-multiple-paths.config]
  enabled = true
{{- range .Families}}
{{- $family := .}}
{{- if .Ranges}}
[[peer-groups]]
  [peer-groups.config]
    peer-group-name = "range{{.Version}}"
    peer-as = {{.PeerAS}}
{{- if .Password}}
    auth-password = "{{.Password}}"
{{- end}}
{{- template "session" (named $family "peer-groups" .PeerAS)}}
{{- end}}
{{- range .Ranges}}
[[dynamic-neighbors]]
  [dynamic-neighbors.config]
    prefix = "{{.}}"
    peer-group = "range{{$family.Version}}"
{{- end}}
{{- range .Neighbors}}
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{{.Addr}}"
    peer-as = {{.AS}}
{{- if $family.Password}}
    auth-password = "{{$family.Password}}"
{{- end}}
  [neighbors.timers.config]
    connect-retry = 2
    idle-hold-time-after-reset = 2
{{- if .Passive}}
  [neighbors.transport.config]
    passive-mode = true
{{- end}}
{{- template "session" (named $family "neighbors" .AS)}}
{{- end}}
{{- end}}
{{- define "session"}}
  [{{.Name}}.graceful-restart.config]
    enabled = true
    helper-only = true
{{- if .TTLSecurity}}
  [{{.Name}}.ttl-security.config]
    enabled = true
    ttl-min = 255
{{- end}}
{{- if .Client}}
  [{{.Name}}.route-reflector.config]
    route-reflector-client = true
    route-reflector-cluster-id = "{{.ID}}"
{{- end}}
  [[{{.Name}}.afi-safis]]
    [{{.Name}}.afi-safis.config]
      afi-safi-name = "ipv{{.Version}}-unicast"
    [{{.Name}}.afi-safis.mp-graceful-restart.config]
      enabled = true
{{- end}}
`),

	OpenBGPD: parse("openbgpd", `AS {{.AS}}
router-id {{.ID}}
socket "`+openbgpSocket+`"
fib-update no
nexthop qualify via default
connect-retry 2
{{- range .Families}}
listen on {{.Addr}}
{{- range .Announce}}
network {{.}}
{{- if $.Communities}} set {
{{- range $.Standard}} community {{.}}{{end}}
{{- range $.Large}} large-community {{.}}{{end}} }{{end}}
{{- end}}
{{- end}}
{{- range .Families}}
{{- $family := .}}
{{- range .Ranges}}
neighbor {{.}} {
	passive
{{- template "session" (peer $family $family.PeerAS)}}
}
{{- end}}
{{- range .Neighbors}}
neighbor {{.Addr}} {
{{- if .Passive}}
	passive
{{- end}}
{{- template "session" (peer $family .AS)}}
}
{{- end}}
{{- end}}
allow from any
allow to any
{{- define "session"}}
	remote-as {{.As}}
	local-address {{.Addr}}
	announce IPv4 {{if eq .Version 4}}unicast{{else}}none{{end}}
	announce IPv6 {{if eq .Version 6}}unicast{{else}}none{{end}}
	announce restart yes
{{- if .Password}}
	tcp md5sig password {{.Password}}
{{- end}}
{{- if .TTLSecurity}}
	ttl-security yes
{{- end}}
{{- if .Client}}
	route-reflector
{{- end}}
{{- end}}
`),
}

// peering is what the templates see of one kind of session.
type peering struct {
	view
	Name string
	As   uint32
}

// Client is that of the peer's AS.
func (p peering) Client() bool { return p.view.Client(p.As) }

// Multihop is that of the peer's AS.
func (p peering) Multihop() bool { return p.view.Multihop(p.As) }

func parse(name, text string) *template.Template {
	return template.Must(template.New(name).Funcs(template.FuncMap{
		"commas": func(text string) string { return strings.ReplaceAll(text, ":", ",") },
		"peer":   func(v view, as uint32) peering { return peering{view: v, As: as} },
		"named":  func(v view, name string, as uint32) peering { return peering{view: v, Name: name, As: as} },
	}).Option("missingkey=error").Parse(text))
}
