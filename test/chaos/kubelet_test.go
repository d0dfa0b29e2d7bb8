//go:build cluster

package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tally counts what the test did.
type tally struct {
	adds, addsFailed, full, repeated, canceled, dels, strayDels, leaks, restarts atomic.Int64
	kills, controllerKills, serverRestarts                                       atomic.Int64
}

// kubelet plays kubelet, runtime and plugin for some of a node's pods. One
// goroutine uses it.
type kubelet struct {
	w    *world
	n    *node
	name string // of its pods: a prefix
	rng  *rand.Rand
	dual bool // some pods get an IPv6 address too
	made int
	pods []*pod
	done []string // handles that were given up
}

// pod is a pod and its present container.
type pod struct {
	name   string
	num6   int
	handle string
	addrs  []netip.Addr
}

func (k *kubelet) newHandle() string {
	return fmt.Sprintf("%s.%s-%016x", network, k.name, k.rng.Uint64())
}

// createPod makes the Pod object, which must be there before its address is.
func (k *kubelet) createPod(ctx context.Context) (*pod, error) {
	k.made++
	p := &pod{name: fmt.Sprintf("%s-%d", k.name, k.made)}
	if k.dual && k.rng.IntN(4) == 0 {
		p.num6 = 1
	}
	return p, k.writePod(ctx, p)
}

