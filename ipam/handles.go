package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/loop"
	"github.com/manx-cni/manx/ipam/store"
)

// handleWriter keeps the IPAMHandle objects in step with the blocks. It is told
// which handles to look at and decides what to write from what the blocks say
// when it gets there, one handle after the other; so what it writes last is
// right, whatever happened in between.
type handleWriter struct {
	table  *store.Table[v1.IPAMHandle]
	node   string
	counts func(handle string) (counts map[netip.Prefix]int, own map[netip.Prefix]bool)
	log    *slog.Logger
	wake   chan struct{} // has a value when there is something to do
	hurry  chan struct{} // has a value when somebody waits for it to be done

	mu      sync.Mutex
	queue   []string
	waiting map[string]*visit         // the handles in queue
	busy    bool                      // one is being written
	idle    []chan struct{}           // closed when queue is empty and not busy
	known   map[string]*v1.IPAMHandle // as last stored by us
}

// visit is what to do for a handle.
type visit struct {
	gone    []netip.Prefix // blocks of others in which it has no address any more
	failing bool           // has been logged
}

func newHandleWriter(
	t *store.Table[v1.IPAMHandle], node string, counts func(string) (map[netip.Prefix]int, map[netip.Prefix]bool), log *slog.Logger,
) *handleWriter {
	return &handleWriter{
		table: t, node: node, counts: counts, log: log, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		waiting: map[string]*visit{}, known: map[string]*v1.IPAMHandle{},
	}
}

// touch has the handles looked at.
func (w *handleWriter) touch(handles ...string) {
	for _, h := range handles {
		w.enqueue(h, &visit{})
	}
}

