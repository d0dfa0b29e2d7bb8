// Package caps finds out what this node's kernel can do for pod networking.
//
// It owns nothing and changes nothing it can avoid changing: it reads /proc and
// /sys, and asks the kernel for links that cannot exist. Only asking for a
// tunnel kind may make the kernel load its module, except for ipip, which is
// not asked for: that module puts a tunl0 into every network namespace, and is
// loaded by felix/tunnel once a pool wants it.
package caps

import (
	"io/fs"
	"os"
	"strings"
)

// Capability is one thing the kernel can or cannot do.
type Capability struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Detail is a version, or says why not.
	Detail string `json:"detail,omitempty"`
}

// The names of capabilities.
const (
	Forwarding  = "ip_forward"
	Forwarding6 = "ipv6_forwarding"
	Nftables    = "nftables"
	VXLAN       = "vxlan"
	WireGuard   = "wireguard"
	IPIP        = "ipip"
)

// Prober asks the kernel.
type Prober interface {
	KnowsLinkKind(kind string) (bool, error)
}

// Once is a Prober that asks another one only once about each kind: asking for
// a module that is not there makes the kernel look for it every time.
func Once(p Prober) Prober { return once{p, map[string]bool{}} }

type once struct {
	Prober
	answers map[string]bool
}

func (o once) KnowsLinkKind(kind string) (bool, error) {
	if known, asked := o.answers[kind]; asked {
		return known, nil
	}
	known, err := o.Prober.KnowsLinkKind(kind)
	if err == nil {
		o.answers[kind] = known
	}
	return known, err
}

// Config is where to look.
type Config struct {
	// Root is the root of the file system; os.DirFS("/") when nil.
	Root fs.FS
	// IPv6 says that the node has IPv6, so that its forwarding matters.
	IPv6 bool
	// Prober may be nil: then nothing is asked of the kernel.
	Prober Prober
	// NftVersion is empty when there is no usable nft, and NftError says why.
	NftVersion, NftError string
}

// Probe looks at everything, in a fixed order.
func Probe(cfg Config) []Capability {
	if cfg.Root == nil {
		cfg.Root = os.DirFS("/")
	}
	all := []Capability{forwarding(cfg, Forwarding, "net/ipv4/ip_forward")}
	if cfg.IPv6 {
		all = append(all, forwarding(cfg, Forwarding6, "net/ipv6/conf/all/forwarding"))
	}
	return append(all, []Capability{
		{Name: Nftables, OK: cfg.NftVersion != "", Detail: cfg.NftVersion + cfg.NftError},
		kind(cfg, VXLAN),
		kind(cfg, WireGuard),
		ipip(cfg),
	}...)
}

// forwarding reads a sysctl, given by its path below /proc/sys.
func forwarding(cfg Config, name, path string) Capability {
	b, err := fs.ReadFile(cfg.Root, "proc/sys/"+path)
	if err != nil {
		return Capability{Name: name, Detail: err.Error()}
	}
	v := strings.TrimSpace(string(b))
	return Capability{Name: name, OK: v == "1", Detail: strings.ReplaceAll(path, "/", ".") + " = " + v}
}

func kind(cfg Config, name string) Capability {
	if cfg.Prober == nil {
		return Capability{Name: name, Detail: "not probed"}
	}
	ok, err := cfg.Prober.KnowsLinkKind(name)
	switch {
	case err != nil:
		return Capability{Name: name, Detail: err.Error()}
	case !ok:
		return Capability{Name: name, Detail: "the kernel has no such link kind and no module for it"}
	}
	return Capability{Name: name, OK: true}
}

func ipip(cfg Config) Capability {
	for _, p := range []string{"sys/module/ipip", "sys/class/net/tunl0"} {
		if _, err := fs.Stat(cfg.Root, p); err == nil {
			return Capability{Name: IPIP, OK: true}
		}
	}
	return Capability{Name: IPIP, Detail: "module ipip is not loaded; it is loaded when a pool asks for IPIP"}
}