func (k *kubelet) writePod(ctx context.Context, p *pod) error {
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: namespace},
		Spec: corev1.PodSpec{
			NodeName: k.n.name, Containers: []corev1.Container{{Name: "c", Image: "none"}},
		},
	}
	return insist(ctx, "create pod "+p.name, func() error {
		_, err := k.w.kube.CoreV1().Pods(namespace).Create(ctx, o, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// removePod removes the Pod object.
func (k *kubelet) removePod(ctx context.Context, p *pod) error {
	return insist(ctx, "delete pod "+p.name, func() error {
		now := int64(0)
		return ignoreMissing(k.w.kube.CoreV1().Pods(namespace).Delete(ctx, p.name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	})
}

// annotate says in the Pod object what its address is, as the agent does.
func (k *kubelet) annotate(ctx context.Context, p *pod) error {
	var cidrs []string
	for _, a := range p.addrs {
		cidrs = append(cidrs, netip.PrefixFrom(a, a.BitLen()).String())
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		"cni.projectcalico.org/containerID": strings.TrimPrefix(p.handle, network+"."),
		"cni.projectcalico.org/podIP":       cidrs[0],
		"cni.projectcalico.org/podIPs":      strings.Join(cidrs, ","),
	}}})
	if err != nil {
		return err
	}
	return insist(ctx, "annotate pod "+p.name, func() error {
		_, err := k.w.kube.CoreV1().Pods(namespace).Patch(ctx, p.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	})
}

// addOnce makes one ADD.
func (k *kubelet) addOnce(ctx context.Context, p *pod) (addrs []netip.Addr, full bool, err error) {
	c := k.w.record.Add(p.handle, k.n.name)
	a, err := k.n.call(ctx, order{Verb: verbAdd, Handle: p.handle, Attrs: attrs(k.n.name, p.name), Num4: 1, Num6: p.num6})
	if err != nil {
		c.Failed()
		k.w.did.addsFailed.Add(1)
		if a.Full {
			k.w.did.full.Add(1)
		}
		return nil, a.Full, err
	}
	c.Answered(a.At, a.Addrs)
	k.w.did.adds.Add(1)
	k.n.plug(p.handle, p.name, a.Addrs)
	return a.Addrs, false, nil
}

// errGivenUp means that a pod could not be started and nothing is left of it.
var errGivenUp = errors.New("the pod was given up")

// start makes a pod with an address. Where the ADD fails it does what kubelets do:
// undo it and try with another container, or repeat it, or give up.
func (k *kubelet) start(ctx context.Context) error {
	p, err := k.createPod(ctx)
	if err != nil {
		return err
	}
	p.handle = k.newHandle()
	err = k.connect(ctx, p)
	switch {
	case errors.Is(err, errGivenUp):
		return k.removePod(ctx, p)
	case err == nil:
		k.pods = append(k.pods, p)
	}
	return err
}

// connect gives a pod's container its address, or another container.
func (k *kubelet) connect(ctx context.Context, p *pod) error {
	for range 5 {
		addrs, full, err := k.addOnce(ctx, p)
		if err == nil {
			p.addrs = addrs
			return k.annotate(ctx, p)
		}
		if err := k.n.await(ctx); err != nil {
			return err
		}
		if full || k.rng.IntN(2) == 0 {
			if err := k.del(ctx, p.handle); err != nil {
				return err
			}
			p.handle = k.newHandle()
		}
		if full {
			return errGivenUp
		}
	}
	if err := k.del(ctx, p.handle); err != nil {
		return err
	}
	return errGivenUp
}

// del removes a container's interface and repeats DEL until it succeeds.
func (k *kubelet) del(ctx context.Context, handle string) error {
	k.n.unplug(handle)
	for {
		if err := k.n.await(ctx); err != nil {
			return fmt.Errorf("DEL of %s: %w", handle, err)
		}
		c := k.w.record.Del(handle, k.n.name)
		k.w.did.dels.Add(1)
		a, err := k.n.call(ctx, order{Verb: verbDel, Handle: handle})
		if err == nil {
			c.Answered(a.At, nil)
			k.done = append(k.done, handle)
			return nil
		}
		c.Failed()
		select {
		case <-ctx.Done():
			return fmt.Errorf("DEL of %s: %w", handle, err)
		case <-time.After(poll):
		}
	}
}

// take removes a pod from the list.
func (k *kubelet) take() *pod {
	i := k.rng.IntN(len(k.pods))
	p := k.pods[i]
	k.pods[i] = k.pods[len(k.pods)-1]
	k.pods = k.pods[:len(k.pods)-1]
	return p
}

// stop ends a pod properly: its container first, then its object.
func (k *kubelet) stop(ctx context.Context) error {
	p := k.take()
	if err := k.del(ctx, p.handle); err != nil {
		return err
	}
	return k.removePod(ctx, p)
}

// gone declares a container dead whose DEL nobody will wait for.
func (k *kubelet) gone(p *pod) {
	k.n.unplug(p.handle)
	k.w.record.Gone(p.handle, k.n.name)
}

// leak ends a pod without DEL, as when a runtime loses it.
func (k *kubelet) leak(ctx context.Context) error {
	p := k.take()
	k.gone(p)
	k.w.did.leaks.Add(1)
	return k.removePod(ctx, p)
}

// force ends a pod in the other order: its object goes before its container.
func (k *kubelet) force(ctx context.Context) error {
	p := k.take()
	k.gone(p)
	if err := k.removePod(ctx, p); err != nil {
		return err
	}
	return k.del(ctx, p.handle)
}

// restart gives a pod another container; the DEL of the first comes late or never.
func (k *kubelet) restart(ctx context.Context) error {
	p := k.pods[k.rng.IntN(len(k.pods))]
	old := *p
	k.gone(&old)
	p.handle = k.newHandle()
	k.w.did.restarts.Add(1)
	err := k.connect(ctx, p)
	if errors.Is(err, errGivenUp) {
		k.drop(p)
		err = k.removePod(ctx, p)
	}
	if err != nil {
		return err
	}
	if k.rng.IntN(2) == 0 {
		k.w.did.leaks.Add(1)
		return nil
	}
	return k.del(ctx, old.handle)
}

func (k *kubelet) drop(p *pod) {
	for i, o := range k.pods {
		if o == p {
			k.pods[i] = k.pods[len(k.pods)-1]
			k.pods = k.pods[:len(k.pods)-1]
			return
		}
	}
}

// repeat makes ADDs again that were answered before, two at once.
func (k *kubelet) repeat(ctx context.Context) error {
	p := k.pods[k.rng.IntN(len(k.pods))]
	k.w.did.repeated.Add(2)
	both := make(chan struct{}, 2)
	for range 2 {
		go func() {
			_, _, _ = k.addOnce(ctx, p) // the history has the answer
			both <- struct{}{}
		}()
	}
	<-both
	<-both
	return nil
}

// hurry gives an ADD up after a moment, and undoes it while it may be under way.
func (k *kubelet) hurry(ctx context.Context) error {
	p, err := k.createPod(ctx)
	if err != nil {
		return err
	}
	p.handle = k.newHandle()
	k.w.did.canceled.Add(1)
	short, cancel := context.WithTimeout(ctx, time.Duration(k.rng.IntN(30))*time.Millisecond)
	_, _, _ = k.addOnce(short, p)
	cancel()
	if err := k.del(ctx, p.handle); err != nil {
		return err
	}
	return k.removePod(ctx, p)
}

// stray makes a DEL that changes nothing: of a container that had one, or of none.
func (k *kubelet) stray(ctx context.Context) error {
	handle := k.newHandle()
	if len(k.done) > 0 && k.rng.IntN(3) > 0 {
		handle = k.done[k.rng.IntN(len(k.done))]
	}
	k.w.did.strayDels.Add(1)
	return k.del(ctx, handle)
}

// step does one thing; with more pods than wanted it is the end of one.
func (k *kubelet) step(ctx context.Context, wanted int) error {
	n := k.rng.IntN(100)
	switch have := len(k.pods); {
	case n < 60 && have < wanted:
		return k.start(ctx)
	case n < 80 && have > wanted:
		switch k.rng.IntN(8) {
		case 0:
			return k.leak(ctx)
		case 1:
			return k.force(ctx)
		}
		return k.stop(ctx)
	case n < 75 && have > 0:
		return k.repeat(ctx)
	case n < 82 && have > 0:
		return k.restart(ctx)
	case n < 91:
		return k.stray(ctx)
	default:
		return k.hurry(ctx)
	}
}
