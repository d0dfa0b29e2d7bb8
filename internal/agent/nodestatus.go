package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/version"
)

// Bounds of a report, of each family: it has to fit into an object several times over.
const (
	maxReportedPeers  = 500
	maxReportedRoutes = 500
)

// nodeStatusOf is this node's state, for a CalicoNodeStatus that asks for those classes.
func (a *Agent) nodeStatusOf(ctx context.Context, classes []apiv1.NodeStatusClass) (out apiv1.CalicoNodeStatusStatus, err error) {
	out.LastUpdated = &metav1.Time{Time: time.Now()}
	st := a.speaker.Status()
	for _, c := range classes {
		switch c {
		case apiv1.NodeStatusAgent:
			out.Agent = agentReport(st, a.started)
		case apiv1.NodeStatusBGP:
			out.BGP = bgpReport(st.Sessions)
		case apiv1.NodeStatusRoutes:
			if out.Routes, err = a.routeReport(ctx, st.Sessions); err != nil {
				return out, fmt.Errorf("read the routes of the kernel: %w", err)
			}
		}
	}
	return out, nil
}

// reportTime is a time as BIRD writes it, which Calico passes on; in UTC.
func reportTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateTime)
}

// agentReport is the speaker as Calico reports its two BIRDs: one of a family without an
// address is not there.
func agentReport(st speaker.Status, started time.Time) *apiv1.CalicoNodeAgentStatus {
	daemon := &apiv1.BGPDaemonStatus{
		State: "NotReady", Version: "manx " + version.String(), LastBootTime: reportTime(started),
		LastReconfigurationTime: reportTime(st.Reconfigured),
	}
	if st.Global.RouterID.IsValid() {
		daemon.RouterID = st.Global.RouterID.String()
	}
	if st.Global != (bgp.Global{}) && st.Converged && st.LastError == "" {
		daemon.State = "Ready"
	}
	out := &apiv1.CalicoNodeAgentStatus{}
	if st.Global.ListenAddr.IsValid() || st.Global == (bgp.Global{}) {
		out.BIRDV4 = daemon
	}
	if st.Global.ListenAddr6.IsValid() {
		out.BIRDV6 = daemon.DeepCopy()
	}
	return out
}

// bgpReport are the sessions.
func bgpReport(sessions []bgp.Session) *apiv1.CalicoNodeBGPStatus {
	out := &apiv1.CalicoNodeBGPStatus{}
	for _, s := range sessions {
		peers, up, down := &out.PeersV4, &out.NumberEstablishedV4, &out.NumberNotEstablishedV4
		if !s.Peer.Addr.Is4() {
			peers, up, down = &out.PeersV6, &out.NumberEstablishedV6, &out.NumberNotEstablishedV6
		}
		if s.State == bgp.Established {
			*up++
		} else {
			*down++
		}
		if len(*peers) < maxReportedPeers {
			*peers = append(*peers, apiv1.CalicoNodePeer{
				PeerIP: s.Peer.Addr.String(), Type: peerType(s.Peer), State: string(s.State), Since: reportTime(s.Since),
			})
		}
	}
	return out
}

// peerType is what Calico calls a kind of peer, as the names of sessions begin.
func peerType(p bgp.Peer) string {
	switch {
	case p.BGPPeer == "":
		return "NodeMesh"
	case strings.HasPrefix(p.Name, "Global_"):
		return "GlobalPeer"
	}
	return "NodePeer"
}

// routeReport are the routes in the kernel, and what is learned and has none.
func (a *Agent) routeReport(ctx context.Context, sessions []bgp.Session) (*apiv1.CalicoNodeRouteStatus, error) {
	var fib []state.Route
	for _, is4 := range []bool{true, false} {
		of, _, err := a.dataplane.Routes(ctx, maxReportedRoutes, func(r state.Route) bool { return r.Dst.Addr().Is4() == is4 })
		if err != nil {
			return nil, err
		}
		fib = append(fib, of...)
	}
	learned, _ := a.speaker.Learned()
	return routesReported(fib, learned, sessions), nil
}

// routesReported are the first routes of each family: those of the kernel, then what is
// learned besides. Of both lists each family has its first at most.
func routesReported(fib []state.Route, learned []bgp.Learned, sessions []bgp.Session) *apiv1.CalicoNodeRouteStatus {
	of := make(map[netip.Prefix]bgp.Learned, len(learned))
	for _, l := range learned {
		of[l.Prefix] = l
	}
	mesh := map[netip.Addr]bool{}
	for _, s := range sessions {
		mesh[s.Peer.Addr] = s.Peer.BGPPeer == ""
	}
	out := &apiv1.CalicoNodeRouteStatus{}
	add := func(to netip.Prefix, routes ...apiv1.CalicoNodeRoute) {
		list := &out.RoutesV6
		if to.Addr().Is4() {
			list = &out.RoutesV4
		}
		*list = append(*list, routes[:min(len(routes), maxReportedRoutes-len(*list))]...)
	}
	for _, r := range fib {
		add(r.Dst, fibReport(r, of[r.Dst], mesh)...)
		delete(of, r.Dst)
	}
	for _, l := range learned {
		if _, missing := of[l.Prefix]; missing {
			add(l.Prefix, apiv1.CalicoNodeRoute{
				Type: "RIB", Destination: l.Prefix.String(), Gateway: l.NextHops[0].String(), LearnedFrom: learnedFrom(l, l.NextHops[0], mesh),
			})
		}
	}
	return out
}

// fibReport is a route of the kernel, once for each of its next hops.
func fibReport(r state.Route, l bgp.Learned, mesh map[netip.Addr]bool) (out []apiv1.CalicoNodeRoute) {
	report := apiv1.CalicoNodeRoute{Type: "FIB", Destination: r.Dst.String(), Gateway: "N/A", Interface: cmp.Or(r.Dev, "blackhole")}
	switch {
	case r.Type == state.Blackhole:
		report.LearnedFrom.SourceType = "Static" // a block of the node's own
	case !r.Gw.IsValid():
		report.LearnedFrom.SourceType = "Kernel" // a pod here
	default:
		hops := []netip.Addr{r.Gw}
		if r.Gateways.Several() {
			hops = r.Gateways.All()
		}
		for _, hop := range hops {
			report.Gateway, report.LearnedFrom = hop.String(), learnedFrom(l, hop, mesh)
			out = append(out, report)
		}
		return out
	}
	return append(out, report)
}

// learnedFrom is the peer that a path is from: the next hop itself where it is one.
func learnedFrom(l bgp.Learned, hop netip.Addr, mesh map[netip.Addr]bool) apiv1.CalicoNodeRouteLearnedFrom {
	if len(l.From) == 0 {
		return apiv1.CalicoNodeRouteLearnedFrom{SourceType: "Static"} // kept until BGP has converged
	}
	from := l.From[0]
	if slices.Contains(l.From, hop) {
		from = hop
	}
	source := "BGPPeer"
	if mesh[from] {
		source = "NodeMesh"
	}
	return apiv1.CalicoNodeRouteLearnedFrom{SourceType: source, PeerIP: from.String()}
}
