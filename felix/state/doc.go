// Package state is the vocabulary of the dataplane: plain values that say what
// one node's kernel should hold, or was found to hold.
//
// The pure packages (felix/calc, felix/rules) produce these values and the
// drivers (felix/route, felix/nft, felix/endpoint) consume them. Everything
// here is comparable or has an Equal method, so that "is the kernel right?" is
// always a comparison and never a guess. The package imports nothing of Manx
// and nothing of the kernel.
package state
