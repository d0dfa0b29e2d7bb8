// Package admission has the tests of the admission policies in the manifest: what one
// node's agent may change of the cluster, on a real API server, with the credential that
// an agent really has. They need no root and no kubelet: go test -tags cluster.
package admission
