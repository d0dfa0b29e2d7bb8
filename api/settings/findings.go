package settings

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/manx-cni/manx/internal/nearest"
)

// Finding is a setting of an object that is set and does not do what it asks for.
type Finding struct {
	Field string // spec.vxlanPort
	Value string // bounded; empty when it has no short form
	// Effect is empty for a field that is not known at all.
	Effect Effect
	Why    string
	Weight Weight
}

// maxValue bounds the part of a value that is repeated, in bytes.
const maxValue = 40

// Text says what is set: spec.vxlanPort=4790.
func (f Finding) Text() string {
	if f.Value == "" {
		return f.Field
	}
	return f.Field + "=" + f.Value
}

// String says what is set and what comes of it.
func (f Finding) String() string { return f.Text() + ": " + f.Why }

// Findings returns what an object has set that does not do what it asks for, sorted
// by field. The object is one as the API server sends it, decoded from JSON.
func (k Kind) Findings(object map[string]any) []Finding {
	if k.Record {
		return nil
	}
	meta, _ := object["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	spec, _ := object["spec"].(map[string]any)
	if !k.reads(name) {
		return []Finding{{Field: "metadata.name", Value: bounded(name), Effect: NoEffect,
			Why: fmt.Sprintf("the object is not read; %s is the name of those that are",
				strings.ReplaceAll(strings.Join(k.Only, " or "), "node.", "node.NODE"))}}
	}
	var out []Finding
	k.walk("spec", spec, &out)
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Field, b.Field) })
	out = slices.Compact(out)
	if n := len(out) - maxFindings; n > 0 {
		// What is grave must not hide behind what is not.
		slices.SortStableFunc(out, func(a, b Finding) int { return int(b.Weight) - int(a.Weight) })
		out = append(out[:maxFindings:maxFindings], Finding{Field: fmt.Sprintf("%d more fields", n), Why: "not listed"})
	}
	return out
}

// maxFindings bounds what is said of one object: a schema that keeps unknown fields
// takes as many as fit into an object.
const maxFindings = 100

// walk looks at the fields of one object inside the object.
func (k Kind) walk(path string, fields map[string]any, out *[]Finding) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		field, value := path+"."+name, fields[name]
		if empty(value) {
			continue
		}
		e, known := k.Entry(field)
		switch {
		case known && e.Effect == ActedOn:
		case known:
			if text := bounded(value); !e.AsksNothing(text) {
				*out = append(*out, Finding{Field: field, Value: text, Effect: e.Effect, Why: e.Why, Weight: e.Weight})
			}
		case k.inside(field):
			switch v := value.(type) {
			case map[string]any:
				k.walk(field, v, out)
			case []any:
				for _, item := range v {
					if m, ok := item.(map[string]any); ok {
						k.walk(field+"[]", m, out)
					}
				}
			}
		default:
			*out = append(*out, k.unknown(path, name))
		}
	}
}

// inside reports whether entries are of parts of the field.
func (k Kind) inside(field string) bool {
	return slices.ContainsFunc(k.Entries, func(e Entry) bool {
		return strings.HasPrefix(e.Name, field+".") || strings.HasPrefix(e.Name, field+"[].")
	})
}

// unknown is the finding of a field that has no entry.
func (k Kind) unknown(path, name string) Finding {
	f := Finding{Field: bounded(path + "." + name)}
	if path == "spec" && slices.Contains(k.Calico, name) {
		f.Effect, f.Why = NoEffect, "a field of Calico's that this version of Manx does not act on"
		return f
	}
	var siblings []string
	for _, e := range k.Entries {
		if rest, ok := strings.CutPrefix(e.Name, path+"."); ok {
			first, _, _ := strings.Cut(rest, ".")
			siblings = append(siblings, strings.TrimSuffix(first, "[]"))
		}
	}
	if path == "spec" {
		siblings = append(siblings, k.Calico...)
	}
	f.Why = "no such field, ignored"
	if near := nearest.Name(name, siblings); near != "" {
		f.Why += "; did you mean " + near + "?"
	}
	return f
}

// empty reports whether a value says nothing.
func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// bounded is a value as users write it, of at most maxValue bytes; lists and objects
// have no short form.
func bounded(value any) string {
	var text string
	switch v := value.(type) {
	case string:
		text = v
	case []any, map[string]any:
		return ""
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		text = string(raw)
	}
	return Bounded(strings.ToValidUTF8(text, "?"), maxValue)
}

// Bounded is a text of at most limit bytes, which is cut between letters and ends in
// … when something is missing.
func Bounded(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const more = "…"
	cut := max(0, limit-len(more))
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + more
}

// Summary joins findings in one text of at most limit bytes: what is set, by the
// reason why it has no effect.
func Summary(findings []Finding, limit int) string {
	var reasons []string
	fields := map[string][]string{}
	for _, f := range findings {
		if _, ok := fields[f.Why]; !ok {
			reasons = append(reasons, f.Why)
		}
		fields[f.Why] = append(fields[f.Why], f.Text())
	}
	var out []string
	for _, why := range reasons {
		out = append(out, strings.Join(fields[why], ", ")+": "+why)
	}
	return Bounded(strings.Join(out, "; "), limit)
}

// Grave are the findings that keep a node or a pool from being ready.
func Grave(findings []Finding) (out []Finding) {
	for _, f := range findings {
		if f.Weight == NotReady {
			out = append(out, f)
		}
	}
	return out
}
