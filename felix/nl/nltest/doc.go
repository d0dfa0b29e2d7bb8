// Package nltest has what tests of the dataplane need of the kernel: a fake one
// that fails on demand, and real network namespaces.
package nltest
