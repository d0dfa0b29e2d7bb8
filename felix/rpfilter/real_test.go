//go:build ipip

// These need a kernel with the module ipip, which they have it load.

package rpfilter_test

import (
	"testing"

	"github.com/manx-cni/manx/felix/state"
)

// The other variants run without the tag, where they need no emulated kernel.
func init() {
	variants = []variant{{"ipip", func(t *testing.T) *world { return newReal(t, state.TunnelLink) }}}
}
