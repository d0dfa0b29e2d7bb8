// Package mode agrees between all nodes how packets to each pool travel, so that
// a change of a pool's ipipMode loses no packet. It is pure: every agent calls
// Step with what it knows now, and publishes what Step makes it say.
//
// A node says one Word per pool, in the annotation manx.io/pool-modes of its Node.
// A change goes through stages, and no node enters one before every node is in the
// stage in front of it:
//
//	              what this node does                     what it waits for
//	preparing     tunl0 up, pods' MTU lowered              its own kernel
//	accepting     takes the old way and the new            every node accepts
//	verified      its probes by the new way were answered  every node is verified
//	sending       sends the new way (RouteReplace)         every node sends
//	(retired)     the old device goes after a quiet time   –
//
// So a packet is never sent a way that its receiver does not accept yet, or no
// longer. Who cannot take part, because its kernel has no ipip or its agent is
// down, stops the others where they are: they accept both ways and send the old
// one. They name it in the condition ModeHeld, and go on as soon as it does or its
// Node is deleted.
//
// What a node sends is part of its word and not derived from the pool: an agent
// that is restarted half way goes on where it was, and a node that joins does not
// send the others back to the first stage.
//
// Never needs no device and is accepted by every kernel that routes; what stands
// in its way is strict reverse path filtering (RFC 3704 §2.2), which felix/rpfilter
// loosens for as long as there is a tunnel.
package mode
