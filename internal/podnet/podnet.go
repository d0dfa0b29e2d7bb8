package podnet

import "fmt"

const (
	// MinMTU in bytes is what every IPv4 host takes (RFC 791 §3.1).
	MinMTU = 576
	// MaxMTU in bytes is the largest RTAX_MTU that the kernel keeps as it is
	// (ip_metrics_convert: 65535 - 15).
	MaxMTU = 65520
)

// Report is what one request found and did.
type Report struct {
	// Pods is the number of pods of ours that were looked at, those that failed
	// included.
	Pods int `json:"pods"`
	// Changed is the number of pods whose MTU was another before.
	Changed int `json:"changed"`
	// Failed says, one line each, which network namespaces are not as wanted and
	// why. It also names those that could not be read, ours or not.
	Failed []string `json:"failed,omitempty"`
}

// request is what a client sends: one JSON value.
type request struct {
	MTU int `json:"mtu"`
}

// reply is what it gets.
type reply struct {
	Report Report `json:"report"`
	Error  string `json:"error,omitempty"`
}

const (
	maxRequest = 256     // bytes
	maxReply   = 4 << 20 // bytes; a node has some hundred namespaces
)

func (r request) validate() error {
	if r.MTU < MinMTU || r.MTU > MaxMTU {
		return fmt.Errorf("MTU %d of pods: want %d to %d bytes", r.MTU, MinMTU, MaxMTU)
	}
	return nil
}
