package startup

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/family"
)

const (
	defaultPool      = "default-ipv4-ippool"
	defaultPool6     = "default-ipv6-ippool"
	kubeadmConfigMap = "kubeadm-config" // in kube-system, written by kubeadm init
	defaultRange     = "192.168.0.0/16"
)

// kubeadmConfig returns kubeadm's ConfigMap, nil on a cluster that kubeadm did
// not make or does not show to the agent.
func (s *Startup) kubeadmConfig(ctx context.Context) (*corev1.ConfigMap, error) {
	var cm *corev1.ConfigMap
	err := s.ask(ctx, fmt.Sprintf("read ConfigMap %s/%s", metav1.NamespaceSystem, kubeadmConfigMap),
		requestTimeout, func(ctx context.Context) error {
			got, err := s.Kubernetes.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, kubeadmConfigMap, metav1.GetOptions{})
			switch {
			case err == nil:
				cm = got
			case apierrors.IsNotFound(err), refused(err):
				return nil
			}
			return err
		})
	return cm, err
}

// podSubnet reads the first IPv4 range of networking.podSubnet, a comma-separated
// list on dual-stack clusters. It is the zero Prefix when there is none.
func podSubnet(cm *corev1.ConfigMap) (netip.Prefix, error) {
	var cfg struct {
		Networking struct {
			PodSubnet string `json:"podSubnet"`
		} `json:"networking"`
	}
	if cm == nil {
		return netip.Prefix{}, nil
	}
	if err := yaml.Unmarshal([]byte(cm.Data["ClusterConfiguration"]), &cfg); err != nil {
		return netip.Prefix{}, fmt.Errorf("ClusterConfiguration is not YAML: %w", err)
	}
	for part := range strings.SplitSeq(cfg.Networking.PodSubnet, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("podSubnet %q is not a CIDR", part)
		}
		if p.Addr().Is4() {
			return p.Masked(), nil
		}
	}
	return netip.Prefix{}, nil
}

