package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/manx-cni/manx/api/settings"
	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/ipam"
)

// Annotations of a pod by which its author asks for an address. Those of pools
// may stand on the namespace too, for all of its pods.
const (
	annotationPools4   = "cni.projectcalico.org/ipv4pools"
	annotationPools6   = "cni.projectcalico.org/ipv6pools"
	annotationAddrs    = "cni.projectcalico.org/ipAddrs"
	annotationFamilies = "cni.projectcalico.org/ipFamilies"
	annotationMAC      = "cni.projectcalico.org/hwAddr"
)

// What is accepted, for errors.
const (
	wantPools    = `want a JSON list of pool names or CIDRs, such as ["pool-a"]`
	wantAddrs    = `want a JSON list with one address of a family, such as ["10.244.0.9"] or ["10.244.0.9","fd00:10::9"]`
	wantFamilies = `want ["IPv4"], ["IPv6"] or ["IPv4","IPv6"]`
	wantMAC      = "want the hardware address of one interface, six bytes such as 0a:58:0a:f4:00:09"
)

// podMeta is what Kubernetes says of a pod that starts.
type podMeta struct {
	annotations     map[string]string // of the pod
	namespace       map[string]string // annotations of its namespace
	namespaceLabels map[string]string
}

// podWish is what a pod asks for, once pod, namespace and network configuration
// are weighed against each other: one address of each of its families.
type podWish struct {
	families        families
	pools4, pools6  []string     // names or CIDRs; empty: any pool that fits
	addrs           []netip.Addr // exactly these, one a family; of the other family any
	from            string       // who chose the pools or addresses, for errors; or ""
	from6           string       // who asks for IPv6, for errors; or ""
	namespaceLabels map[string]string
	mac             net.HardwareAddr // nil: the kernel's choice
}

// families are address families.
type families struct{ ipv4, ipv6 bool }

func (f families) has(a netip.Addr) bool { return a.Is4() && f.ipv4 || a.Is6() && f.ipv6 }

func familiesOf(addrs []netip.Addr) (f families) {
	for _, a := range addrs {
		f.ipv4, f.ipv6 = f.ipv4 || a.Is4(), f.ipv6 || a.Is6()
	}
	return f
}

// wishOf reads what a pod asks for. What the pod says beats what its namespace
// says, which beats the network configuration. An address and a hardware address are
// for one interface, the pod's eth0. An annotation that cannot be
// carried out is an error and not ignored: the pod would run with an address that
// its author does not expect. The errors are the author's to cure, and carry the
// code of an invalid configuration.
func wishOf(req nodeapi.AddRequest, meta podMeta) (podWish, error) {
	w := podWish{namespaceLabels: meta.namespaceLabels}
	own := func(annotation string) source { return source{req, "pod", annotation, meta.annotations[annotation]} }
	for _, e := range settings.PodAnnotations {
		if s := own(e.Name); e.Effect == settings.Refused && s.value != "" {
			return w, s.refuse(errors.New(e.Why))
		}
	}
	var err error
	if s := own(annotationMAC); s.value != "" && req.ID().Primary() {
		if w.mac, err = parseMAC(s.value); err != nil {
			return w, s.refuse(err)
		}
	}
	var pools4From, pools6From string
	if w.pools4, pools4From, err = poolsOf(req, meta, annotationPools4, req.IPv4Pools); err != nil {
		return w, err
	}
	if w.pools6, pools6From, err = poolsOf(req, meta, annotationPools6, req.IPv6Pools); err != nil {
		return w, err
	}
	w.families, w.from6 = families{req.IPv4, req.IPv6}, `ipam.assign_ipv6="true" of the network configuration`
	named := own(annotationFamilies)
	if named.value != "" {
		if w.families, err = parseFamilies(named.value); err != nil {
			return w, named.refuse(err)
		}
		w.from6 = named.String()
	}
	w.from = chooser(w.families, pools4From, pools6From)
	if s := own(annotationAddrs); s.value != "" && req.ID().Primary() {
		if w.addrs, err = parseAddrs(s.value); err != nil {
			return w, s.refuse(err)
		}
		for _, a := range w.addrs {
			if named.value != "" && !w.families.has(a) {
				return w, s.refuse(fmt.Errorf("%s is of a family that %s=%q leaves out; change one of them", a, annotationFamilies, named.value))
			}
		}
		w.takeAddrs(s.String(), named.value != "", pools4From, pools6From)
	}
	if w.families == (families{}) {
		return w, nodeapi.Errorf(nodeapi.CodeInvalidConfig,
			`ipam.assign_ipv4 is "false", and so is ipam.assign_ipv6; want "true" for at least one`)
	}
	return w, nil
}

