package selector

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds of a selector, so that one object cannot use up the stack or the time
// of every node that reads it.
const (
	// MaxLength is in bytes.
	MaxLength = 4096
	// MaxDepth is how deep parentheses may stand in one another.
	MaxDepth = 64
)

// SyntaxError says where a selector is wrong.
type SyntaxError struct {
	Selector string // as it was given
	Position int    // of the byte that is wrong, counted from 1
	Found    string // what stands there
	Expected string // what could stand there
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("selector %q: at byte %d: found %s, expected %s", e.Selector, e.Position, e.Found, e.Expected)
}

// Parse reads a selector; the empty one is all(). The error is a *SyntaxError,
// or says that the selector is too long or nested too deep.
func Parse(text string) (Selector, error) {
	if len(text) > MaxLength {
		return Selector{}, fmt.Errorf("selector of %d bytes is too long: at most %d are read", len(text), MaxLength)
	}
	p := parser{text: text}
	p.space()
	if p.rest() == "" {
		return Selector{}, nil
	}
	e, err := p.disjunction()
	if err != nil {
		return Selector{}, err
	}
	if p.rest() != "" {
		return Selector{}, p.unexpected("&&, || or the end")
	}
	if _, all := e.(everything); all {
		return Selector{}, nil
	}
	return Selector{expr: e}, nil
}

// parser reads text from at on. Every method that reads something also reads
// the space after it.
type parser struct {
	text  string
	at    int
	depth int
}

func (p *parser) rest() string { return p.text[p.at:] }

func (p *parser) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// take reads a token if it comes next.
func (p *parser) take(token string) bool {
	if !strings.HasPrefix(p.rest(), token) {
		return false
	}
	p.at += len(token)
	p.space()
	return true
}

// word reads a label key, a function's or an operator's name; "" is none.
func (p *parser) word() string {
	start := p.at
	for p.at < len(p.text) && isKey(p.text[p.at]) {
		p.at++
	}
	w := p.text[start:p.at]
	p.space()
	return w
}

func isKey(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_./-", c) >= 0
}

// unexpected is the error of what comes next.
func (p *parser) unexpected(expected string) error {
	found := "the end"
	if rest := p.rest(); rest != "" {
		found = fmt.Sprintf("%q", nextToken(rest))
	}
	return &SyntaxError{Selector: p.text, Position: p.at + 1, Found: found, Expected: expected}
}

// nextToken is enough of what comes next for a person to see it.
func nextToken(rest string) string {
	if end := strings.IndexFunc(rest, func(r rune) bool { return r > 0x7f || !isKey(byte(r)) }); end > 0 {
		return rest[:end]
	} else if end < 0 {
		return rest
	}
	for _, two := range []string{"==", "!=", "&&", "||"} {
		if strings.HasPrefix(rest, two) {
			return two
		}
	}
	for _, r := range rest { // one whole character
		return string(r)
	}
	return ""
}

func (p *parser) disjunction() (expr, error) {
	operands, err := p.list("||", p.conjunction)
	if err != nil || len(operands) == 1 {
		return first(operands), err
	}
	var flat or
	for _, o := range operands {
		if same, ok := o.(or); ok {
			flat = append(flat, same...)
			continue
		}
		flat = append(flat, o)
	}
	return flat, nil
}

func (p *parser) conjunction() (expr, error) {
	operands, err := p.list("&&", p.operand)
	if err != nil || len(operands) == 1 {
		return first(operands), err
	}
	var flat and
	for _, o := range operands {
		if same, ok := o.(and); ok {
			flat = append(flat, same...)
			continue
		}
		flat = append(flat, o)
	}
	return flat, nil
}

// list reads one or more operands with an operator between them.
func (p *parser) list(between string, operand func() (expr, error)) (operands []expr, err error) {
	for {
		o, err := operand()
		if err != nil {
			return nil, err
		}
		operands = append(operands, o)
		if !p.take(between) {
			return operands, nil
		}
	}
}

