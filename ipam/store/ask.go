package store

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/progress"
)

// asked is a Backend whose requests are noted while their answer is awaited, and named
// when none has come in time: see progress.APIServer.
type asked struct{ Backend }

func (b asked) Get(ctx context.Context, resource, name string) (out []byte, err error) {
	err = progress.APIServer(ctx, ask{"the read of", resource, name, nil}, func() error {
		out, err = b.Backend.Get(ctx, resource, name)
		return err
	})
	return out, err
}

func (b asked) List(ctx context.Context, resource, selector string) (out []json.RawMessage, err error) {
	err = progress.APIServer(ctx, ask{"the list of", resource, "", nil}, func() error {
		out, err = b.Backend.List(ctx, resource, selector)
		return err
	})
	return out, err
}

func (b asked) Create(ctx context.Context, resource string, object []byte) (out []byte, err error) {
	err = progress.APIServer(ctx, ask{"the creation of", resource, "", object}, func() error {
		out, err = b.Backend.Create(ctx, resource, object)
		return err
	})
	return out, err
}

func (b asked) Update(ctx context.Context, resource, name string, object []byte) (out []byte, err error) {
	err = progress.APIServer(ctx, ask{"the write of", resource, name, nil}, func() error {
		out, err = b.Backend.Update(ctx, resource, name, object)
		return err
	})
	return out, err
}

func (b asked) Delete(ctx context.Context, resource, name, uid, version string) error {
	return progress.APIServer(ctx, ask{"the deletion of", resource, name, nil}, func() error {
		return b.Backend.Delete(ctx, resource, name, uid, version)
	})
}

// ask names one request when a client wants to read its name.
type ask struct {
	verb, resource, name string
	object               []byte // has the name, when there is no other
}

// nouns are the kinds as users know them: one, and all.
var nouns = map[string][2]string{
	v1.PluralIPAMBlocks:      {"block", "blocks"},
	v1.PluralBlockAffinities: {"block affinity", "block affinities"},
	v1.PluralIPAMHandles:     {"handle", "handles"},
	v1.PluralIPAMConfigs:     {"IPAMConfig", "IPAMConfigs"},
}

func (a ask) String() string {
	noun := nouns[a.resource]
	name := a.name
	if a.object != nil {
		name = NameOf(a.object)
	}
	switch {
	case name == "":
		return a.verb + " " + noun[1]
	case a.resource == v1.PluralIPAMBlocks:
		name = blockText(name)
	}
	return a.verb + " " + noun[0] + " " + name
}

// blockText is the range in the name of an IPv4 block: 10-244-1-64-26. An IPv6 range
// cannot be told from its name for certain.
func blockText(name string) string {
	parts := strings.Split(name, "-")
	if len(parts) != 5 {
		return name
	}
	for _, p := range parts {
		if _, err := strconv.ParseUint(p, 10, 8); err != nil {
			return name
		}
	}
	return strings.Join(parts[:4], ".") + "/" + parts[4]
}
