// Package rpfilter keeps strict reverse path filtering out of the way of tunnels.
//
// Where it is on a packet's path: the kernel looks up the way back to a packet's sender
// when the packet comes in, and with net.ipv4.conf.LINK.rp_filter=1 drops it unless that
// way is the link it came by (RFC 3704 §2.2). While nodes change from one mode to another,
// packets may come in plain by the uplink where the way back is a tunnel, or the other way
// round.
//
// What this package owns: rp_filter of the uplink and of the tunnels' devices, for as long
// as a tunnel is wanted whose device is there. A strict one is made loose, which is the
// least change: the packet is dropped only when no way leads back at all. The greater of a
// link's own value and that of conf/all is in force, so that off cannot be had on one link
// only. Other modes stay as they are. rp_filter of pods' interfaces is felix/endpoint's.
//
// What the order of changes is about:
//
//   - It is loose before a tunnel's device is set up, which is a later phase of
//     felix/driver.go, and before routes lead through it.
//   - It is put back after the last tunnel has let go of what is its own on the device:
//     routes through it are gone, and packets do not come by it because of us. Until then
//     such a tunnel leaves, and nothing that it may need is touched.
//   - What it was is saved in felix/former before it is changed.
//
// A leftover of another process is a link that felix/former has a value of, that is the
// same device and still loose. It is put back by whichever process finds no tunnel wanted.
// A link that has been set to another value since, or has been made strict again, is as
// another program wants it.
package rpfilter