func first(operands []expr) expr {
	if len(operands) == 0 {
		return nil
	}
	return operands[0]
}

const wantOperand = "a label key, has(…), all(), global(), ! or ("

func (p *parser) operand() (expr, error) {
	negated := false
	for p.take("!") {
		negated = !negated
	}
	e, err := p.atom()
	if err != nil || !negated {
		return e, err
	}
	if inner, double := e.(not); double {
		return inner.of, nil
	}
	return not{e}, nil
}

func (p *parser) atom() (expr, error) {
	if p.take("(") {
		return p.group()
	}
	start := p.at
	w := p.word()
	if w == "" {
		return nil, p.unexpected(wantOperand)
	}
	if !strings.HasPrefix(p.rest(), "(") {
		return p.comparison(w)
	}
	switch w {
	case "all", "global":
		p.take("(")
		return everything{}, p.close()
	case "has":
		p.take("(")
		key := p.word()
		if key == "" {
			return nil, p.unexpected("a label key")
		}
		return has{key}, p.close()
	}
	p.at = start
	return nil, p.unexpected(wantOperand)
}

// group reads what follows an opening parenthesis.
func (p *parser) group() (expr, error) {
	if p.depth++; p.depth > MaxDepth {
		return nil, fmt.Errorf("selector %q: at byte %d: more than %d parentheses in one another", p.text, p.at, MaxDepth)
	}
	e, err := p.disjunction()
	if err != nil {
		return nil, err
	}
	p.depth--
	return e, p.close()
}

func (p *parser) close() error {
	if !p.take(")") {
		return p.unexpected(")")
	}
	return nil
}

// comparison reads what follows a label key.
func (p *parser) comparison(key string) (expr, error) {
	const want = "==, !=, in, not in, contains, starts with or ends with"
	for _, o := range []op{opEqual, opNotEqual} {
		if p.take(string(o)) {
			return p.compare(o, key)
		}
	}
	start := p.at
	switch p.word() {
	case "contains":
		return p.compare(opContains, key)
	case "starts":
		return p.after("with", func() (expr, error) { return p.compare(opStarts, key) })
	case "ends":
		return p.after("with", func() (expr, error) { return p.compare(opEnds, key) })
	case "in":
		return p.set(key, false)
	case "not":
		return p.after("in", func() (expr, error) { return p.set(key, true) })
	}
	p.at = start
	return nil, p.unexpected(want)
}

// after reads the second word of an operator, then goes on.
func (p *parser) after(word string, then func() (expr, error)) (expr, error) {
	start := p.at
	if p.word() != word {
		p.at = start
		return nil, p.unexpected(word)
	}
	return then()
}

func (p *parser) compare(o op, key string) (expr, error) {
	v, err := p.quoted("a string in quotes")
	if err != nil {
		return nil, err
	}
	return compare{op: o, key: key, value: v}, nil
}

// set reads strings in braces; there may be none, and a comma after the last.
func (p *parser) set(key string, negated bool) (expr, error) {
	if !p.take("{") {
		return nil, p.unexpected("{")
	}
	var values []string
	for !p.take("}") {
		v, err := p.quoted("a string in quotes or }")
		if err != nil {
			return nil, err
		}
		values = append(values, v)
		if !p.take(",") && !strings.HasPrefix(p.rest(), "}") {
			return nil, p.unexpected(", or }")
		}
	}
	slices.Sort(values)
	return in{key: key, values: slices.Compact(values), not: negated}, nil
}

func (p *parser) quoted(want string) (string, error) {
	rest := p.rest()
	if rest == "" || rest[0] != '\'' && rest[0] != '"' {
		return "", p.unexpected(want)
	}
	end := strings.IndexByte(rest[1:], rest[0])
	if end < 0 {
		p.at = len(p.text)
		return "", p.unexpected("the closing " + rest[:1])
	}
	p.at += end + 2
	p.space()
	return rest[1 : end+1], nil
}
