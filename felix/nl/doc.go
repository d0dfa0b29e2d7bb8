// Package nl is the dataplane's only door to netlink: everything the drivers
// ask of the kernel about links, addresses, routes and connection tracking goes
// through the Kernel interface, in plain values.
//
// What it adds to the library underneath:
//
//   - Dumps are repeated while the kernel says that they were interrupted
//     (NLM_F_DUMP_INTR): such a dump can miss entries, and a driver that deleted
//     or re-added by it would act on a world that never was. A dump that stays
//     interrupted is an error, never a shorter list.
//   - Routes are read and written as raw messages: 256 changes per sendmsg, and
//     still an error per change, because the kernel answers each failing message
//     by its sequence number whether or not an acknowledgement was asked for.
//   - What /proc/sys would be needed for elsewhere (rp_filter) is read and set by
//     messages: an agent without privileges has /proc/sys read-only.
//   - IPv6 routes are said as IPv4's: the kernel's default metric (1024) is none,
//     and a blackhole has no device, although the kernel puts it on lo.
//   - Sockets are reopened after errors that leave them unusable.
//   - Events carry no more than what makes somebody look again, and leave out
//     the echo of our own route changes.
//
// It holds no state about the kernel and owns nothing in it. Package nltest has
// a fake kernel that fails on demand.
package nl
