// Package nft writes the packet filter through nftables.
//
// A Driver owns one table, "ip manx", and nothing outside it; a second one owns
// "ip6 manx", which is there only while the node has an IPv6 address. The table's
// name is the ownership mark: whatever is in it and not wanted is removed, so
// nothing of an earlier version stays behind. Other tables (kube-proxy's, the
// administrator's) are neither read for rules nor changed.
//
// Every rule carries a comment "manx:<hash> <why>", the hash being over the
// rule's text. Reading the table back ("nft -j list table ip manx") and
// comparing hooks, comments in order and set elements tells what is not as it
// should be without having to understand nft's own rendering of a rule. Only
// what differs is written, all of it in one transaction, which the kernel
// applies as a whole: there is no moment without rules. When nothing differs
// nothing is written, so a restart leaves counters and the ruleset's generation
// alone. A node or pool that comes or goes changes a set and no rule.
//
// Some rules count what they drop. The count is not part of the rule's text, so
// it makes no difference to the comparison. In the kernel it ends with the
// rule; the driver adds up what it sees, reads once more before it replaces
// rules, and tells rules apart by the kernel's handle, so that Dropped never
// falls. What comes between that reading and the replacement, or between the
// last look and another's interference, is not counted.
package nft
