package cmdline

import "testing"

func TestFlagsOnly(t *testing.T) {
	if err := flagsOnly(nil); err != nil {
		t.Error(err)
	}
	if err := flagsOnly([]string{"ipip"}); Code(err) != ExitUsage ||
		err.Error() != `unexpected argument "ipip": there are flags only, which -help lists` {
		t.Error(err)
	}
}
