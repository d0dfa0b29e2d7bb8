package selector

import (
	"slices"
	"strings"
)

// Selector decides which sets of labels it matches. The zero value is all().
type Selector struct {
	expr expr // nil is all()
}

// Matches reports whether an object with these labels is selected; nil is no labels.
func (s Selector) Matches(labels map[string]string) bool {
	return s.expr == nil || s.expr.matches(labels)
}

// IsAll reports whether the selector is all(), global() or empty.
func (s Selector) IsAll() bool { return s.expr == nil }

// String returns the selector in its normal form: one space between words, no
// needless parentheses, double quotes unless the value holds one, and the values
// of a set sorted without repetition. Parse of it gives an equal selector.
func (s Selector) String() string {
	var b strings.Builder
	root(s).write(&b)
	return b.String()
}

func root(s Selector) expr {
	if s.expr == nil {
		return everything{}
	}
	return s.expr
}

// expr is a node of the syntax tree.
type expr interface {
	matches(labels map[string]string) bool
	write(b *strings.Builder)
	// binding is how closely the node holds its operands together: a node is
	// written in parentheses where it stands in one that binds more closely.
	binding() int
}

const (
	bindOr = iota
	bindAnd
	bindNot
)

type (
	everything struct{}
	has        struct{ key string }
	// compare is an operator between a label and one string.
	compare struct {
		op         op
		key, value string
	}
	// in holds sorted, distinct values.
	in struct {
		key    string
		values []string
		not    bool
	}
	not struct{ of expr }
	// and and or hold two or more operands, none of them of their own kind.
	and []expr
	or  []expr
)

// op is an operator between a label and one string, as it is written.
type op string

const (
	opEqual    op = "=="
	opNotEqual op = "!="
	opContains op = "contains"
	opStarts   op = "starts with"
	opEnds     op = "ends with"
)

func (everything) matches(map[string]string) bool { return true }

func (e has) matches(labels map[string]string) bool {
	_, ok := labels[e.key]
	return ok
}

func (e compare) matches(labels map[string]string) bool {
	got, ok := labels[e.key]
	if e.op == opNotEqual {
		return !ok || got != e.value
	}
	if !ok {
		return false
	}
	switch e.op {
	case opContains:
		return strings.Contains(got, e.value)
	case opStarts:
		return strings.HasPrefix(got, e.value)
	case opEnds:
		return strings.HasSuffix(got, e.value)
	default:
		return got == e.value
	}
}

func (e in) matches(labels map[string]string) bool {
	got, ok := labels[e.key]
	_, found := slices.BinarySearch(e.values, got)
	return (ok && found) != e.not
}

func (e not) matches(labels map[string]string) bool { return !e.of.matches(labels) }

func (e and) matches(labels map[string]string) bool {
	return !slices.ContainsFunc(e, func(o expr) bool { return !o.matches(labels) })
}

func (e or) matches(labels map[string]string) bool {
	return slices.ContainsFunc(e, func(o expr) bool { return o.matches(labels) })
}

func (everything) binding() int { return bindNot }
func (has) binding() int        { return bindNot }
func (compare) binding() int    { return bindNot }
func (in) binding() int         { return bindNot }
func (not) binding() int        { return bindNot }
func (and) binding() int        { return bindAnd }
func (or) binding() int         { return bindOr }

func (everything) write(b *strings.Builder) { b.WriteString("all()") }

func (e has) write(b *strings.Builder) { b.WriteString("has(" + e.key + ")") }

func (e compare) write(b *strings.Builder) {
	b.WriteString(e.key + " " + string(e.op) + " " + quote(e.value))
}

func (e in) write(b *strings.Builder) {
	b.WriteString(e.key)
	if e.not {
		b.WriteString(" not")
	}
	b.WriteString(" in {")
	for i, v := range e.values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(v))
	}
	b.WriteString("}")
}

func (e not) write(b *strings.Builder) {
	b.WriteString("!")
	writeInside(b, e.of, bindNot)
}

func (e and) write(b *strings.Builder) { writeList(b, e, " && ", bindAnd) }
func (e or) write(b *strings.Builder)  { writeList(b, e, " || ", bindOr) }

func writeList(b *strings.Builder, operands []expr, between string, binding int) {
	for i, o := range operands {
		if i > 0 {
			b.WriteString(between)
		}
		writeInside(b, o, binding)
	}
}

// writeInside writes an operand of a node that binds as told.
func writeInside(b *strings.Builder, operand expr, binding int) {
	if operand.binding() >= binding {
		operand.write(b)
		return
	}
	b.WriteString("(")
	operand.write(b)
	b.WriteString(")")
}

// quote writes a string that came out of quotes: it does not hold both kinds.
func quote(s string) string {
	if strings.Contains(s, `"`) {
		return "'" + s + "'"
	}
	return `"` + s + `"`
}