// takeAddrs lets the addresses that a pod names decide. They say which families it
// has, unless ipFamilies does: then a family without a named address gets any. An
// address that is named is in whatever pool it is in.
func (w *podWish) takeAddrs(from string, familiesNamed bool, pools4From, pools6From string) {
	exact := familiesOf(w.addrs)
	if !familiesNamed {
		w.families, w.from6 = exact, from
	}
	if exact.ipv4 || !w.families.ipv4 {
		w.pools4, pools4From = nil, ""
	}
	if exact.ipv6 || !w.families.ipv6 {
		w.pools6, pools6From = nil, ""
	}
	w.from = from
	if pools := pools4From + pools6From; pools != "" { // of the other family, if any
		w.from += " and the " + pools
	}
}

// chooser names who chose the pools, for errors.
func chooser(f families, pools4From, pools6From string) string {
	switch {
	case pools4From == "" || !f.ipv4:
		return pools6From
	case pools6From == "" || !f.ipv6 || pools6From == pools4From:
		return pools4From
	}
	return pools4From + " and the " + pools6From
}

// request asks IPAM for it.
func (w podWish) request(handle string, attrs map[string]string) ipam.Request {
	r := ipam.Request{
		Handle: handle, Attrs: attrs, Use: apiv1.UseWorkload,
		Pools4: w.pools4, Pools6: w.pools6, Addrs: w.addrs, NamespaceLabels: w.namespaceLabels,
	}
	if w.families.ipv4 {
		r.Num4 = 1
	}
	if w.families.ipv6 {
		r.Num6 = 1
	}
	return r
}

// source is where a pod's wish stands.
type source struct {
	req               nodeapi.AddRequest
	on                string // pod or namespace
	annotation, value string
}

func (s source) String() string { return fmt.Sprintf("annotation %s of its %s", s.annotation, s.on) }

// refuse says which annotation of what is wrong, and why.
func (s source) refuse(why error) error {
	name := s.req.Namespace
	if s.on == "pod" {
		name += "/" + s.req.Pod
	}
	return nodeapi.Errorf(nodeapi.CodeInvalidConfig, "%s %s: annotation %s=%q: %v", s.on, name, s.annotation, excerpt.Value(s.value), why)
}

// poolsOf returns the pools that somebody chose, and who did.
func poolsOf(req nodeapi.AddRequest, meta podMeta, annotation string, configured []string) (pools []string, from string, err error) {
	s := source{req, "pod", annotation, meta.annotations[annotation]}
	if s.value == "" {
		s.on, s.value = "namespace", meta.namespace[annotation]
	}
	if s.value == "" {
		if len(configured) > 0 {
			from = "network configuration"
		}
		return configured, from, nil
	}
	pools, err = stringList(s.value)
	if err != nil || slices.Contains(pools, "") {
		return nil, "", s.refuse(errors.New(wantPools))
	}
	return pools, s.String(), nil
}

// stringList reads a JSON list of strings and trims each.
func stringList(text string) (list []string, err error) {
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	if list == nil {
		return nil, errors.New("null is no list")
	}
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list, nil
}

// parseFamilies reads which families a pod asks for.
func parseFamilies(text string) (f families, err error) {
	list, err := stringList(text)
	if err != nil || len(list) == 0 {
		return f, errors.New(wantFamilies)
	}
	for _, name := range list {
		switch {
		case strings.EqualFold(name, "IPv4"):
			f.ipv4 = true
		case strings.EqualFold(name, "IPv6"):
			f.ipv6 = true
		default:
			return f, fmt.Errorf("%q is no address family; %s", excerpt.Value(name), wantFamilies)
		}
	}
	return f, nil
}

// parseAddrs reads the addresses that a pod asks for: at most one a family.
func parseAddrs(text string) ([]netip.Addr, error) {
	list, err := stringList(text)
	if err != nil || len(list) == 0 {
		return nil, errors.New(wantAddrs)
	}
	var addrs []netip.Addr
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil || a.Is4In6() || a.Zone() != "":
			return nil, fmt.Errorf("%q is no address; %s", excerpt.Value(s), wantAddrs)
		case familiesOf(addrs).has(a):
			return nil, fmt.Errorf("a pod has one address of a family; %s", wantAddrs)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// parseMAC reads the hardware address of a pod's interface.
func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(strings.TrimSpace(text))
	switch {
	case err != nil || len(mac) != 6 || slices.Equal(mac, make([]byte, 6)):
		return nil, errors.New(wantMAC)
	case mac[0]&1 != 0: // IEEE 802: the group bit
		return nil, fmt.Errorf("it is the address of a group; %s", wantMAC)
	case slices.Equal(mac, veth.HostMAC):
		return nil, fmt.Errorf("it is the address of the pod's gateway; %s", wantMAC)
	}
	return mac, nil
}
