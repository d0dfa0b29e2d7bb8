package fake_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
	"github.com/manx-cni/manx/ipam/store/storetest"
)

func TestConformance(t *testing.T) { storetest.Run(t, &fake.Backend{}) }

// TestLostAnswer shows the two ways a call can fail.
func TestLostAnswer(t *testing.T) {
	var b fake.Backend
	s := store.New(&b)
	down := errors.New("connection refused")
	handle := &v1.IPAMHandle{Spec: v1.IPAMHandleSpec{HandleID: "h", Block: map[string]int{}}}
	handle.Name = "h"
	b.SetHook(func(context.Context, fake.Op) (error, error) { return down, nil })
	if _, err := s.Handles.Create(t.Context(), handle); !errors.Is(err, down) {
		t.Fatal(err)
	}
	b.SetHook(nil)
	if _, err := s.Handles.Get(t.Context(), "h"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("a call that failed before it was done: %v", err)
	}
	b.SetHook(func(context.Context, fake.Op) (error, error) { return nil, down })
	if _, err := s.Handles.Create(t.Context(), handle); !errors.Is(err, down) {
		t.Fatal(err)
	}
	b.SetHook(nil)
	if _, err := s.Handles.Get(t.Context(), "h"); err != nil {
		t.Fatalf("a call whose answer was lost: %v", err)
	}
}

// TestMalformedInList shows that one bad object hides no other.
func TestMalformedInList(t *testing.T) {
	var b fake.Backend
	b.PutRaw(v1.PluralIPAMHandles, "bad", `{"metadata":{"name":"bad"},"spec":{"block":"none"}}`)
	b.PutRaw(v1.PluralIPAMHandles, "good", `{"metadata":{"name":"good"},"spec":{"handleID":"good","block":{}}}`)
	list, malformed, err := store.New(&b).Handles.List(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].Name != "good" {
		t.Errorf("list = %v, %v", list, err)
	}
	if len(malformed) != 1 || !strings.Contains(malformed[0].Error(), "IPAMHandle bad") {
		t.Errorf("malformed = %v", malformed)
	}
}
