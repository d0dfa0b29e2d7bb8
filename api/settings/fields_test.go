package settings_test

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/api/settings"
	v1 "github.com/manx-cni/manx/api/v1"
)

// fields are the paths of every field of a type that holds a value, and in inner those
// of the structures on the way.
func fields(of reflect.Type, path string, inner map[string]bool) (leaves []string) {
	switch of.Kind() {
	case reflect.Pointer:
		return fields(of.Elem(), path, inner)
	case reflect.Slice:
		if e := of.Elem(); e.Kind() == reflect.Struct && ours(e) {
			inner[path] = true
			return fields(e, path+"[]", inner)
		}
	case reflect.Struct:
		if !ours(of) {
			break
		}
		inner[path] = true
		for i := range of.NumField() {
			f := of.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			leaves = append(leaves, fields(f.Type, strings.TrimPrefix(path+"."+name, "."), inner)...)
		}
		return leaves
	}
	return []string{path}
}

// ours tells the structures of api/v1 from times, durations and conditions.
func ours(t reflect.Type) bool { return t.PkgPath() == reflect.TypeFor[v1.IPPool]().PkgPath() }

// fieldsOf are the fields of a kind below spec and status.
func fieldsOf(k v1.Kind, inner map[string]bool) (leaves []string) {
	t := reflect.TypeOf(k.New()).Elem()
	for _, part := range []string{"Spec", "Status"} {
		if f, ok := t.FieldByName(part); ok {
			leaves = append(leaves, fields(f.Type, strings.ToLower(part), inner)...)
		}
	}
	return leaves
}

// Every field of api/v1 is in the table, and the table has no others.
func TestEveryFieldHasAnEntry(t *testing.T) {
	if len(settings.Kinds) != len(v1.Kinds) {
		t.Fatalf("%d kinds in the table, %d in api/v1", len(settings.Kinds), len(v1.Kinds))
	}
	for i, k := range v1.Kinds {
		table := settings.Kinds[i]
		if table.Kind != k.Kind || table.Plural != k.Plural {
			t.Fatalf("%s (%s) stands where %s (%s) should", table.Kind, table.Plural, k.Kind, k.Plural)
		}
		inner := map[string]bool{}
		leaves := fieldsOf(k, inner)
		for _, f := range leaves {
			if _, ok := table.Entry(f); !ok {
				t.Errorf("%s: field %s has no entry in api/settings: is it acted on, refused or without effect?", k.Kind, f)
			}
		}
		seen := map[string]bool{}
		for _, e := range table.Entries {
			name := strings.TrimSuffix(e.Name, ".*")
			if !slices.Contains(leaves, name) && !inner[name] {
				t.Errorf("%s: entry %s is of no field of api/v1", k.Kind, e.Name)
			}
			if seen[name] {
				t.Errorf("%s: two entries of %s", k.Kind, name)
			}
			seen[name] = true
		}
		for _, c := range table.Calico {
			if slices.Contains(leaves, "spec."+c) {
				t.Errorf("%s: %s is a field of api/v1 and needs an entry", k.Kind, c)
			}
		}
		if !slices.IsSorted(table.Calico) {
			t.Errorf("%s: Calico's fields are not sorted", k.Kind)
		}
	}
}

// An entry says why there is no effect, or which test shows one; the test exists.
func TestEntriesAreComplete(t *testing.T) {
	check := func(where string, e settings.Entry) {
		t.Helper()
		switch {
		case e.Effect == settings.ActedOn && e.Shown == "":
			t.Errorf("%s %s: no test shows that it is acted on", where, e.Name)
		case e.Effect == settings.ActedOn && !testExists(t, e.Shown):
			t.Errorf("%s %s: there is no test %s", where, e.Name, e.Shown)
		case e.Effect != settings.ActedOn && e.Why == "":
			t.Errorf("%s %s: no reason", where, e.Name)
		case e.Effect == settings.Refused && e.Weight != settings.NotReady, e.Effect == settings.ActedOn && e.Weight != settings.Reported:
			t.Errorf("%s %s: %s with weight %d", where, e.Name, e.Effect, e.Weight)
		}
	}
	for _, k := range settings.Kinds {
		for _, e := range k.Entries {
			check(k.Kind, e)
		}
	}
	for where, entries := range map[string][]settings.Entry{
		"CNI key": settings.CNIKeys, "pod annotation": settings.PodAnnotations, "node annotation": settings.NodeAnnotations,
		"handle annotation": settings.HandleAnnotations, "pool annotation": settings.PoolAnnotations, "variable": settings.Variables,
	} {
		seen := map[string]bool{}
		for _, e := range entries {
			check(where, e)
			if seen[e.Name] {
				t.Errorf("%s %s twice", where, e.Name)
			}
			seen[e.Name] = true
		}
	}
}

// testsOf are the test files of a directory, read once.
var testsOf = map[string]string{}

// testExists looks for a test such as ipam/pool.TestSelect in the tree.
func testExists(t *testing.T, shown string) bool {
	t.Helper()
	dir, name, ok := strings.Cut(shown, ".Test")
	if _, read := testsOf[dir]; !read {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			testsOf[dir] += source(t, f)
		}
	}
	return ok && strings.Contains(testsOf[dir], "\nfunc Test"+name+"(t *testing.T)")
}