// freeRange returns the default range, or the first of 172.16.0.0/16 to
// 172.31.0.0/16 in which this host has no address when it has one in the former.
func freeRange(ifaces []autodetect.Interface) (netip.Prefix, error) {
	ranges := []netip.Prefix{netip.MustParsePrefix(defaultRange)}
	for i := byte(16); i < 32; i++ {
		ranges = append(ranges, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, i, 0, 0}), 16))
	}
	for _, r := range ranges {
		if _, taken := addressIn(ifaces, r); !taken {
			return r, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("choose a default pool: this host has an address in each of %s and 172.16.0.0/16 to 172.31.0.0/16; "+
		"want CALICO_IPV4POOL_CIDR to be a range that is free, e.g. 10.244.0.0/16", defaultRange)
}

func addressIn(ifaces []autodetect.Interface, r netip.Prefix) (netip.Addr, bool) {
	for _, i := range ifaces {
		for _, p := range i.Addrs {
			if r.Contains(p.Addr()) {
				return p.Addr(), true
			}
		}
	}
	return netip.Addr{}, false
}

// ensurePools creates the default pool of each family that the cluster has no pool
// of. Where existing ones differ from the environment is shown as long as they do.
func (s *Startup) ensurePools(
	ctx context.Context, kubeadm *corev1.ConfigMap, ifaces []autodetect.Interface, node Result,
) (notes []Note, err error) {
	want, want6 := s.Settings.Pool, s.Settings.Pool6
	ask6 := !want6.Skip && (want6.CIDR.IsValid() || node.Address6.IsValid())
	if want.Skip && !ask6 {
		return nil, nil
	}
	if locked, err := s.locked(ctx); err != nil || locked {
		return nil, err
	}
	pools, pools6, err := s.listPools(ctx)
	if err != nil {
		return nil, err
	}
	if !want.Skip && len(pools) == 0 {
		if encapsulates(want.VXLAN) {
			v, _ := s.Settings.Given("CALICO_IPV4POOL_VXLAN")
			return nil, fmt.Errorf("create IPPool %s: CALICO_IPV4POOL_VXLAN=%q: %s; want Never, or unset, with CALICO_IPV4POOL_IPIP to encapsulate",
				ipv4Pool.name, v, noVXLAN)
		}
		cidr, source, more, err := chooseRange(want, kubeadm, ifaces)
		if err != nil {
			return nil, err
		}
		want.CIDR, notes = cidr, more
		if notes, err = s.makePool(ctx, ipv4Pool, want, source, node.Address, notes); err != nil {
			return nil, err
		}
	}
	switch {
	case !ask6 || len(pools6) > 0:
		return notes, nil
	case !want6.CIDR.IsValid():
		return append(notes, Note{
			"IPPool " + defaultPool6,
			"this node has IPv6, and there is no IPv6 pool for its pods: set CALICO_IPV6POOL_CIDR to a range of your network, " +
				"e.g. fd00:10:244::/48, or to none if that is meant",
		}), nil
	}
	return s.makePool(ctx, ipv6Pool, want6, ipv6Pool.variable+"_CIDR", node.Address6, notes)
}

const noVXLAN = "this version of Manx has no VXLAN"

func encapsulates(m v1.EncapMode) bool { return m != "" && m != v1.EncapNever }

// poolKind is what tells the default pools of the families apart.
type poolKind struct {
	name      string
	variable  string // with which the names of its variables start
	blockSize int    // Calico's default
}

var (
	ipv4Pool = poolKind{defaultPool, "CALICO_IPV4POOL", 26}
	ipv6Pool = poolKind{defaultPool6, "CALICO_IPV6POOL", 122}
)

// makePool creates a default pool with the range want.CIDR, which comes from source,
// and appends to notes what is wrong with it.
func (s *Startup) makePool(
	ctx context.Context, kind poolKind, want config.Pool, source string, node netip.Prefix, notes []Note,
) ([]Note, error) {
	cidr := want.CIDR
	if cidr.Contains(node.Addr()) {
		notes = append(notes, Note{
			"IPPool " + kind.name, fmt.Sprintf("its range %s (%s) contains this node's own address %s: pods and nodes must not share a range; "+
				"set %s_CIDR to another one and delete the pool", cidr, source, node.Addr(), kind.variable),
		})
	}
	pool := &v1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: kind.name},
		Spec: v1.IPPoolSpec{
			CIDR:             cidr.String(),
			IPIPMode:         orDefault(want.IPIP, v1.EncapNever),
			VXLANMode:        orDefault(want.VXLAN, v1.EncapNever),
			NATOutgoing:      want.NATOutgoing,
			BlockSize:        want.BlockSize,
			NodeSelector:     want.NodeSelector,
			DisableBGPExport: want.DisableBGPExport,
			AllowedUses:      []v1.IPPoolAllowedUse{v1.UseWorkload, v1.UseTunnel},
		},
	}
	if err := pool.Validate(); err != nil {
		return nil, fmt.Errorf("default pool with range from %s: %w; want %s_CIDR and %s_BLOCK_SIZE to fit",
			source, err, kind.variable, kind.variable)
	}
	created, err := s.create(ctx, "IPPool", v1.PluralIPPools, pool)
	if err != nil {
		return nil, err
	}
	if created {
		s.Log.Info("default pool created", "pool", kind.name, "cidr", cidr, "source", source,
			"ipip", pool.Spec.IPIPMode, "vxlan", pool.Spec.VXLANMode, "nat", want.NATOutgoing)
	}
	return notes, nil
}

// chooseRange decides the default pool's range and says where it comes from.
func chooseRange(
	want config.Pool, kubeadm *corev1.ConfigMap, ifaces []autodetect.Interface,
) (cidr netip.Prefix, source string, notes []Note, err error) {
	if want.CIDR.IsValid() {
		return want.CIDR, "CALICO_IPV4POOL_CIDR", nil, nil
	}
	cidr, err = podSubnet(kubeadm)
	if err != nil {
		notes = append(notes, Note{"ConfigMap kube-system/" + kubeadmConfigMap, fmt.Sprintf("%v; the default pool is made without it", err)})
	}
	if cidr.IsValid() {
		return cidr, "kubeadm's podSubnet", notes, nil
	}
	cidr, err = freeRange(ifaces)
	return cidr, "default", notes, err
}

