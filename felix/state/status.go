package state

import "time"

// DriverStatus is how a driver of the dataplane is doing.
type DriverStatus struct {
	Name string `json:"name"`
	// Desired counts what should be in the kernel, InKernel what is there as
	// it should be.
	Desired  int `json:"desired"`
	InKernel int `json:"inKernel"`
	// Pending counts what is still to be written or removed, Failed those of
	// them that the kernel refused at the last try.
	Pending int `json:"pending"`
	Failed  int `json:"failed"`
	// Held counts what is no longer wanted as far as we know, but kept until
	// BGP has converged.
	Held int `json:"held,omitempty"`
	// Foreign counts objects of others that look like ours, or stand in our
	// way. They are never touched.
	Foreign int `json:"foreign,omitempty"`
	// Writes counts changes made to the kernel since the start, Errors failed
	// ones, Resyncs complete read-backs.
	Writes  uint64 `json:"writes"`
	Errors  uint64 `json:"errors"`
	Resyncs uint64 `json:"resyncs"`
	// LastError is empty when the last Apply did everything.
	LastError string    `json:"lastError,omitempty"`
	LastApply time.Time `json:"lastApply,omitzero"`
	// LastApplySeconds is how long that took.
	LastApplySeconds float64 `json:"lastApplySeconds"`
}
