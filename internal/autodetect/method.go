package autodetect

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// The forms that the two variables accept, for error messages and docs.
const (
	MethodForms = "first-found, interface=REGEX[,REGEX], skip-interface=REGEX[,REGEX], can-reach=IP-OR-NAME, " +
		"cidr=CIDR[,CIDR] or kubernetes-internal-ip"
	AddressForms = `empty, autodetect, none, or this node's IPv4 address such as 10.0.0.5 or 10.0.0.5/24`
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

// Method is a parsed IP_AUTODETECTION_METHOD. The zero value is first-found.
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
func ParseMethod(s string) (Method, error) {
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
			m.cidrs, err = parseList(rest, "CIDR", netip.ParsePrefix)
		case canReach:
			m.reaches, err = rest, checkDestination(rest)
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

func checkDestination(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		if !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("%q is not an IPv4 destination", s)
		}
		return nil
	}
	if s == "" || strings.ContainsAny(s, "/:, \t\n") {
		return fmt.Errorf("%q is neither an IPv4 address nor a host name", s)
	}
	return nil
}

// excluded are the names that first-found and skip-interface pass over:
// container bridges, virtual machines' bridges and tunnels, which carry
// addresses that other nodes can not reach. The list is Calico's; manx is ours.
var excluded = regexp.MustCompile(`^(docker|cbr|dummy|podman|virbr|lxcbr|veth|lo|br-|cali|tunl|flannel|kube-ipvs|cni|` +
	`vxlan\.calico|vxlan-v6\.calico|wireguard\.cali|wg-v6\.cali|nodelocaldns|manx)`)

type addressKind int

const (
	useStored addressKind = iota // the zero Address is the default one
	detect
	none
	explicit
)

// Address is a parsed value of the variable IP. The zero value means: keep the
// address stored on the Node, detect one when there is none.
type Address struct {
	kind   addressKind
	prefix netip.Prefix // explicit
	bare   bool         // explicit, without a prefix length
}

// ParseAddress reads the variable IP. The error says what is wrong with s;
// AddressForms says what is accepted.
func ParseAddress(s string) (Address, error) {
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
		if err != nil {
			return Address{}, errors.New("not an IPv4 address")
		}
		out.prefix = netip.PrefixFrom(a, a.BitLen())
	} else {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Address{}, errors.New("not an IPv4 address with a prefix length")
		}
		out.prefix = p
	}
	switch a := out.prefix.Addr(); {
	case !a.Is4():
		return Address{}, errors.New("not an IPv4 address")
	case !a.IsGlobalUnicast():
		return Address{}, errors.New("not a unicast address that other nodes can reach")
	case out.prefix.Bits() < 31 && a == out.prefix.Masked().Addr():
		return Address{}, errors.New("the network's address, not a host's")
	}
	return out, nil
}

// None tells whether the variable switches the address off.
func (a Address) None() bool { return a.kind == none }

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
