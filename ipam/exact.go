package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/pool"
	"github.com/manx-cni/manx/ipam/store"
)

// exact asks for the block of one address: to be claimed, or opened if it is
// another's.
type exact struct {
	addr   netip.Addr
	cidr   netip.Prefix
	handle string
	repair bool
}

// exact returns the draft from which a request can take an address, or what is
// missing for that.
func (r *round) exact(req *Request, addr netip.Addr) (*draft, outcome) {
	if user, used := r.inUse[addr]; used && user != req.Handle {
		return nil, refuse(addr, fmt.Sprintf("an interface of this node has it for handle %s", user))
	}
	var in pool.Pool
	var err error
	if req.repair {
		in, err = pool.Home(r.pools(), addr)
	} else {
		in, err = pool.Find(r.pools(), r.a.Barred(), addr)
	}
	if err != nil {
		return nil, refuse(addr, err.Error())
	}
	d := r.draftOf(addr)
	if d == nil || !d.usable() && !r.open[d.cidr] {
		cidr := in.BlockOf(addr)
		if d != nil {
			cidr = d.cidr
		}
		return nil, outcome{exact: &exact{addr, cidr, req.Handle, req.repair}}
	}
	holder, taken := d.block.Holder(addr)
	switch {
	case taken && r.fresh[d.cidr]:
		return nil, refuse(addr, takenBy(holder))
	case taken:
		r.a.markStale(d.cidr)
		return nil, outcome{reread: true}
	}
	if _, taken := d.work.Holder(addr); taken {
		return nil, outcome{reread: true} // by another request of this round
	}
	if d.work.Clone().AssignIP(addr, block.Owner{}) != nil {
		return nil, refuse(addr, fmt.Sprintf("it is neither assigned nor free in IPAMBlock %s (manxctl ipam check)", v1.BlockName(d.cidr)))
	}
	return d, outcome{}
}

func refuse(addr netip.Addr, reason string) outcome {
	return outcome{err: &AddrError{addr, reason}}
}

// obtain gets the blocks of addresses that were asked for by name, and returns
// the requests that can go on because of it.
func (r *round) obtain(waiting []*request) (again []*request) {
	errs := map[netip.Addr]error{}
	for _, q := range waiting {
		want := q.outcome.exact
		err, tried := errs[want.addr]
		if !tried {
			err = r.obtainBlock(r.ctx, want)
			errs[want.addr] = err
		}
		if err != nil && !r.patient(q, err) {
			q.finish(nil, err)
		} else {
			again = append(again, q)
		}
	}
	return again
}

// obtainBlock claims the block of an address if it is nobody's yet, and opens it
// for this batch if it is another's and may be borrowed from.
func (r *round) obtainBlock(ctx context.Context, want *exact) error {
	a := r.a
	config, err := a.Store.Config(ctx)
	if err != nil {
		return err
	}
	object, err := a.blockAt(ctx, want)
	var bad *malformedError
	switch {
	case errors.As(err, &bad):
		return &AddrError{want.addr, bad.Error()}
	case err != nil:
		return err
	case object == nil || object.OwnedBy(a.Node):
		return r.claimFor(ctx, want, config, object != nil)
	}
	o := a.newEntry(want.cidr, nil, object)
	node, host := "", false
	if o.block != nil {
		node, host = o.block.Host()
	}
	switch {
	case o.block == nil:
		return &AddrError{want.addr, o.problem}
	case slices.Contains(a.heldBy(o.block, want.handle), want.addr): // it is borrowed already, and was forgotten
		r.enter(o)
		return nil
	case !host && object.Spec.Affinity != nil:
		return &AddrError{want.addr, fmt.Sprintf("its block is %s", ownerOf(object))}
	case config.StrictAffinity && host:
		return &AddrError{want.addr, fmt.Sprintf("its block %s is node %s's and IPAMConfig strictAffinity is true; "+
			"set it to false or choose an address of this node's blocks", want.cidr, node)}
	case config.StrictAffinity:
		return &AddrError{want.addr, fmt.Sprintf("its block %s is nobody's any more and IPAMConfig strictAffinity is true", want.cidr)}
	}
	r.enter(o)
	r.open[want.cidr] = true
	return nil
}

// enter puts another's block in place that has just been read.
func (r *round) enter(o *entry) {
	r.a.enterLender(r.a.get(o.cidr), o)
	r.fresh[o.cidr] = true
}

// blockAt returns the block that an address is in, or nil when there is none. A
// pool may have been made anew with another blockSize; what is left of the old
// one's blocks is found, and want's block corrected.
func (a *Allocator) blockAt(ctx context.Context, want *exact) (*v1.IPAMBlock, error) {
	object, err := a.getBlock(ctx, v1.BlockName(want.cidr))
	if !errors.Is(err, store.ErrNotFound) {
		return object, err
	}
	blocks, _, err := a.Store.Blocks.List(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, o := range blocks {
		cidr, err := o.Range()
		switch {
		case err != nil || !cidr.Overlaps(want.cidr):
		case cidr.Contains(want.addr):
			want.cidr = cidr
			return o, nil
		default:
			return nil, &AddrError{
				want.addr, fmt.Sprintf("its block would be %s, which overlaps block %s of another size; release that one first", want.cidr, cidr),
			}
		}
	}
	return nil, nil
}

// claimFor claims the block of an address, or takes it up again if it is this
// node's already.
func (r *round) claimFor(ctx context.Context, want *exact, config v1.IPAMConfigSpec, ours bool) error {
	a := r.a
	if !ours && !want.repair {
		owned := a.blocksOf(family.Of(want.cidr.Addr()))
		switch limit := config.BlockLimit(); {
		case !config.AutoAllocateBlocks:
			return &AddrError{
				want.addr, fmt.Sprintf("nobody has its block %s and IPAMConfig autoAllocateBlocks is false; set it to true", want.cidr),
			}
		case owned >= limit:
			return &AddrError{want.addr, fmt.Sprintf("nobody has its block %s, this node has %d and IPAMConfig maxBlocksPerHost allows %d; raise it",
				want.cidr, owned, limit)}
		}
	}
	got, err := a.claimAt(ctx, want.cidr)
	if err != nil || got {
		return err
	}
	if o := a.get(want.cidr); o.own() {
		return &AddrError{want.addr, fmt.Sprintf("its block %s is %s", want.cidr, o.describe())}
	}
	r.conflict = true // another took the block in this moment: it may be borrowed from
	return nil
}
