package agent

import (
	"testing"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

// The tests run in a network namespace of their own: some of them have a real dataplane.
func TestMain(m *testing.M) { nltest.Main(m) }
