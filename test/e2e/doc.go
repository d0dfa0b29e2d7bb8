// Package e2e tests Manx as a user gets it: a real Kubernetes cluster of three nodes
// (package lab), the image, and manifests/manx.yaml created with kubectl. The tests
// look at it from outside: with kubectl, in the nodes' and pods' namespaces with ip,
// tcpdump and curl, and with packets of their own.
//
// All tests share one cluster and carry the build tag "cluster". Each leaves the
// cluster as it found it, except that the last one adds a node. What a test
// calls lost packets or silence is checked by a control in the same test,
// which causes them on purpose and must see them.
package e2e
