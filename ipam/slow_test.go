package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// silent is an API server that does not answer some requests: it holds them until
// their caller gives up.
func silent(which func(fake.Op) bool) fake.Hook {
	return func(ctx context.Context, op fake.Op) (error, error) {
		if which(op) {
			<-ctx.Done()
		}
		return nil, nil
	}
}

func blockWrite(op fake.Op) bool { return op.Verb == "update" && op.Resource == v1.PluralIPAMBlocks }

// TestSlowWriteIsNamed asks for addresses while the API server does not answer the
// write of the block: the request whose write it is, and one that comes later, say so
// while they wait and when their time is over.
func TestSlowWriteIsNamed(t *testing.T) {
	b, s, n := warm(t)
	b.SetHook(silent(blockWrite))
	const why = "the API server has not answered the write of block 10.0.0."
	errs := make(chan error, 2)
	var reports [2]progress.Report
	began := time.Now()
	for i := range reports {
		c, cancel := context.WithTimeout(progress.Into(t.Context(), &reports[i]), time.Second)
		defer cancel()
		go func() {
			_, err := n.Assign(c, request(fmt.Sprintf("slow-%d", i)))
			errs <- err
		}()
		eventually(t, "said what is waited for", func() bool {
			awaits, ok := reports[i].Current()
			return ok && strings.HasPrefix(awaits.Missing, why) && awaits.Remedy == progress.CheckAPIServer
		})
	}
	for range reports {
		err := <-errs
		var over *progress.OverdueError
		if !errors.As(err, &over) || !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(over.Missing, why) ||
			over.For <= 0 || over.For > time.Since(began) {
			t.Errorf("%v; want %q", err, why)
		}
	}
	for i := range reports {
		if awaits, ok := reports[i].Current(); ok {
			t.Errorf("afterwards: %v", awaits)
		}
	}
	b.SetHook(nil)
	n.release("slow-0")
	n.release("slow-1")
	n.flush()
	if held := audit(t, s); len(held) != 1 {
		t.Errorf("left %v", held)
	}
}

// TestSlowServerIsAskedAgain lets the answer to each kind of request come too late,
// three times, with and without effect. The request of a pod succeeds all the same,
// and nothing is assigned twice or left behind.
func TestSlowServerIsAskedAgain(t *testing.T) {
	is := func(verb, resource string) func(fake.Op) bool {
		return func(op fake.Op) bool { return op.Verb == verb && op.Resource == resource }
	}
	for _, tc := range []struct {
		name   string
		which  func(fake.Op) bool
		cold   bool // the node has no block yet
		borrow bool
	}{
		{name: "write of the block", which: blockWrite},
		{name: "settings, for a claim", which: is("get", v1.PluralIPAMConfigs), cold: true},
		{name: "list of blocks, for a claim", which: is("list", v1.PluralIPAMBlocks), cold: true},
		{name: "affinity of a claim", which: is("create", v1.PluralBlockAffinities), cold: true},
		{name: "block of a claim", which: is("create", v1.PluralIPAMBlocks), cold: true},
		{name: "confirmation of a claim", which: is("update", v1.PluralBlockAffinities), cold: true},
		{name: "handle of a borrowed address", which: is("create", v1.PluralIPAMHandles), borrow: true},
		{name: "write of a borrowed block", which: blockWrite, borrow: true},
	} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, done=%t", tc.name, done), func(t *testing.T) {
				t.Parallel()
				var b *fake.Backend
				var s store.Store
				var n *node
				switch {
				case tc.borrow:
					b, s, _, n = lenderAndBorrower(t, "10.0.0.0/29", 29)
				case tc.cold:
					b = &fake.Backend{}
					s = store.New(b)
					n = newNode(t, s, "n1", ipPool("p", "10.0.0.0/24", 26))
				default:
					b, s, n = warm(t)
				}
				var left atomic.Int64
				late := func() {
					left.Store(3)
					b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
						switch {
						case !tc.which(op) || left.Add(-1) < 0:
							return nil, nil
						case done:
							return nil, context.DeadlineExceeded
						default:
							return context.DeadlineExceeded, nil
						}
					})
				}
				late()
				addr := n.assign("pod")
				if left.Load() > 2 {
					t.Error("nothing was late: the case shows nothing")
				}
				b.SetHook(nil)
				n.flush()
				held := audit(t, s)
				if got := held["pod"]; len(got) != 1 || got[0] != addr {
					t.Errorf("pod holds %v, was told %s", got, addr)
				}
				late()
				if got := n.release("pod"); len(got) != 1 && !done {
					t.Errorf("released %v", got)
				}
				b.SetHook(nil)
				n.flush()
				if got := audit(t, s)["pod"]; len(got) != 0 {
					t.Errorf("pod still holds %v", got)
				}
			})
		}
	}
}

// TestRefusedIsNotSlow has the API server refuse: the error comes at once, however much
// time there is.
func TestRefusedIsNotSlow(t *testing.T) {
	b, _, n := warm(t)
	tries := 0
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
		if blockWrite(op) {
			tries++
		}
		return errDown, nil
	})
	if _, err := n.Assign(ctx(t), request("pod")); !errors.Is(err, errDown) || progress.IsOverdue(err) || tries != 1 {
		t.Errorf("%v after %d tries; want the refusal after one", err, tries)
	}
	b.SetHook(nil)
}

// TestNoDeadlineIsNotPatient: who sets no time hears of the first answer that is late.
func TestNoDeadlineIsNotPatient(t *testing.T) {
	b, _, n := warm(t)
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
		if blockWrite(op) {
			return context.DeadlineExceeded, nil
		}
		return nil, nil
	})
	if _, err := n.Assign(t.Context(), request("pod")); !progress.IsOverdue(err) {
		t.Errorf("%v; want an OverdueError", err)
	}
	b.SetHook(nil)
}

// TestRequestsAreNamed lists how requests are called in errors.
func TestRequestsAreNamed(t *testing.T) {
	cidr, cidr6 := netip.MustParsePrefix("10.244.1.64/26"), netip.MustParsePrefix("fd00:10::40/122")
	b := &fake.Backend{}
	b.SetHook(func(context.Context, fake.Op) (error, error) { return context.DeadlineExceeded, nil })
	s := store.New(b)
	block := func(c netip.Prefix) *v1.IPAMBlock {
		o := &v1.IPAMBlock{}
		o.Name, o.ResourceVersion = v1.BlockName(c), "1"
		return o
	}
	handle := &v1.IPAMHandle{}
	handle.Name = "k8s-pod-network.c1"
	for want, call := range map[string]func() error{
		"the write of block 10.244.1.64/26":     func() error { _, err := s.Blocks.Update(ctx(t), block(cidr)); return err },
		"the write of block fd00-10--40-122":    func() error { _, err := s.Blocks.Update(ctx(t), block(cidr6)); return err },
		"the creation of handle " + handle.Name: func() error { _, err := s.Handles.Create(ctx(t), handle); return err },
		"the list of block affinities":          func() error { _, _, err := s.Affinities.List(ctx(t), ""); return err },
		"the read of block affinity n-10-0-0-0-26": func() error {
			_, err := s.Affinities.Get(ctx(t), "n-10-0-0-0-26")
			return err
		},
		"the read of IPAMConfig default": func() error { _, err := s.Config(ctx(t)); return err },
	} {
		if err := call(); err == nil || !strings.HasPrefix(progress.Overdue(err).Error(), "the API server has not answered "+want+" for ") {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
