// Package e2e tests Manx as a user gets it: agents, controllers and plugin of
// manifests/manx.yaml on real clusters (package lab). The tests look at them from
// outside: with kubectl, in the nodes' and pods' namespaces with ip, tcpdump and curl,
// and with packets of their own.
//
// Each test says first what it needs of a lab (onLab), and gets the lightest that has it;
// tests with the same needs share one, which comes up for the first of them and goes after
// the last. Each leaves its lab as it found it, except that the last one of all adds a node.
// What a test calls lost packets or silence is checked by a control in the same test,
// which causes them on purpose and must see them. All carry the build tag "cluster".
//
// # Which test runs where, and why
//
//	light         three light nodes, packets plain: what needs no kubelet
//	              TestBadEnvironment, TestBadNetconf, TestMalformedObjects, TestChurn, TestIPAMBorrow,
//	              TestPoolDeletion, TestPoolRefusals, TestIPAMExhausted, TestIPAMNodeGone, TestIPAMPools,
//	              TestIPAMRequests, TestRelease, TestIPAMVisible, TestIPAMCheck, TestFirstAddress,
//	              TestIPIPMissing, TestPing, TestWire, TestGatewayARP, TestAgentAway, TestRoutes,
//	              TestPodInterface, TestStatus, TestReadiness, TestRBAC, TestNoCredential, TestListeners,
//	              TestRights, TestFlowControl, TestKillAgent, TestSettings, TestDatastoreLocked,
//	              TestLeftoverCNIConfiguration, TestReflectorNode, TestBGPPort
//	services      and kube-proxy: cluster IPs and NodePorts
//	              TestReach
//	dual          and IPv6 beside IPv4
//	              TestDualStackNodes, TestDualStackPool, TestDualStackRoutes, TestDualStackFilter,
//	              TestDualStackReach, TestDualStackOutside, TestDualStackSpoof, TestDualStackPodInterface,
//	              TestDualStackPing, TestDualStackFamilies, TestDualStackRelease, TestDualStackWrong,
//	              TestDualStackFlowControl, TestDualStackKillAgent, TestNodeStatus
//	ipip          three light nodes, the pool in mode Always, and kube-proxy; in a guest where this kernel has no ipip
//	              TestIPIPDevice, TestIPIPRoutes, TestIPIPHostSource, TestIPIPFilter, TestIPIPSwitchHeld,
//	              TestIPIPLargePackets, TestIPIPWire, TestIPIPFlowControl, TestIPIPPreflight,
//	              TestIPIPSourceCheck, TestIPIPRepair, TestIPIPSwitch, TestIPIPRetired, TestIPIPReach
//	crosssubnet   four light nodes in two subnets, the pool in mode CrossSubnet; in a guest likewise
//	              TestCrossSubnet, TestCrossSubnetHoldsNever, TestCrossSubnetAlways
//	bird          two light nodes with IPv4, IPv6 and Services, two top-of-rack routers, a host behind them, two reflectors
//	              TestBIRD, TestRoutersAlone, TestRouterPassword, TestBIRDKillAgent, TestRouterServices,
//	              TestRouterRepair, TestRouterBadObjects, TestBIRDReflectors, TestBIRDNodeLoss
//	frr           the same with routers of another make
//	              TestFRR, TestFRRKillAgent, TestReachableBy, TestFRRReflectors, TestFRRNodeLoss, TestFRRReflectedServices
//	gobgpd        and another
//	              TestGoBGP
//	openbgpd      and another
//	              TestOpenBGPD
//	full          kubelets, containerd and the image: DaemonSets, init containers, probes, exec, sixty pods at once, new nodes
//	              TestManyAtOnce, TestNodeWithoutAgent, TestPrivileges, TestStatusFromAfar,
//	              TestNotReadySaysWhy, TestZAddNode, TestUninstall
//
// MANX_E2E_KINDS chooses kinds of labs, as -run chooses tests. TestPlan holds the table
// against the tests.
//
// Where the kernel at hand has no ipip, the tests of the two kinds that need it run in
// a guest (package vm), each kind in one of its own. The nodes and this program are in
// the guest, etcd, API server and controllers outside. Without KVM everything takes ten
// times longer there: waits are longer and no duration is judged. What of IPIP is on
// every kernel is on a light lab: that a kernel without it holds a change and loses
// nothing (TestIPIPMissing), and that there is no trace of a tunnel where nothing asks
// for one (TestFirstAddress).
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
