// Package e2e tests Manx as a user gets it: a real Kubernetes cluster (package lab),
// the image, and manifests/manx.yaml created with kubectl. The tests look at it from
// outside: with kubectl, in the nodes' and pods' namespaces with ip, tcpdump and curl,
// and with packets of their own.
//
// All tests share one cluster and carry the build tag "cluster". Each leaves the
// cluster as it found it, except that the last one adds a node. What a test
// calls lost packets or silence is checked by a control in the same test,
// which causes them on purpose and must see them.
//
// # Four clusters
//
//	tags          MANX_E2E_MODE, _NODES, _SUBNETS, _FAMILIES  tests             kernel
//	cluster       bgp (default), 3, 1, ipv4                   all there are     any
//	cluster dual  bgp, 3 (or 2), 1, dual                      ^TestDualStack    any
//	cluster ipip  ipip, 3, 1, ipv4                            ^TestIPIP         with the module ipip
//	cluster ipip  crosssubnet, 4, 2, ipv4                     ^TestCrossSubnet  with the module ipip
//
// The last two run in a guest where the kernel at hand has no ipip (package vm). Without
// KVM everything takes ten times longer there: waits are longer, flows are slower, and no
// duration is judged. What of IPIP is on every kernel is in the first cluster: that a
// kernel without it holds a change and loses nothing (TestIPIPMissing), and that there
// is no trace of a tunnel where nobody asks for one (TestFirstAddress).
//
// # What is tested of IPIP
//
//	device, its address in IPAM, routes   TestIPIPDevice, TestIPIPRoutes, TestIPIPHostSource
//	frames on the wire                    TestIPIPWire, TestCrossSubnet
//	who reaches whom                      TestIPIPReach, TestCrossSubnet
//	every change of mode, under traffic   TestIPIPSwitch, TestCrossSubnetAlways
//	what holds a change                   TestIPIPSwitchHeld, TestIPIPPreflight, TestCrossSubnetHoldsNever
//	repair                                TestIPIPRepair
//	large packets, a smaller uplink       TestIPIPLargePackets
//	who may send IPIP                     TestIPIPFilter
//	the controls                          TestIPIPFlowControl, TestIPIPRetired
//
// # What is tested of IPv6
//
//	addresses, sessions, the pool         TestDualStackNodes, TestDualStackPool
//	routes and packet filter of a node    TestDualStackRoutes, TestDualStackFilter
//	what a pod sees and what it may ask   TestDualStackPodInterface, TestDualStackFamilies, TestDualStackWrong
//	who reaches whom, under which address TestDualStackPing, TestDualStackReach, TestDualStackOutside
//	who a pod can pretend to be           TestDualStackSpoof
//	pods that go, agents that die         TestDualStackRelease, TestDualStackKillAgent
//	the control                           TestDualStackFlowControl
//
// # What is tested of IPAM
//
//	which pool a pod draws from, and what it may ask for   TestIPAMPools
//	who reads and writes what at the API server            TestIPAMRequests
//	an address of another node's block                     TestIPAMBorrow
//	a pool without a free address                          TestIPAMExhausted
//	a pool that is deleted, that overlaps, that is changed TestPoolDeletion, TestPoolRefusals
//	a node that is gone, or was for a moment               TestIPAMNodeGone
//	what is seen of it                                     TestIPAMVisible, TestIPAMCheck
//	pods that come and go                                  TestChurn, TestManyAtOnce, TestRelease
//
// Their pools are in 10.250.0.0/16, each test's own; with the pool goes every block,
// affinity and handle, and that this is so is a part of each of the tests. Requests are
// counted in the API server's audit log (package audit).
//
// A change loses nothing means: of numbered UDP packets both ways none is lost or
// doubled, and a TCP transfer through all changes never pauses for more than a second.
package e2e