func (w *handleWriter) enqueue(handle string, v *visit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if before := w.waiting[handle]; before != nil {
		before.gone = append(before.gone, v.gone...)
		before.failing = before.failing || v.failing
		return
	}
	w.waiting[handle] = v
	w.queue = append(w.queue, handle)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// adopt takes over the handles that are stored with this node's label, and what
// is known of no other.
func (w *handleWriter) adopt(objects []*v1.IPAMHandle) {
	w.mu.Lock()
	clear(w.known)
	for _, o := range objects {
		w.known[o.Spec.HandleID] = o
	}
	w.mu.Unlock()
	for _, o := range objects {
		w.touch(o.Spec.HandleID)
	}
}

// elsewhere reports whether the handle is known to have addresses in blocks that
// are not among own.
func (w *handleWriter) elsewhere(handle string, own map[netip.Prefix]bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.known[handle]; o != nil {
		counts, _ := o.Counts() // nothing is to be found where an entry names no block
		for cidr := range counts {
			if !own[cidr] {
				return true
			}
		}
	}
	return false
}

// flush waits until nothing is left to do.
func (w *handleWriter) flush(ctx context.Context) error {
	w.mu.Lock()
	if len(w.queue) == 0 && !w.busy {
		w.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	w.idle = append(w.idle, done)
	w.mu.Unlock()
	select {
	case w.hurry <- struct{}{}:
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write the handles: %w", ctx.Err())
	}
}

// Pauses after a failed write, growing from one to the other.
const minHandlePause, maxHandlePause = 50 * time.Millisecond, 10 * time.Second

// handleLinger is how long the writer lets the pods go first: what made it wake is
// most likely a pod that starts, and others with it.
const handleLinger = 200 * time.Millisecond

// linger waits that long, unless a flush waits.
func (w *handleWriter) linger(ctx context.Context) {
	t := time.NewTimer(handleLinger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.hurry:
	case <-ctx.Done():
	}
}

// run writes handles until ctx ends.
func (w *handleWriter) run(ctx context.Context) error {
	retry := loop.Retry{Min: minHandlePause, Max: maxHandlePause}
	for {
		handle, v, ok := w.next()
		if !ok {
			select {
			case <-w.wake:
				w.linger(ctx)
				continue
			case <-ctx.Done():
				return nil
			}
		}
		err := w.write(ctx, handle, v.gone)
		if err == nil {
			retry.Done()
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if !v.failing {
			w.log.Warn("handle not written, will be tried again", "handle", handle, "err", err)
		}
		v.failing = true
		w.enqueue(handle, v)
		t := time.NewTimer(retry.Failed())
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// next takes a handle from the queue, or reports that there is none.
func (w *handleWriter) next() (string, *visit, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.busy = false
		for _, done := range w.idle {
			close(done)
		}
		w.idle = nil
		return "", nil, false
	}
	w.busy = true
	handle := w.queue[0]
	w.queue = w.queue[1:]
	v := w.waiting[handle]
	delete(w.waiting, handle)
	return handle, v, true
}

// write makes the object of a handle say what the blocks say. It may be called
// from several goroutines: what is written rests on counts that were taken after
// the object that it replaces was there.
func (w *handleWriter) write(ctx context.Context, handle string, gone []netip.Prefix) error {
	w.mu.Lock()
	have := w.known[handle]
	w.mu.Unlock()
	err := retry(ctx, "handle "+handle, func() error {
		if have == nil {
			var done bool
			var err error
			if have, done, err = w.find(ctx, handle); done || err != nil {
				return err
			}
		}
		want := have.DeepCopy()
		counts, own := w.counts(handle)
		merge(&want.Spec, counts, own, gone)
		if w.node != "" && want.Labels[v1.LabelHostnameHash] == "" {
			metav1.SetMetaDataLabel(&want.ObjectMeta, v1.LabelHostnameHash, v1.HostnameHash(w.node))
		}
		if w.node != "" && want.Annotations[v1.AnnotationHandleNode] != w.node {
			metav1.SetMetaDataAnnotation(&want.ObjectMeta, v1.AnnotationHandleNode, w.node)
		}
		stored, err := w.replace(ctx, have, want)
		have = nil // another try reads it
		if err = overtaken(err); !errors.Is(err, store.ErrConflict) {
			w.remember(handle, stored) // nothing after an error: what is stored is not known
		}
		return err
	})
	if errors.Is(err, ErrRetry) {
		w.remember(handle, nil)
		return fmt.Errorf("write handle %s: %w", handle, err)
	}
	return err
}

// find creates the object of a handle, or reads it when it is there. All is done
// when it was created, or is not there and need not be.
func (w *handleWriter) find(ctx context.Context, handle string) (have *v1.IPAMHandle, done bool, err error) {
	name := v1.HandleName(handle)
	counts, _ := w.counts(handle)
	if len(counts) > 0 {
		o := &v1.IPAMHandle{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Labels: map[string]string{v1.LabelHostnameHash: v1.HostnameHash(w.node)},
				Annotations: map[string]string{v1.AnnotationHandleNode: w.node},
			},
			Spec: v1.IPAMHandleSpec{HandleID: handle},
		}
		merge(&o.Spec, counts, nil, nil)
		stored, err := w.table.Create(ctx, o)
		if err == nil {
			w.remember(handle, stored)
		}
		if !errors.Is(err, store.ErrExists) {
			return nil, true, err
		}
	}
	have, err = w.table.Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		w.remember(handle, nil)
		if len(counts) == 0 {
			return nil, true, nil
		}
		err = overtaken(err) // deleted since it was there
	}
	return have, false, err
}

// replace writes want in place of have if they differ, and deletes the object if
// no address is left; it returns what is stored then, if anything.
func (w *handleWriter) replace(ctx context.Context, have, want *v1.IPAMHandle) (*v1.IPAMHandle, error) {
	switch {
	case len(want.Spec.Block) == 0:
		return nil, w.table.Delete(ctx, have)
	case maps.Equal(have.Spec.Block, want.Spec.Block) &&
		maps.Equal(have.Labels, want.Labels) && maps.Equal(have.Annotations, want.Annotations):
		return have, nil
	default:
		return w.table.Update(ctx, want)
	}
}

func (w *handleWriter) remember(handle string, o *v1.IPAMHandle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o == nil {
		delete(w.known, handle)
	} else {
		w.known[handle] = o
	}
}

// merge puts counts in place of what spec says about own and gone blocks, and
// leaves what it says about others.
func merge(spec *v1.IPAMHandleSpec, counts map[netip.Prefix]int, own map[netip.Prefix]bool, gone []netip.Prefix) {
	drop := maps.Clone(own)
	if drop == nil {
		drop = map[netip.Prefix]bool{}
	}
	for _, cidr := range gone {
		drop[cidr] = true
	}
	block := map[string]int{}
	for text, n := range spec.Block {
		if cidr, err := v1.ParseBlock(text); err != nil || !drop[cidr] {
			block[text] = n
		}
	}
	for cidr, n := range counts {
		block[cidr.String()] = n
	}
	spec.Block = block
}
