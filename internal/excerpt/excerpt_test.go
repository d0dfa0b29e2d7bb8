package excerpt

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOf(t *testing.T) {
	long := "annotation a=\"" + strings.Repeat("x", 200_000) + "\": want an address"
	for _, tc := range []struct {
		in         string
		limit      int
		head, tail string
	}{
		{"", 64, "", ""},
		{"short", 64, "short", "short"},
		{strings.Repeat("y", 64), 64, strings.Repeat("y", 64), ""},
		{long, 256, "annotation a=\"xxx", "xx\": want an address"},
		{long, MessageMax, "annotation a=\"xxx", "xx\": want an address"},
		{strings.Repeat("é", 300), 101, "é", "é"},
		{strings.Repeat("\x80", 300), 100, "", ""}, // no beginning of a character anywhere
	} {
		got := Of(tc.in, tc.limit)
		if len(got) > tc.limit || !strings.HasPrefix(got, tc.head) || !strings.HasSuffix(got, tc.tail) {
			t.Errorf("%.20q… in %d bytes: %d bytes, %q", tc.in, tc.limit, len(got), got)
		}
		if utf8.ValidString(tc.in) && !utf8.ValidString(got) {
			t.Errorf("%.20q…: a character is cut: %q", tc.in, got)
		}
	}
	if got := Of(long, 256); !strings.Contains(got, "199,8") || !strings.Contains(got, "bytes left out") {
		t.Errorf("%q does not say how much is missing", got)
	}
}

func TestName(t *testing.T) {
	for _, name := range []string{"node-1", strings.Repeat("a", 253), strings.Repeat("a", 235) + ".-." + strings.Repeat("b", 15)} {
		got := Name(name, ".0123456789abcdef")
		if len(got) > 253 || !strings.HasSuffix(got, ".0123456789abcdef") || strings.Contains(got, "..") || strings.Contains(got, "-.0") {
			t.Errorf("%s: %d bytes: %s", name, len(got), got)
		}
	}
}
