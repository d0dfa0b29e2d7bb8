// Package startup makes a node known to the cluster before its agent begins to
// work: it waits for the Kubernetes API, finds the node's own addresses, publishes
// them, and creates the objects that every cluster needs when they are missing.
//
//	wait for the API ─▶ read Node ─▶ choose addresses ─▶ duplicates? ─▶ annotate Node
//	     ─▶ default pools ─▶ default ClusterInformation, FelixConfiguration, BGPConfiguration
//
// It owns the annotations projectcalico.org/IPv4Address, IPv6Address and (when the
// variable AS is set) projectcalico.org/ASNumber of its own Node, and the Node's
// condition NetworkUnavailable. The default objects it only ever creates: what
// exists belongs to the user. Every step reads first and writes only a
// difference, so that a restarted agent writes nothing at all.
//
// It is on no packet path and changes nothing in the kernel. Its errors are meant
// to end the agent: each says what was tried, on what, and what to do.
package startup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/hostinit"
)

// Config says what to start and with what. Kubernetes, Dynamic, NodeName and Log
// are required; the rest has the defaults named.
type Config struct {
	Settings   config.Config
	NodeName   string
	Kubernetes kubernetes.Interface
	Dynamic    dynamic.Interface
	Log        *slog.Logger

	Interfaces func() ([]autodetect.Interface, error)                     // autodetect.Interfaces
	Reach      func(ctx context.Context, dest string) (netip.Addr, error) // autodetect.Reach
	Reach6     func(ctx context.Context, dest string) (netip.Addr, error) // autodetect.Reach6
	Forwards6  func() (bool, error)                                       // hostinit.Forwards6 of /proc/sys
	Random     io.Reader                                                  // crypto/rand; for the cluster's GUID
	Now        func() time.Time                                           // time.Now; for the condition
	// 1 s; to the second try of the API, and up to 16 times that to later ones
	RetryEvery time.Duration
	Waits      func(error) // told of each try in vain; none
}

// Startup prepares one node.
type Startup struct {
	Config
	starting bool   // within Run: requests may wait
	found    Result // of Run, without its notes
}

// Result is what the node is in the network.
type Result struct {
	// Address is the node's IPv4 address with the prefix length of its subnet.
	// It is zero only with CALICO_NETWORKING_BACKEND=none and IP=none.
	Address netip.Prefix
	// Address6 is the same for IPv6; zero for a node without (IP6 empty or none).
	Address6   netip.Prefix
	Interface  string // that owns the address; "" when none on this host does
	Reason     string // why this address
	Interface6 string // the same of Address6
	Reason6    string
	AS         uint32 // of this node alone; 0: the cluster's, from BGPConfiguration
	RouterID   netip.Addr
	Notes      []Note
}

// Note is something the user should know of and that does not stop the start.
// It has been logged.
type Note struct {
	Subject string // what it is about: IPPool default-ipv4-ippool, Node node-1 …
	Text    string
}

