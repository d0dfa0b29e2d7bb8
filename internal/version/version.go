// Package version carries the version that the build writes into the binaries
// (go build -ldflags "-X …/internal/version.version=v0.1.0"). It is a leaf.
package version

// version is set at link time.
var version = "dev"

// String returns the version of this binary, "dev" for an unreleased build.
func String() string { return version }
