// Package ipamreport compares what IPAM says of addresses with what uses them. It is
// the judgement behind `manxctl ipam`, and pure: plain values in, a list of problems
// out; no clock, no I/O.
//
// # What is joined
//
//	IPAMBlock      the truth: who holds each address
//	BlockAffinity  which node owns a block, which is what BGP announces
//	IPAMHandle     in which blocks a handle has addresses
//	IPPool         which addresses are ours to give at all
//	Pod, Node      who uses an address, as the Kubernetes API says
//	agents         who uses an address, as a node's own kernel says, and what that
//	               node has learned over BGP: that is what the other nodes announce
//
// The first six come from one API server, the last from those agents that answered.
// A node whose agent did not answer is judged by the API alone.
//
// # When something is a problem
//
// The sources are read one after the other while pods come and go, so one reading
// always shows something half done: an address that is assigned to a pod which does
// not have it yet, a handle that is written after its block. Confirm keeps what two
// readings agree on. What can be half done for longer is no problem to begin with: a
// pod that is being deleted may still show an address that it has given back, and a
// pod without addresses may be about to use the one that it holds.
//
// One fault gives one problem. A block that does not parse is malformed; that nobody
// knows who holds its addresses follows from that and is not said of each of them.
package ipamreport
