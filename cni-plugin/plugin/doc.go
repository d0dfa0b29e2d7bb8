// Package plugin is the CNI plugin "manx": ADD, DEL, CHECK, GC, STATUS and VERSION
// of the CNI specification 0.3.1 to 1.1.0.
//
// It decides nothing. The agent of the node assigns addresses, writes the host
// route and forgets endpoints; the plugin makes the veth, because it runs in the
// node's mount and network namespaces with the privileges for it, and the agent
// does not. The two talk as package nodeapi describes, and the address is assigned
// while the veth is made.
//
// While no agent runs, an ADD fails with code 11 ("try again later"), at once when it
// is dead and as [nodeapi.Patience] and [nodeapi.Silence] say when it does not answer.
// An agent that works is waited for as long as the kubelet waits for the plugin
// ([nodeapi.Deadline]), and the error then says what the agent was waiting for.
// A DEL removes the interface itself, leaves a record for the next agent and
// succeeds: a node without an agent can still lose pods.
//
// Process start is part of every pod's start, so what this package imports is
// weighed: no client-go, no HTTP, no logging library, no high-level netlink.
package plugin
