package ipamreport

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Report is the file that `ipam check -o FILE` writes and `ipam release
// --from-report FILE` reads. What is not about problems is as in calicoctl's reports,
// so that either tool takes the other's.
type Report struct {
	Version     string `json:"version"`
	ClusterGUID string `json:"clusterGUID"`
	ClusterType string `json:"clusterType"`
	// DatastoreLocked and ClusterInfoRevision are for calicoctl, which releases only
	// while no other client can write. Here compare-and-swap does that.
	DatastoreLocked     bool   `json:"datastoreLocked"`
	ClusterInfoRevision string `json:"clusterInformationRevision"`

	Allocations   map[string][]Allocation `json:"allocations"`
	LeakedHandles []LeakedHandle          `json:"leakedHandles,omitempty"`

	Problems []Problem `json:"problems"`
	// NotAsked are the nodes that are judged by the API alone, with the reason.
	NotAsked map[string]string `json:"notAsked,omitempty"`
}

// Allocation is one assignment of an address.
type Allocation struct {
	IP             string `json:"ip"`
	Handle         string `json:"handle,omitempty"`
	SequenceNumber *int64 `json:"sequenceNumber,omitempty"`

	Pod               string `json:"pod,omitempty"`
	Namespace         string `json:"namespace,omitempty"`
	Node              string `json:"node,omitempty"`
	Type              string `json:"type,omitempty"`
	CreationTimestamp string `json:"creationTimestamp,omitempty"`

	// InUse is false for what may be released, and for nothing else.
	InUse    bool     `json:"inUse"`
	Borrowed bool     `json:"borrowed,omitempty"`
	Owners   []string `json:"owners"` // who uses it
}

// LeakedHandle is an IPAMHandle without addresses.
type LeakedHandle struct {
	ID       string  `json:"ID"`
	UID      *string `json:"UID"`
	Revision string  `json:"Revision"`
}

// NewReport puts the confirmed problems of a reading into a Report. The caller fills
// in what is about the cluster as a whole.
func NewReport(c Cluster, r Result, confirmed []Problem) Report {
	out := Report{Allocations: map[string][]Allocation{}, Problems: confirmed}
	if out.Problems == nil {
		out.Problems = []Problem{}
	}
	leaked, handles := map[string]int64{}, map[string]bool{}
	for _, p := range confirmed {
		switch p.Kind {
		case Leaked:
			leaked[p.Subject] = p.Sequence
		case HandleWithoutAddresses:
			handles[p.Subject] = true
		}
	}
	owners := map[netip.Prefix]string{}
	for _, b := range c.Blocks {
		owners[b.CIDR] = b.Owner
	}
	for _, a := range r.Addresses {
		for _, held := range a.Assigned {
			entry := Allocation{
				IP: a.Addr.String(), Handle: held.Handle, Pod: held.Attrs[attrPod], Namespace: held.Attrs[attrNamespace],
				Node: held.Node(), Type: held.Attrs[attrType], CreationTimestamp: held.Attrs[attrTimestamp],
				InUse: true, Borrowed: held.Node() != "" && held.Node() != owners[held.Block],
				Owners: append(append([]string{}, a.Users...), a.Waiting...),
			}
			if held.Sequence != 0 {
				entry.SequenceNumber = &held.Sequence
			}
			if sequence, ok := leaked[entry.IP]; ok && sequence == held.Sequence {
				entry.InUse = false
			}
			out.Allocations[entry.IP] = append(out.Allocations[entry.IP], entry)
		}
	}
	for _, h := range c.Handles {
		if handles[h.ID] {
			uid := h.UID
			out.LeakedHandles = append(out.LeakedHandles, LeakedHandle{ID: h.ID, UID: &uid, Revision: h.Version})
		}
	}
	slices.SortFunc(out.LeakedHandles, func(a, b LeakedHandle) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// ReadReport reads a report from a file.
func ReadReport(path string) (Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Report{}, fmt.Errorf("read the report: %w", err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		return Report{}, fmt.Errorf("read the report %s: %w; want a file that `manxctl ipam check -o FILE` has written", path, err)
	}
	if r.Allocations == nil {
		return Report{},
			fmt.Errorf("read the report %s: it lists no allocations; want a file that `manxctl ipam check -o FILE` has written", path)
	}
	return r, nil
}

// Releasable returns the assignments that the report says nobody uses, by address.
func (r Report) Releasable() ([]Assignment, error) {
	var out []Assignment
	for text, entries := range r.Allocations {
		for _, e := range entries {
			if e.InUse {
				continue
			}
			addr, err := netip.ParseAddr(text)
			if err != nil || e.IP != text {
				return nil, fmt.Errorf("the report's allocation of %q to %q: want an address", text, e.IP)
			}
			if e.SequenceNumber == nil && e.Handle == "" {
				return nil,
					fmt.Errorf("the report's allocation of %s has neither a sequence number nor a handle: it could be any; write a new report", text)
			}
			a := Assignment{Addr: addr, Handle: e.Handle, Attrs: map[string]string{}}
			if e.SequenceNumber != nil {
				a.Sequence = *e.SequenceNumber
			}
			for key, value := range map[string]string{attrPod: e.Pod, attrNamespace: e.Namespace, attrNode: e.Node, attrType: e.Type} {
				if value != "" {
					a.Attrs[key] = value
				}
			}
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b Assignment) int { return a.Addr.Compare(b.Addr) })
	return out, nil
}