// listPools lists the pools of each family.
func (s *Startup) listPools(ctx context.Context) (ipv4, ipv6 []v1.IPPool, err error) {
	all, err := list[v1.IPPool](ctx, s, v1.PluralIPPools)
	if err != nil {
		return nil, nil, err
	}
	return poolsOf(family.IPv4, all), poolsOf(family.IPv6, all), nil
}

// poolsOf are those pools whose range is of the family.
func poolsOf(f family.Family, pools []v1.IPPool) (out []v1.IPPool) {
	for _, p := range pools {
		if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil && f.Has(cidr.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

// ComparePools notes where variables that are set differ from the pool they would
// have made, among the cluster's pools of that family. Only variables that are set
// count: defaults express no wish.
func ComparePools(set config.Config, pools []v1.IPPool) []Note {
	return slices.Concat(
		comparePools(set, ipv4Pool, set.Pool, poolsOf(family.IPv4, pools)),
		comparePools(set, ipv6Pool, set.Pool6, poolsOf(family.IPv6, pools)))
}

func comparePools(set config.Config, kind poolKind, want config.Pool, pools []v1.IPPool) (notes []Note) {
	if want.Skip || len(pools) == 0 {
		return nil
	}
	i := slices.IndexFunc(pools, func(p v1.IPPool) bool { return want.CIDR.IsValid() && p.Prefix() == want.CIDR })
	if i < 0 {
		i = slices.IndexFunc(pools, func(p v1.IPPool) bool { return p.Name == kind.name })
	}
	if i < 0 {
		if len(pools) > 1 {
			return nil // the user's own pools; there is nothing to hold the environment against
		}
		i = 0
	}
	p := pools[i]
	add := func(variable, field string, has, wants any, how string) {
		variable = kind.variable + variable
		if v, given := set.Given(variable); given && has != wants {
			notes = append(notes, Note{
				"IPPool " + p.Name, fmt.Sprintf("its %s is %v, while %s=%q: the variable counts only when the first pool is created; %s",
					field, has, variable, v, how),
			})
		}
	}
	fixed := func(variable, field string, has, wants any) {
		add(variable, field, has, wants, fmt.Sprintf("it cannot be changed in a pool: "+
			"create another pool, set disabled on this one, and restart the pods; or set the variable to %v", has))
	}
	patch := func(spec map[string]any) string {
		body, _ := json.Marshal(map[string]any{"spec": spec}) // of strings and bools: cannot fail
		return fmt.Sprintf("to change the pool: kubectl patch ippools.%s %s --type merge -p '%s'", v1.GroupName, p.Name, body)
	}
	free := func(variable, field string, has, wants any) {
		spec := map[string]any{field: wants}
		if field == "ipipMode" && encapsulates(want.IPIP) && encapsulates(p.Spec.VXLANMode) {
			spec["vxlanMode"] = v1.EncapNever // a pool has one encapsulation
		}
		add(variable, field, has, wants, fmt.Sprintf("%s; or set the variable to %v", patch(spec), has))
	}
	fixed("_CIDR", "cidr", p.Prefix(), want.CIDR)
	fixed("_BLOCK_SIZE", "blockSize", orDefault(p.Spec.BlockSize, kind.blockSize), want.BlockSize)
	free("_IPIP", "ipipMode", orDefault(p.Spec.IPIPMode, v1.EncapNever), want.IPIP)
	vxlan := noVXLAN + ": set the variable to Never"
	if encapsulates(p.Spec.VXLANMode) {
		vxlan = noVXLAN + "; " + patch(map[string]any{"vxlanMode": v1.EncapNever})
	}
	add("_VXLAN", "vxlanMode", orDefault(p.Spec.VXLANMode, v1.EncapNever), want.VXLAN, vxlan)
	free("_NAT_OUTGOING", "natOutgoing", p.Spec.NATOutgoing, want.NATOutgoing)
	free("_NODE_SELECTOR", "nodeSelector", orDefault(p.Spec.NodeSelector, "all()"), want.NodeSelector)
	free("_DISABLE_BGP_EXPORT", "disableBGPExport", p.Spec.DisableBGPExport, want.DisableBGPExport)
	return notes
}

func orDefault[T comparable](v, preset T) T {
	var zero T
	if v == zero {
		return preset
	}
	return v
}
