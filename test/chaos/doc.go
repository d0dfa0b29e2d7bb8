// Package chaos tests address management as a distributed system: several agents'
// allocators and the controllers, each a process of its own, on a real
// kube-apiserver and etcd, while everything is killed, restarted and restored. What
// the clients saw is recorded by test/history, and its checker has the last word.
//
// # Who is real
//
//	etcd, kube-apiserver          real (test/lab/apiserver), killed and started again
//	ipam, ipam/store/crd          real, in a process per node that SIGKILL ends
//	internal/controllers          real, in a process that SIGKILL ends
//	kubelet, runtime, plugin      played by the test: it makes Pod objects, calls ADD and
//	                              DEL, and tells the agent which interfaces there are
//
// The helpers are this test binary, executed again. They read orders and write
// answers, one JSON value a line; the end of their input is the order to stop.
//
// # Time
//
// A block must be a minute old before another node may take it. The allocators'
// clock therefore runs faster than the wall's, so that a run of 40 s has hours for
// them. The collector's grace period is a setting, and short.
//
// # Settings
//
// MANX_CHAOS_DURATION is how long TestHistory goes on (40s), MANX_CHAOS_SEED what
// its random choices come from; the seed is printed. The order in which processes
// get on is not chosen by the seed, so a second run makes the same choices but need
// not have the same outcome. MANX_CHAOS_VERBOSE shows the logs of the helpers.
package chaos
