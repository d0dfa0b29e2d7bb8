package autodetect

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/manx-cni/manx/internal/family"
)

// The forms that the variables accept, for error messages and docs.
const (
	MethodForms = "first-found, interface=REGEX[,REGEX], skip-interface=REGEX[,REGEX], can-reach=IP-OR-NAME, " +
		"cidr=CIDR[,CIDR] or kubernetes-internal-ip"
	AddressForms  = `empty, autodetect, none, or this node's IPv4 address such as 10.0.0.5 or 10.0.0.5/24`
	AddressForms6 = `empty or none for a node without IPv6, autodetect, or this node's IPv6 address such as fd00::5 or fd00::5/64`
)

type kind int

const (
	firstFound kind = iota // the zero Method is the default one
	byInterface
	skipInterface
	canReach
	byCIDR
	internalIP
)

var prefixes = map[kind]string{
	byInterface:   "interface=",
	skipInterface: "skip-interface=",
	canReach:      "can-reach=",
	byCIDR:        "cidr=",
}

// Method is a parsed IP_AUTODETECTION_METHOD or IP6_AUTODETECTION_METHOD. The zero
// value is first-found.
type Method struct {
	kind    kind
	text    string
	names   []*regexp.Regexp // interface=, skip-interface=
	cidrs   []netip.Prefix   // cidr=
	reaches string           // can-reach=
}

// String returns the method as it was written.
func (m Method) String() string {
	if m.text == "" {
		return "first-found"
	}
	return m.text
}

// Equal tells whether both were written the same way.
func (m Method) Equal(o Method) bool { return m.String() == o.String() }

var comma = regexp.MustCompile(`\s*,\s*`)

// ParseMethod reads an IP_AUTODETECTION_METHOD. Regular expressions match
// anywhere in an interface's name, as they do in Calico: write ^eth0$ for an
// exact name. The error says what is wrong with s; MethodForms says what is
// accepted.
func ParseMethod(s string) (Method, error) { return parseMethod(family.IPv4, s) }

// ParseMethod6 reads an IP6_AUTODETECTION_METHOD in the same way.
func ParseMethod6(s string) (Method, error) { return parseMethod(family.IPv6, s) }

func parseMethod(f family.Family, s string) (Method, error) {
	switch s {
	case "", "first-found":
		return Method{text: s}, nil
	case "kubernetes-internal-ip":
		return Method{kind: internalIP, text: s}, nil
	}
	for k, prefix := range prefixes {
		rest, ok := strings.CutPrefix(s, prefix)
		if !ok {
			continue
		}
		m := Method{kind: k, text: s}
		var err error
		switch k {
		case byInterface, skipInterface:
			m.names, err = parseList(rest, "regular expression", regexp.Compile)
		case byCIDR:
			m.cidrs, err = parseCIDRs(f, rest)
		case canReach:
			m.reaches, err = rest, checkDestination(f, rest)
		}
		return m, err
	}
	return Method{}, errors.New("not an autodetection method")
}

func parseList[T any](s, what string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, item := range comma.Split(strings.TrimSpace(s), -1) {
		v, err := parse(item)
		if item == "" {
			return nil, fmt.Errorf("empty %s in the list", what)
		}
		if err != nil {
			return nil, fmt.Errorf("%q is not a %s", item, what)
		}
		out = append(out, v)
	}
	return out, nil
}

// parseCIDRs reads the ranges of cidr=. One of the other family could not match
// anything; for IPv4 it is let through all the same, as it always was.
func parseCIDRs(f family.Family, s string) ([]netip.Prefix, error) {
	if f == family.IPv4 {
		return parseList(s, "CIDR", netip.ParsePrefix)
	}
	return parseList(s, "CIDR of IPv6", func(item string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(item)
		if err == nil && !f.Has(p.Addr()) {
			err = errors.New("of the other family")
		}
		return p, err
	})
}

// checkDestination tells whether the kernel can be asked for the way to s. A
// link-local destination of IPv6 says nothing: its source is link-local too.
func checkDestination(f family.Family, s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		if !f.Has(a) || a.IsUnspecified() || a.IsMulticast() || f == family.IPv6 && a.IsLinkLocalUnicast() {
			return fmt.Errorf("%q is not an %s destination", s, f)
		}
		return nil
	}
	if s == "" || strings.ContainsAny(s, "/:, \t\n") {
		return fmt.Errorf("%q is neither an %s address nor a host name", s, f)
	}
	return nil
}

// excluded are the names that first-found and skip-interface pass over:
// container bridges, virtual machines' bridges and tunnels, which carry
// addresses that other nodes cannot reach. The list is Calico's; manx is ours.
var excluded = regexp.MustCompile(`^(docker|cbr|dummy|podman|virbr|lxcbr|veth|lo|br-|cali|tunl|flannel|kube-ipvs|cni|` +
	`vxlan\.calico|vxlan-v6\.calico|wireguard\.cali|wg-v6\.cali|nodelocaldns|manx)`)

type addressKind int

const (
	useStored addressKind = iota // the zero Address is the default one
	detect
	none
	explicit
)

// Address is a parsed value of the variable IP or IP6. The zero value means: keep
// the address stored on the Node, detect one when there is none; for IP6: none.
type Address struct {
	kind   addressKind
	prefix netip.Prefix // explicit
	bare   bool         // explicit, without a prefix length
}

// ParseAddress reads the variable IP. The error says what is wrong with s;
// AddressForms says what is accepted.
func ParseAddress(s string) (Address, error) { return parseAddress(family.IPv4, s) }

// ParseAddress6 reads the variable IP6; AddressForms6 says what is accepted.
func ParseAddress6(s string) (Address, error) { return parseAddress(family.IPv6, s) }

func parseAddress(f family.Family, s string) (Address, error) {
	switch s {
	case "":
		return Address{}, nil
	case "autodetect":
		return Address{kind: detect}, nil
	case "none":
		return Address{kind: none}, nil
	}
	out := Address{kind: explicit, bare: !strings.Contains(s, "/")}
	if out.bare {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return Address{}, fmt.Errorf("not an %s address", f)
		}
		out.prefix = netip.PrefixFrom(a, a.BitLen())
	} else {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Address{}, fmt.Errorf("not an %s address with a prefix length", f)
		}
		out.prefix = p
	}
	switch a := out.prefix.Addr(); {
	case !f.Has(a):
		return Address{}, fmt.Errorf("not an %s address", f)
	case !a.IsGlobalUnicast():
		return Address{}, errors.New("not a unicast address that other nodes can reach")
	case out.prefix.Bits() < f.Bits()-1 && a == out.prefix.Masked().Addr():
		// In IPv6 that is every router's anycast address (RFC 4291 §2.6.1).
		return Address{}, errors.New("the network's address, not a host's")
	}
	return out, nil
}

// None tells whether the variable switches the address off.
func (a Address) None() bool { return a.kind == none }

// Wanted tells whether IP6 asks for IPv6. (IP need not ask: every node has IPv4.)
func (a Address) Wanted() bool { return a.kind == detect || a.kind == explicit }

// Detects tells whether the address is to be detected again at every look,
// instead of being given or kept.
func (a Address) Detects() bool { return a.kind == detect }

// String returns the value in the form the variable has.
func (a Address) String() string {
	switch {
	case a.kind == detect:
		return "autodetect"
	case a.kind == none:
		return "none"
	case a.kind == explicit && a.bare:
		return a.prefix.Addr().String()
	case a.kind == explicit:
		return a.prefix.String()
	}
	return ""
}
