// Package attachment names one interface of one container: the unit that CNI adds and
// deletes. A pod may have several, of one network or of many, and each has an address,
// a host side and a life of its own.
//
// The name is spelled in two places, and both are all that is left of it after a
// restart: as the IPAM handle under which the address is assigned, and as the alias of
// the host side of the veth (IFLA_IFALIAS), "manx:" and the handle.
//
//	k8s-pod-network.4f1c…                the interface eth0, as Calico spells it
//	k8s-pod-network.4f1c….if-net1        any other interface
//
// A network's name and a container ID may contain dots (CNI specification, section 2),
// so text alone does not say where one ends. Three rules make the spelling unambiguous,
// and the reading a comparison of fields rather than of prefixes:
//
//   - The short form is for eth0 of a container whose ID has no dot, which are all that
//     container runtimes make. Its last dot is the separator.
//   - The long form has the container ID and the interface name with every byte but
//     a-z and 0-9 written as "x-HH": neither contains a dot, and its last label begins
//     with "if-". Upper case is written so too, because the IPAMHandle object's name is
//     the handle's lower case.
//   - A container ID that itself begins with "if-" has the long form.
//
// What versions before the long form wrote has the short form for every interface and
// every ID, and is read as eth0's.
//
// The package is a leaf, linked into the CNI plugin.
package attachment

import "strings"

const (
	// DefaultIfName is the interface that Kubernetes' runtimes ask for.
	DefaultIfName = "eth0"
	// AliasPrefix starts the alias of every host side that Manx made.
	AliasPrefix = "manx:"

	longMark = "if-"
)

// ID names one interface of one container on a node.
type ID struct {
	Network     string // name of the CNI network
	ContainerID string
	IfName      string // in the container; empty is eth0
}

// Primary reports whether it is the interface whose address is the pod's.
func (id ID) Primary() bool { return id.IfName == "" || id.IfName == DefaultIfName }

// Handle spells the name as an IPAM handle.
func (id ID) Handle() string {
	if id.Primary() && !strings.Contains(id.ContainerID, ".") && !strings.HasPrefix(id.ContainerID, longMark) {
		return id.Network + "." + id.ContainerID
	}
	ifName := id.IfName
	if ifName == "" {
		ifName = DefaultIfName
	}
	return id.Network + "." + Escape(id.ContainerID) + "." + longMark + Escape(ifName)
}

// Alias spells the name as the alias of the host side.
func (id ID) Alias() string { return AliasPrefix + id.Handle() }

// Short spells the name as versions did that had no long form: the same for all
// interfaces of a container in one network.
func (id ID) Short() string { return id.Network + "." + id.ContainerID }

// tunnels start the handles under which nodes have the addresses of their tunnels, as
// Calico names them; the node's name follows, which may contain dots.
var tunnels = []string{
	"ipip-tunnel-addr-", "vxlan-tunnel-addr-", "vxlan-v6-tunnel-addr-", "wireguard-tunnel-addr-", "wireguard-v6-tunnel-addr-",
}

// Reserved reports whether handles of a network of that name could be those of a
// tunnel: ipip-tunnel-addr-node1.example is network "ipip-tunnel-addr-node1" and
// container "example", and the tunnel of node "node1.example".
func Reserved(network string) bool {
	for _, t := range tunnels {
		if strings.HasPrefix(network, t) {
			return true
		}
	}
	return false
}

// ParseHandle reads a handle. ok is false for what can be no attachment's.
func ParseHandle(handle string) (id ID, ok bool) {
	rest, last, ok := cutLast(handle)
	if !ok {
		return ID{}, false
	}
	if name, long := strings.CutPrefix(last, longMark); long {
		if network, container, ok := cutLast(rest); ok {
			id := ID{Network: network, ContainerID: unescape(container), IfName: unescape(name)}
			if id.Handle() == handle {
				return id, true
			}
		}
	}
	return ID{Network: rest, ContainerID: last, IfName: DefaultIfName}, true
}

// ParseAlias reads an alias. ok is false when it is not one of ours.
func ParseAlias(alias string) (id ID, ok bool) {
	handle, ok := strings.CutPrefix(alias, AliasPrefix)
	if !ok {
		return ID{}, false
	}
	return ParseHandle(handle)
}

// cutLast cuts at the last dot, if there is something on both of its sides.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i <= 0 || i == len(s)-1 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// Escape writes every byte but a-z and 0-9 as "x-HH", so that the result can stand
// between separators, in a file's name and in the name of a Kubernetes object.
func Escape(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range []byte(s) {
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteString("x-")
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

func plain(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// unescape undoes Escape; what Escape cannot have written it leaves as it is.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == 'x' && i+3 < len(s) && s[i+1] == '-' {
			high, low := digit(s[i+2]), digit(s[i+3])
			if high >= 0 && low >= 0 {
				b.WriteByte(byte(high<<4 | low))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func digit(c byte) int { return strings.IndexByte("0123456789abcdef", c) }
