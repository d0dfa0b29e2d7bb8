// Package endpoint knows the pods of this node.
//
// A pod is a link: the host-side veth caliX, whose alias (IFLA_IFALIAS) the CNI
// plugin sets to "manx:" and the IPAM handle (package attachment). That alias is the
// ownership mark. After a restart the links are read back and joined with what IPAM says
// about their handles; no file is kept. A link with our mark whose handle has
// no address gets no route and is reported: late is safe, open is not. Links
// without our mark are not ours, whatever their name.
//
// The name of the link depends on the names of the pod and of the interface in it
// only, so a pod that was deleted and created again has the same one. Every removal
// therefore names the handle, and touches nothing that has another: not a successor's
// interface, and not a second one of the same container.
//
// A pod's interface has its rp_filter on. It is what keeps the pod from filling the
// node's neighbour table: the kernel would answer, and learn from, an ARP request of
// whatever sender. The plugin sets it; it is looked at with every reading and whenever
// it was set.
//
// The kernel takes about 20 ms to remove a veth. A Reaper does that on a
// goroutine and a netlink socket of its own, together with forgetting the
// connections of the pod's addresses, after the route is gone.
package endpoint
