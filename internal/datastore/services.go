package datastore

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// servicesEvery is how often the ranges of services are read: they change once in the
// life of a cluster, if ever, and an API server before Kubernetes 1.33 has no such kind,
// which a watch would ask for without end.
const servicesEvery = 10 * time.Minute

// servicesTimeout bounds one reading.
const servicesTimeout = 5 * time.Second

// ServiceRanges reads the ranges that services have their addresses from: none when the
// API server does not know the kind ServiceCIDR, or does not let us read it.
func ServiceRanges(ctx context.Context, kube kubernetes.Interface) ([]netip.Prefix, error) {
	ctx, cancel := context.WithTimeout(ctx, servicesTimeout)
	defer cancel()
	list, err := kube.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, o := range list.Items {
		for _, text := range o.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				out = append(out, p.Masked())
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out), nil
}

// watchServices reads the ranges now, and from time to time until ctx ends. What cannot
// be read stays as it was. first is closed after the first try.
func (d *Datastore) watchServices(ctx context.Context, first chan<- struct{}) {
	for tried := false; ; tried = true {
		if now, err := ServiceRanges(ctx, d.kube); err == nil {
			before := d.services.Swap(&now)
			if changed := before == nil && len(now) > 0 || before != nil && !slices.Equal(*before, now); changed && d.synced.Load() {
				d.wake()
			}
		} else if ctx.Err() == nil {
			d.log.Debug("ranges of services not read, will be tried again", "err", err)
		}
		if !tried {
			close(first)
		}
		every := servicesEvery
		if d.services.Load() == nil { // not known yet
			every = time.Minute
		}
		if !sleep(ctx, every+rand.N(every)) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