// New prepares the start; Run does it.
func New(cfg Config) *Startup {
	if cfg.Interfaces == nil {
		cfg.Interfaces = autodetect.Interfaces
	}
	if cfg.Reach == nil {
		cfg.Reach = autodetect.Reach
	}
	if cfg.Reach6 == nil {
		cfg.Reach6 = autodetect.Reach6
	}
	if cfg.Forwards6 == nil {
		cfg.Forwards6 = func() (bool, error) { return hostinit.Forwards6("/proc/sys") }
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Waits == nil {
		cfg.Waits = func(error) {}
	}
	if cfg.RetryEvery == 0 {
		cfg.RetryEvery = time.Second
	}
	return &Startup{Config: cfg}
}

// requestTimeout bounds one request to the API.
const requestTimeout = 5 * time.Second

// Run does every step in order and returns what the node is. An error means that
// the agent cannot work; running again may help. With WAIT_FOR_DATASTORE=true each of
// its requests is made until the API server has answered it.
func (s *Startup) Run(ctx context.Context) (Result, error) {
	s.starting = true
	defer func() { s.starting = false }()
	node, err := s.readNode(ctx)
	if err != nil {
		return Result{}, err
	}
	ifaces, err := s.Interfaces()
	if err != nil {
		return Result{}, err
	}
	res, err := s.address(ctx, node, ifaces)
	if err != nil {
		return Result{}, err
	}
	s.Log.Info("node address", "node", s.NodeName, "address", res.Address, "iface", res.Interface, "reason", res.Reason)
	if res.Address6.IsValid() {
		s.Log.Info("node IPv6 address", "node", s.NodeName, "address", res.Address6, "iface", res.Interface6, "reason", res.Reason6)
	}
	if err := s.publish(ctx, node, res); err != nil {
		return Result{}, err
	}
	s.found = res
	kubeadm, err := s.kubeadmConfig(ctx)
	if err != nil {
		return Result{}, err
	}
	notes, err := s.ensurePools(ctx, kubeadm, ifaces, res)
	if err != nil {
		return Result{}, err
	}
	if err := s.ensureDefaults(ctx, kubeadm != nil); err != nil {
		return Result{}, err
	}
	res.Notes = slices.Concat(notes, s.checkForwarding(res))
	for _, n := range res.Notes {
		s.Log.Warn("start-up note", "subject", n.Subject, "note", n.Text)
	}
	return res, nil
}

// checkForwarding notes that the kernel does not forward what pods send over IPv6:
// the variable IP6 is probably missing in the init container.
func (s *Startup) checkForwarding(res Result) []Note {
	if !res.Address6.IsValid() {
		return nil
	}
	on, err := s.Forwards6()
	switch {
	case err != nil:
		return []Note{{"Node " + s.NodeName, fmt.Sprintf("whether it forwards IPv6 is not known: %v", err)}}
	case !on:
		return []Note{
			{"Node " + s.NodeName, "it does not forward IPv6, so pods reach nobody over it: set IP6 in the init container init-host as well, " +
				"which sets net.ipv6.conf.all.forwarding=1"},
		}
	}
	return nil
}

// Redetect looks whether the node's addresses have changed, and publishes the new
// ones. It is for calling every Settings.Address.PollInterval, and chooses as a start
// does. A family whose address is given, or switched off, stays as it is. With IP empty the
// address is the one that the user has put on the Node, once an interface has it. After an
// error everything is as it was, but for an address that this machine has lost, which it
// may have withdrawn (see claim).
func (s *Startup) Redetect(ctx context.Context) (res Result, changed bool, err error) {
	set := s.Settings.Address
	asStored := !set.IP.Wanted() && !set.IP.None()
	if !set.IP.Detects() && !asStored && !set.IP6.Detects() {
		return Result{}, false, nil
	}
	node, err := s.getNode(ctx)
	if err != nil {
		return Result{}, false, fmt.Errorf("look for a changed node address: read Node %s: %w", s.NodeName, err)
	}
	ifaces, err := s.Interfaces()
	if err != nil {
		return Result{}, false, fmt.Errorf("look for a changed node address: %w", err)
	}
	if set.IP.Detects() || asStored {
		res, err = s.address(ctx, node, ifaces)
	} else {
		res = s.found
		err = s.address6(ctx, node, ifaces, &res)
	}
	if err != nil {
		return Result{}, false, fmt.Errorf("look for a changed node address: %w", err)
	}
	moved := asStored && res.Interface != "" && res.Address != s.found.Address
	if asStored && !moved {
		found := s.found
		found.Address6, found.Interface6, found.Reason6 = res.Address6, res.Interface6, res.Reason6
		res = found
	}
	if moved {
		changed = true
		s.Log.Info("node address changed on the Node", "node", s.NodeName, "address", res.Address,
			"was", s.found.Address, "iface", res.Interface, "reason", res.Reason)
	}
	old, old6 := storedAddress(node, family.IPv4), storedAddress(node, family.IPv6)
	if set.IP.Detects() && res.Address != old {
		changed = true
		s.Log.Info("node address changed", "node", s.NodeName, "address", res.Address, "was", old, "iface", res.Interface, "reason", res.Reason)
	}
	if set.IP6.Detects() && res.Address6 != old6 {
		changed = true
		s.Log.Info("node IPv6 address changed", "node", s.NodeName, "address", res.Address6,
			"was", old6, "iface", res.Interface6, "reason", res.Reason6)
	}
	if !changed {
		return res, false, nil
	}
	publish := res
	if !set.IP.Detects() && !moved {
		publish.Address = netip.Prefix{} // what the Node says of it is the user's, or lost, which is for Restore
	}
	return res, true, s.publish(ctx, node, publish)
}

// Restore publishes what Run found when the Node does not say it: a Node that was deleted
// and registered again by its kubelet starts with no annotation, others may write the same
// ones, and without the right address no other node peers with it. One that this machine has lost itself is not published: it
// may have been withdrawn for another node. It reports whether there was anything to write.
func (s *Startup) Restore(ctx context.Context, res Result) (restored bool, err error) {
	if res, err = s.still(res); err != nil {
		return false, err
	}
	node, err := s.getNode(ctx)
	if err != nil {
		return false, fmt.Errorf("publish the node's address again: read Node %s: %w", s.NodeName, err)
	}
	write := s.missing(node.Annotations, res)
	if len(write) == 0 {
		return false, nil
	}
	for _, name := range slices.Sorted(maps.Keys(write)) {
		is := "removed"
		if write[name] != nil {
			is = *write[name]
		}
		s.Log.Warn("an annotation of the Node was lost or changed by another program; set again", "node", s.NodeName, "annotation", name,
			"was", excerpt.Value(node.Annotations[name]), "is", is)
	}
	return true, s.Annotate(ctx, write)
}

// Differs reports whether a Node with those annotations does not say what Restore would
// have it say.
func (s *Startup) Differs(annotations map[string]string, res Result) bool {
	return len(s.missing(annotations, res)) > 0
}

// missing are the annotations to set so that the Node says what it should; nil removes
// one. An IPv4 address that is neither given nor to be detected (IP empty or none) is the
// user's to change on the Node: it is set only where there is none.
func (s *Startup) missing(annotations map[string]string, res Result) map[string]*string {
	write := map[string]*string{}
	set := func(name, value string) {
		if annotations[name] != value {
			write[name] = &value
		}
	}
	if res.Address.IsValid() && (s.Settings.Address.IP.Wanted() || !stored(annotations, family.IPv4).IsValid()) {
		set(v1.AnnotationNodeIPv4, res.Address.String())
	}
	if res.Address6.IsValid() {
		set(v1.AnnotationNodeIPv6, res.Address6.String())
	}
	if _, has := annotations[v1.AnnotationNodeIPv6]; has && !s.Settings.Address.IP6.Wanted() {
		write[v1.AnnotationNodeIPv6] = nil
	}
	if s.Settings.BGP.AS != 0 {
		set(v1.AnnotationNodeAS, strconv.FormatUint(uint64(s.Settings.BGP.AS), 10))
	}
	return write
}

// readNode reads the Node, which also proves that the API answers.
func (s *Startup) readNode(ctx context.Context) (node *corev1.Node, err error) {
	err = s.ask(ctx, "read Node "+s.NodeName, requestTimeout, func(ctx context.Context) (err error) {
		node, err = s.Kubernetes.CoreV1().Nodes().Get(ctx, s.NodeName, metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read Node %s: it does not exist; want NODENAME to be the name of this machine's Node: %w", s.NodeName, err)
	}
	return node, err
}

func (s *Startup) getNode(ctx context.Context) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return s.Kubernetes.CoreV1().Nodes().Get(ctx, s.NodeName, metav1.GetOptions{})
}

// errNoAddress is for IP=none without anything stored.
var errNoAddress = errors.New("the node has no IPv4 address, and routes between nodes need one; " +
	"want IP unset, autodetect, or the node's address")
