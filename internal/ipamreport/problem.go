package ipamreport

import (
	"cmp"
	"slices"
)

// Kind is a kind of problem.
type Kind string

// The kinds, those that break traffic first.
const (
	UsedTwice              Kind = "UsedTwice"
	AssignedTwice          Kind = "AssignedTwice"
	NotAssigned            Kind = "NotAssigned"
	OtherHolder            Kind = "OtherHolder"
	TwoOwners              Kind = "TwoOwners"
	BlocksOverlap          Kind = "BlocksOverlap"
	PoolsOverlap           Kind = "PoolsOverlap"
	MalformedObject        Kind = "MalformedObject"
	AnnouncedNotOwned      Kind = "AnnouncedNotOwned"
	OwnedNotAnnounced      Kind = "OwnedNotAnnounced"
	NoInterface            Kind = "NoInterface"
	AffinityWithoutBlock   Kind = "AffinityWithoutBlock"
	BlockWithoutAffinity   Kind = "BlockWithoutAffinity"
	OwnerGone              Kind = "OwnerGone"
	Leaked                 Kind = "Leaked"
	HandleWithoutAddresses Kind = "HandleWithoutAddresses"
	AddressesWithoutHandle Kind = "AddressesWithoutHandle"
	HandleMiscounts        Kind = "HandleMiscounts"
)

// kindInfo is what is printed of a kind.
type kindInfo struct {
	kind   Kind
	what   string // of what there are so many
	remedy string
}

// kinds are all kinds in the order in which they are printed.
var kinds = []kindInfo{
	{UsedTwice, "addresses that two use at once",
		"Delete the pod that is not the holder (manxctl ipam show --ip ADDRESS); its controller makes another one, with another address."},
	{AssignedTwice, "addresses that are assigned in two blocks",
		"Two IPAMBlocks overlap. Delete the pods of the one that its pool's blockSize does not make; it can be deleted once it is empty."},
	{NotAssigned, "addresses in use that IPAM has not assigned",
		"IPAM may give them to another pod. The agent of the node takes them again by itself; if it does not, delete the pod."},
	{OtherHolder, "addresses in use that are assigned to somebody else",
		"Delete the pod that uses the address. " +
			"If the holder is gone, the address can be released after that (manxctl ipam release --ip ADDRESS)."},
	{TwoOwners, "blocks with two owners",
		"Restart the agents of both nodes: the one whose name is in the IPAMBlock keeps the block, the other gives up its affinity. " +
			"If that does not help, delete the other's BlockAffinity."},
	{BlocksOverlap, "blocks that overlap",
		"Drain the smaller block: delete its pods one by one. It can be deleted once it is empty."},
	{PoolsOverlap, "pools that overlap",
		"The later one by name is not used. Delete it, and make one whose cidr is apart from the others."},
	{MalformedObject, "objects that are malformed",
		"They are ignored, and nothing is assigned from such a block. Look at them with kubectl; restore what they said, or delete them."},
	{AnnouncedNotOwned, "announcements of what the node does not own",
		"Packets go to the wrong node. Restart the agent of the node that announces it."},
	{OwnedNotAnnounced, "blocks and borrowed addresses that nobody announces",
		"Nobody reaches the pods in it. Look at the node's BGP sessions: manxctl status --node NODE."},
	{NoInterface, "addresses of pods without an interface on their node",
		"Nothing leads to such a pod. Delete it; its controller makes another one."},
	{AffinityWithoutBlock, "affinities without a block of their node",
		"A claim was cut off. The node's agent finishes it when it starts again; for a node that is gone, delete the BlockAffinity."},
	{BlockWithoutAffinity, "blocks without an affinity",
		"Nobody announces such a block. Its node's agent writes the affinity when it starts again; without an owner the block can be deleted."},
	{OwnerGone, "blocks and affinities of nodes that are gone",
		"The controllers remove them. Look whether they run: kubectl -n kube-system get deployment manx-controllers."},
	{Leaked, "addresses that are assigned and not in use",
		"The controllers release them after their grace period (15 minutes by default). " +
			"To do it now: manxctl ipam check -o report.json, then manxctl ipam release --from-report report.json."},
	{HandleWithoutAddresses, "handles without addresses",
		"They do no harm but take room; manxctl ipam release --from-report removes them."},
	{AddressesWithoutHandle, "handles that do not name all blocks where they have addresses",
		"A release by handle could miss an address. The node's agent writes them when it starts again."},
	{HandleMiscounts, "handles that count other addresses than the blocks have",
		"The node's agent writes them when it starts again."},
}

// rankOf is a kind's place in the report.
func rankOf(k Kind) int {
	return slices.IndexFunc(kinds, func(i kindInfo) bool { return i.kind == k })
}

// Problem is one thing that is not as it should be.
type Problem struct {
	Kind Kind `json:"kind"`
	// Subject is what has the problem: an address, a range, or an object's name.
	Subject string `json:"subject"`
	// Node is the node it concerns, where there is one.
	Node string `json:"node,omitempty"`
	// Detail is the rest of the sentence that starts with Subject.
	Detail string `json:"detail"`
	// Sequence tells one assignment of a leaked address from the next.
	Sequence int64 `json:"sequenceNumber,omitempty"`
}

// key is what makes two readings' problems the same one.
func (p Problem) key() Problem {
	p.Detail = ""
	return p
}

// Confirm returns the problems of the later reading that the earlier one had too.
func Confirm(earlier, later []Problem) []Problem {
	seen := make(map[Problem]bool, len(earlier))
	for _, p := range earlier {
		seen[p.key()] = true
	}
	var out []Problem
	for _, p := range later {
		if seen[p.key()] {
			out = append(out, p)
		}
	}
	return out
}

// sortProblems puts the worst first.
func sortProblems(ps []Problem) {
	slices.SortFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(rankOf(a.Kind), rankOf(b.Kind)),
			compareSubjects(a.Subject, b.Subject),
			cmp.Compare(a.Node, b.Node),
			cmp.Compare(a.Sequence, b.Sequence),
		)
	})
}
