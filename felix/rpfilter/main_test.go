package rpfilter_test

import (
	"testing"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

func TestMain(m *testing.M) { nltest.Main(m) }
