package autodetect

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// readLesser reads which IPv4 addresses are deprecated: those with preferred_lft 0, as
// keepalived and others mark what may move to another host. In IPv4 that is a mark only,
// so that a host whose only address has it keeps it. What the kernel does not tell is
// none.
func readLesser() map[on]string {
	answer, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_INET)
	if err != nil {
		return nil
	}
	msgs, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return nil
	}
	out := map[on]string{}
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg || m.Data[2]&unix.IFA_F_DEPRECATED == 0 {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			continue
		}
		for _, a := range attrs {
			if addr, ok := netip.AddrFromSlice(a.Value); ok && a.Attr.Type == unix.IFA_LOCAL {
				out[on{int(binary.NativeEndian.Uint32(m.Data[4:])), addr}] = "deprecated (preferred_lft 0), where the interface has another"
			}
		}
	}
	return out
}
