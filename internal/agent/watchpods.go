package agent

import (
	"context"
	"maps"
	"time"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
)

const (
	// podsEvery is how often the pods of this node are held against what they should say.
	podsEvery = time.Minute
	// podsAtOnce bounds how many are written again at one look.
	podsAtOnce = 50
)

// watchPods writes again what pods have lost of their address annotations, or what could
// not be written when they started: an API server that was away then would else leave them
// without for their whole lives.
func (a *Agent) watchPods(ctx context.Context) error {
	tick := time.NewTicker(podsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, r := range unsaid(a.dataplane.Endpoints(), a.datastore.Pods(), podsAtOnce) {
			a.annotator.add(r)
		}
	}
}

// unsaid are the records that pods on this node do not have, or not as they should.
func unsaid(endpoints []state.Endpoint, pods []datastore.PodMeta, most int) (out []podRecord) {
	byIface := make(map[string]datastore.PodMeta, len(pods))
	for _, p := range pods {
		byIface[nodeapi.HostIfaceName(p.Namespace, p.Name)] = p
	}
	for _, e := range endpoints {
		p, known := byIface[e.Iface]
		if !known {
			continue
		}
		uid := p.UID
		r := podRecord{namespace: p.Namespace, pod: p.Name, uid: uid, containerID: e.ContainerID, addrs: e.Addrs}
		said := maps.Clone(p.Annotations)
		maps.DeleteFunc(said, func(k, _ string) bool { _, ours := r.annotations()[k]; return !ours })
		if !maps.Equal(said, r.annotations()) && len(out) < most {
			out = append(out, r)
		}
	}
	return out
}
