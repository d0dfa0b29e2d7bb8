package former_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/former"
)

// store is one that fails on demand.
type store struct {
	links []former.Link
	err   error
	saves int
}

func (s *store) Load() ([]former.Link, error) { return s.links, s.err }

func (s *store) Save(links []former.Link) error {
	s.saves++
	if s.err == nil {
		s.links = links
	}
	return s.err
}

// TestParts: what one driver remembers and forgets of a link is not the other's.
func TestParts(t *testing.T) {
	s, strict := &store{}, 1
	links := former.New(s, nil)
	if s.saves != 0 {
		t.Error("saved before there was anything")
	}
	filtered := links.Of("tunl0", 7)
	filtered.RPFilter = &strict
	links.Remember(filtered)
	both := links.Of("tunl0", 7)
	both.Tunnel = &former.Tunnel{MTU: 1480}
	links.Remember(both)
	links.Remember(former.Link{Name: "eth0", Index: 2, RPFilter: &strict})
	want := []former.Link{
		{Name: "eth0", Index: 2, RPFilter: &strict},
		{Name: "tunl0", Index: 7, RPFilter: &strict, Tunnel: &former.Tunnel{MTU: 1480}},
	}
	for what, l := range map[string]*former.Links{"this process": links, "the next one": former.New(s, nil)} {
		if diff := cmp.Diff(want, l.All()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if got := links.Of("tunl0", 8); got.RPFilter != nil || got.Tunnel != nil || got.Index != 8 {
		t.Errorf("another device of that name: %+v", got)
	}
	links.Forget("tunl0", func(l *former.Link) { l.Tunnel = nil })
	if diff := cmp.Diff([]former.Link{want[0], filtered}, s.links); diff != "" {
		t.Errorf("one part forgotten (-want +got):\n%s", diff)
	}
	links.Forget("tunl0", func(l *former.Link) { l.RPFilter = nil })
	links.Forget("tunl0", func(l *former.Link) { l.RPFilter = nil })
	if diff := cmp.Diff(want[:1], s.links); diff != "" || s.saves != 5 {
		t.Errorf("%d times saved, the last part forgotten (-want +got):\n%s", s.saves, diff)
	}
}

// TestStoreFails: it is said once, and made up for.
func TestStoreFails(t *testing.T) {
	s, off := &store{err: errors.New("no space left on device")}, 0
	var lines strings.Builder
	links := former.New(s, slog.New(slog.NewTextHandler(&lines, nil)))
	links.Remember(former.Link{Name: "eth0", Index: 2, RPFilter: &off})
	links.Retry()
	if got := strings.Count(lines.String(), "is not known"); got != 1 {
		t.Errorf("%d times said that it cannot be read:\n%s", got, &lines)
	}
	if got := strings.Count(lines.String(), "is not saved"); got != 1 || s.saves != 2 {
		t.Errorf("%d times said that it cannot be saved, %d tries:\n%s", got, s.saves, &lines)
	}
	s.err = nil
	links.Retry()
	links.Retry()
	if len(s.links) != 1 || s.saves != 3 {
		t.Errorf("saved %+v, %d tries", s.links, s.saves)
	}
}
