package nodeapi

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// An error that quotes an annotation of 256 KiB crosses the socket with a bound, its
// code, and what to do.
func TestErrorsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 256<<10)
	for _, err := range []error{
		Errorf(CodeTryAgain, "pool %q: want another", long),
		fmt.Errorf("assign: %w", Errorf(CodeTryAgain, "pool %q: want another", long)),
		&Error{Code: CodeTryAgain, Msg: "assign", Details: long + ": want another"},
	} {
		if e := AsError(err); len(e.Error()) > 5<<10 || e.Code != CodeTryAgain || !strings.HasSuffix(e.Error(), "want another") {
			t.Errorf("code %d, %d bytes: …%s", e.Code, len(e.Error()), e.Error()[max(0, len(e.Error())-40):])
		}
	}
	if e := AsError(errors.New("short")); e.Msg != "short" || e.Code != CodeInternal {
		t.Errorf("%+v", e)
	}
}
