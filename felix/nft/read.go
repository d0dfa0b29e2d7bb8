package nft

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// listing is the output of nft -j list (libnftables-json(5)), as far as it is used.
type listing struct {
	Objects []struct {
		Chain *struct {
			Family string `json:"family"`
			Table  string `json:"table"`
			Name   string `json:"name"`
			Type   string `json:"type"`
			Hook   string `json:"hook"`
			Prio   int    `json:"prio"`
			Policy string `json:"policy"`
		} `json:"chain"`
		Rule *struct {
			Chain   string `json:"chain"`
			Handle  uint64 `json:"handle"`
			Comment string `json:"comment"`
			// Expr is the rule's statements. Anybody's rule may be here, so it
			// is taken apart only where the comment is ours.
			Expr json.RawMessage `json:"expr"`
		} `json:"rule"`
		Set *struct {
			Name string            `json:"name"`
			Type json.RawMessage   `json:"type"`
			Elem []json.RawMessage `json:"elem"`
		} `json:"set"`
		Map       json.RawMessage `json:"map"`
		Counter   json.RawMessage `json:"counter"`
		Flowtable json.RawMessage `json:"flowtable"`
	} `json:"nftables"`
}

// parseListing reads what nft printed; nothing at all is an empty listing.
func parseListing(out []byte) (listing, error) {
	var l listing
	if out == nil {
		return l, nil
	}
	if err := json.Unmarshal(out, &l); err != nil {
		return listing{}, fmt.Errorf("parse what nft -j printed: %w", err)
	}
	return l, nil
}

// imageIn is what a listing of our table says.
func imageIn(f family.Family, l listing) (image, error) {
	var err error
	img := image{chains: map[string]chainImage{}, sets: map[string]map[string]bool{}}
	for _, o := range l.Objects {
		switch {
		case o.Chain != nil:
			img.chains[o.Chain.Name] = chainImage{hook: hookImage{o.Chain.Type, o.Chain.Hook, o.Chain.Prio, o.Chain.Policy}}
		case o.Set != nil:
			if img.sets[o.Set.Name], err = parseElements(o.Set.Elem); err != nil {
				return image{}, fmt.Errorf("set %s: %w", o.Set.Name, err)
			}
			if string(o.Set.Type) != strconv.Quote(setType(f)) {
				img.odd = true
			}
		case o.Map != nil, o.Counter != nil, o.Flowtable != nil:
			img.odd = true
		}
	}
	for _, o := range l.Objects { // after all chains, whatever nft's order
		if o.Rule == nil {
			continue
		}
		c := img.chains[o.Rule.Chain]
		c.comments = append(c.comments, o.Rule.Comment)
		img.chains[o.Rule.Chain] = c
	}
	return img, nil
}

// parseElements reads set elements: addresses as strings, networks as
// {"prefix": {"addr": …, "len": …}}, anything else as its own text.
func parseElements(raw []json.RawMessage) (map[string]bool, error) {
	out := make(map[string]bool, len(raw))
	for _, r := range raw {
		var addr string
		if json.Unmarshal(r, &addr) == nil {
			out[addr] = true
			continue
		}
		var net struct {
			Prefix *struct {
				Addr string `json:"addr"`
				Len  int    `json:"len"`
			} `json:"prefix"`
		}
		if err := json.Unmarshal(r, &net); err != nil {
			return nil, fmt.Errorf("element %s: %w", r, err)
		}
		if net.Prefix == nil {
			out[string(r)] = true // a range, say: not ours, so it will differ
			continue
		}
		out[element(fmt.Sprintf("%s/%d", net.Prefix.Addr, net.Prefix.Len))] = true
	}
	return out, nil
}

// droppingForwardChains names the chains of others that drop forwarded packets
// unless one of their own rules accepts them. Those of both families are IPv4's to
// report, whose table is always there.
func droppingForwardChains(f family.Family, out []byte) ([]state.Condition, error) {
	l, err := parseListing(out)
	if err != nil {
		return nil, err
	}
	var found []state.Condition
	for _, o := range l.Objects {
		c := o.Chain
		if c == nil || c.Hook != string(state.Forward) || c.Policy != "drop" ||
			(c.Family != string(nameOf(f)) && (c.Family != "inet" || f != family.IPv4)) {
			continue
		}
		name := fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name)
		found = append(found, state.Condition{
			Kind: state.ForwardDropped, Subject: name,
			Message: fmt.Sprintf("chain %[1]s drops forwarded packets by default, and no other table can overrule it: "+
				`accept pod traffic there too, such as with: %[2]s -A FORWARD -i cali+ -j ACCEPT; %[2]s -A FORWARD -o cali+ -j ACCEPT`,
				name, nameOf(f)+"tables"),
		})
	}
	return found, nil
}
