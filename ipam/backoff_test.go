package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// A block that is to be read again, at an API server that does not let us, is tried less
// and less often, and soon after the server is back.
func TestRecheckBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fake.Backend{}
		pools := []*v1.IPPool{ipPool("p", "10.0.0.0/24", 26)}
		a := ipam.New(ipam.Config{Node: "n1", Store: store.New(b), Pools: func() []*v1.IPPool { return pools }, Ticks: make(chan time.Time)})
		run, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(run) }()
		defer func() { cancel(); <-done }()
		if err := a.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Assign(t.Context(), ipam.Request{Handle: "h", Num4: 1}); err != nil {
			t.Fatal(err)
		}
		block := a.Blocks()[0].CIDR
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock: the handle is written, nothing else is to be done
		b.SetHook(func(context.Context, fake.Op) (before, after error) { return errors.New("away"), nil })
		b.TakeOps()
		a.Recheck(netip.PrefixFrom(block.Addr(), 32))
		time.Sleep(10 * time.Minute) //nolint:forbidigo // the bubble's clock
		if n := len(b.TakeOps()); n < 5 || n > 60 {
			t.Errorf("%d requests in ten minutes; want 5 to 60", n)
		}
		b.SetHook(nil)
		time.Sleep(30 * time.Second) //nolint:forbidigo // the bubble's clock
		if n := len(b.TakeOps()); n == 0 || n > 4 {
			t.Errorf("%d requests in half a minute after the server is back; want some and few", n)
		}
		a.Recheck(netip.PrefixFrom(block.Addr(), 32)) // as fast as ever
		time.Sleep(2 * time.Second)                   //nolint:forbidigo // the bubble's clock
		if n := len(b.TakeOps()); n == 0 {
			t.Error("not read again within two seconds")
		}
	})
}
