package selector

import (
	"errors"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func mustParse(t *testing.T, text string) Selector {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMatches(t *testing.T) {
	labels := map[string]string{"a": "x", "b": "yes", "topology.kubernetes.io/zone-1": "eu-west", "empty": "", "has": "h", "in": "i"}
	for text, want := range map[string]bool{
		"":                       true,
		" \t\n":                  true,
		"all()":                  true,
		"global ( )":             true,
		"!all()":                 false,
		"has(a)":                 true,
		"has( a )":               true,
		"has(z)":                 false,
		"!has(z)":                true,
		"!!has(a)":               true,
		"a == 'x'":               true,
		`a=="x"`:                 true,
		"a == 'y'":               false,
		"z == ''":                false,
		"empty == ''":            true,
		"a != 'x'":               false,
		"a != 'y'":               true,
		"z != 'x'":               true,
		"a in {'x', 'y'}":        true,
		"a in{'y',\"x\",}":       true,
		"a in {}":                false,
		"a in {'y'}":             false,
		"z in {''}":              false,
		"a not in {'x'}":         false,
		"a not  in {'y'}":        true,
		"z not in {'x'}":         true,
		"z not in {}":            true,
		"b contains 'e'":         true,
		"b contains 'es'":        true,
		"b contains 'see'":       false,
		"z contains ''":          false,
		"b starts with 'ye'":     true,
		"b starts with 'es'":     false,
		"b ends  with 'es'":      true,
		"b ends with 'ye'":       false,
		"z starts with ''":       false,
		"has == 'h'":             true,
		"in in {'i'}":            true,
		"!a == 'x'":              false,
		"!(a == 'x')":            false,
		"! (a == 'y' || has(z))": true,
		"topology.kubernetes.io/zone-1 == 'eu-west'": true,
		"has(a) && has(z)":                           false,
		"has(a) || has(z)":                           true,
		"has(z) && has(z) || has(a)":                 true,
		"has(z) && (has(z) || has(a))":               false,
		"has(a) || has(z) && has(z)":                 true,
		"(has(a) || has(z)) && has(z)":               false,
		"!has(a) && has(z) || !has(z)":               true,
	} {
		if got := mustParse(t, text).Matches(labels); got != want {
			t.Errorf("%q matches %v: %v, want %v", text, labels, got, want)
		}
	}
	if !mustParse(t, "a != 'b'").Matches(nil) || mustParse(t, "has(a)").Matches(nil) {
		t.Error("no labels are not like an empty map")
	}
}

func TestZeroMatchesEverything(t *testing.T) {
	var zero Selector
	if !zero.Matches(nil) || !zero.IsAll() || zero.String() != "all()" {
		t.Errorf("the zero selector is %s", zero)
	}
	for _, text := range []string{"", "all()", "(global())", "!!all()"} {
		if s := mustParse(t, text); !reflect.DeepEqual(s, zero) {
			t.Errorf("%q is %s, want the zero selector", text, s)
		}
	}
}

func TestString(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "all()",
		"global()":                          "all()",
		"a=='x'":                            `a == "x"`,
		`a == 'say "x"'`:                    `a == 'say "x"'`,
		`a == "it's"`:                       `a == "it's"`,
		"a in{'y','x','y'}":                 `a in {"x", "y"}`,
		"a not in{}":                        `a not in {}`,
		"a starts   with 'x'":               `a starts with "x"`,
		"((a == 'x'))":                      `a == "x"`,
		"!!!(has(a))":                       "!has(a)",
		"!(!(has(a)))":                      "has(a)",
		"!(has(a)&&has(b))":                 "!(has(a) && has(b))",
		"has(a)&&(has(b)&&!has(c))||has(d)": "has(a) && has(b) && !has(c) || has(d)",
		"(has(a)||has(b))&&has(c)":          "(has(a) || has(b)) && has(c)",
		"(has(a)||(has(b)||has(c)))":        "has(a) || has(b) || has(c)",
	} {
		if got := mustParse(t, text).String(); got != want {
			t.Errorf("%q is written %s, want %s", text, got, want)
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	const comparison = "==, !=, in, not in, contains, starts with or ends with"
	for _, tc := range []struct {
		text     string
		position int
		found    string
		expected string
	}{
		{"a", 2, "the end", comparison},
		{"a = 'x'", 3, `"="`, comparison},
		{"a === 'x'", 5, `"="`, "a string in quotes"},
		{"a == x", 6, `"x"`, "a string in quotes"},
		{"a == 'x", 8, "the end", "the closing '"},
		{"a == 'x' b", 10, `"b"`, "&&, || or the end"},
		{"a == 'x' &", 10, `"&"`, "&&, || or the end"},
		{"a == 'x' &&", 12, "the end", wantOperand},
		{"&& a == 'x'", 1, `"&&"`, wantOperand},
		{"(a == 'x'", 10, "the end", ")"},
		{"a == 'x')", 9, `")"`, "&&, || or the end"},
		{"()", 2, `")"`, wantOperand},
		{"has()", 5, `")"`, "a label key"},
		{"has(a b)", 7, `"b"`, ")"},
		{"any()", 1, `"any"`, wantOperand},
		{"all", 4, "the end", comparison},
		{"a in 'x'", 6, `"'"`, "{"},
		{"a in {x}", 7, `"x"`, "a string in quotes or }"},
		{"a in {'x' 'y'}", 11, `"'"`, ", or }"},
		{"a in {,}", 7, `","`, "a string in quotes or }"},
		{"a not 'x'", 7, `"'"`, "in"},
		{"a notin {'x'}", 3, `"notin"`, comparison},
		{"a starts 'x'", 10, `"'"`, "with"},
		{"a == 'x' ∧ b", 10, `"∧"`, "&&, || or the end"},
	} {
		_, err := Parse(tc.text)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%q: %v, want a SyntaxError", tc.text, err)
			continue
		}
		want := SyntaxError{Selector: tc.text, Position: tc.position, Found: tc.found, Expected: tc.expected}
		if *syntax != want {
			t.Errorf("%q:\n got %v\nwant %v", tc.text, syntax, &want)
		}
	}
}

func TestBounds(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("(", n) + "has(a)" + strings.Repeat(")", n) }
	mustParse(t, nested(MaxDepth))
	if _, err := Parse(nested(MaxDepth + 1)); err == nil || !strings.Contains(err.Error(), "parentheses") {
		t.Errorf("too deep: %v", err)
	}
	wide := strings.Repeat("(has(a))||", MaxLength/10-1) + "has(a)"
	mustParse(t, wide) // depth is not how many there are
	if _, err := Parse(strings.Repeat(" ", MaxLength+1)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("too long: %v", err)
	}
	mustParse(t, strings.Repeat("!", MaxLength-6)+"has(a)")
}

var (
	someKeys   = []string{"a", "b", "c.d/e-f"}
	someValues = []string{"", "x", "xy", "yx", `"`, "'"}
)

// randomText writes a selector of random spacing, quotes and parentheses.
func randomText(r *rand.Rand, depth int) string {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	key := func() string { return pick(someKeys...) }
	value := func() string {
		v := pick(someValues...)
		q := pick("'", `"`)
		if strings.Contains(v, q) {
			q = map[string]string{"'": `"`, `"`: "'"}[q]
		}
		return q + v + q
	}
	if depth == 0 || r.IntN(4) == 0 {
		switch r.IntN(5) {
		case 0:
			return pick("all()", "global( )")
		case 1:
			return "has(" + key() + ")"
		case 2:
			var values []string
			for range r.IntN(4) {
				values = append(values, value())
			}
			return key() + pick(" in ", " not in ") + "{" + strings.Join(values, pick(",", ", ")) + "}"
		default:
			return key() + pick(" == ", "==", " != ", " contains ", " starts with ", " ends  with ") + value()
		}
	}
	switch r.IntN(3) {
	case 0:
		return "!(" + randomText(r, depth-1) + ")"
	default:
		return "(" + randomText(r, depth-1) + ")" + pick("&&", " || ", " && ") + "(" + randomText(r, depth-1) + ")"
	}
}

func randomLabels(r *rand.Rand) map[string]string {
	labels := map[string]string{}
	for _, k := range someKeys {
		if r.IntN(3) > 0 {
			labels[k] = someValues[r.IntN(len(someValues))]
		}
	}
	return labels
}

// TestLaws checks what holds for every selector: its text reads back as itself,
// and De Morgan's laws.
func TestLaws(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	both := map[bool]int{}
	for range 3000 {
		a, b := randomText(r, 4), randomText(r, 4)
		sa, sb := mustParse(t, a), mustParse(t, b)
		if again := mustParse(t, sa.String()); !reflect.DeepEqual(again, sa) || again.String() != sa.String() {
			t.Fatalf("seed %d: %q is written %s, which reads as %s", seed, a, sa, again)
		}
		notAnd, orNot := mustParse(t, "!(("+a+")&&("+b+"))"), mustParse(t, "!("+a+")||!("+b+")")
		notOr, andNot := mustParse(t, "!(("+a+")||("+b+"))"), mustParse(t, "!("+a+")&&!("+b+")")
		for range 8 {
			l := randomLabels(r)
			ma, mb := sa.Matches(l), sb.Matches(l)
			both[ma]++
			if notAnd.Matches(l) != (!(ma && mb)) || orNot.Matches(l) != (!(ma && mb)) {
				t.Fatalf("seed %d: not both of %q and %q on %v", seed, a, b, l)
			}
			if notOr.Matches(l) != (!(ma || mb)) || andNot.Matches(l) != (!(ma || mb)) {
				t.Fatalf("seed %d: neither of %q and %q on %v", seed, a, b, l)
			}
		}
	}
	if both[true] < 1000 || both[false] < 1000 {
		t.Fatalf("the random selectors are too much alike: %v", both)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "all()", "a == 'x' && !(has(b) || c not in {'y', \"z\"})", "a starts with '", "((((", "!!!a", "k contains 'é'",
	} {
		f.Add(s)
	}
	labels := map[string]string{"a": "x", "b": "", "k": "é"}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			var syntax *SyntaxError
			if errors.As(err, &syntax) && (syntax.Position < 1 || syntax.Position > len(text)+1) {
				t.Fatalf("the error points outside: %v", err)
			}
			return
		}
		written := s.String()
		if len(written) > MaxLength { // spaces were added
			return
		}
		again, err := Parse(written)
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%q is written %q, which reads as %v (%v)", text, written, again, err)
		}
		if again.Matches(maps.Clone(labels)) != s.Matches(labels) {
			t.Fatalf("%q and %q differ", text, written)
		}
	})
}
