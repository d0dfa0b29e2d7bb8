package nl

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Numbers of rtnetlink that golang.org/x/sys does not have.
const (
	// iflaInetConf is IFLA_INET_CONF: the link's net.ipv4.conf values, in
	// messages from the kernel an array, in those to it attributes by number.
	iflaInetConf = 1
	// devconfRPFilter is IPV4_DEVCONF_RP_FILTER. The array starts with 1.
	devconfRPFilter = 8
)

// parseLink reads a struct ifinfomsg and its attributes.
func parseLink(m []byte) (Link, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return Link{}, fmt.Errorf("link message of %d bytes is too short", len(m))
	}
	flags := binary.NativeEndian.Uint32(m[8:])
	l := Link{
		Index:     int(int32(binary.NativeEndian.Uint32(m[4:]))),
		Up:        flags&unix.IFF_UP != 0,
		NoCarrier: flags&unix.IFF_UP != 0 && flags&unix.IFF_LOWER_UP == 0,
	}
	err := eachAttr(m[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		switch {
		case typ == unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(v)
		case typ == unix.IFLA_IFALIAS:
			l.Alias = unix.ByteSliceToString(v)
		case typ == unix.IFLA_MTU && len(v) >= 4:
			l.MTU = int(binary.NativeEndian.Uint32(v))
		case typ == unix.IFLA_LINKINFO:
			l.Kind = unix.ByteSliceToString(attr(v, unix.IFLA_INFO_KIND))
		case typ == unix.IFLA_STATS64 && len(v) >= 16:
			l.RxPackets, l.TxPackets = binary.NativeEndian.Uint64(v), binary.NativeEndian.Uint64(v[8:])
		case typ == unix.IFLA_AF_SPEC:
			l.Settings = parseSettings(v)
			conf := attr(attr(v, unix.AF_INET), iflaInetConf)
			if at := 4 * (devconfRPFilter - 1); len(conf) >= at+4 {
				l.RPFilter = int(binary.NativeEndian.Uint32(conf[at:]))
			}
		}
	})
	if err != nil {
		return Link{}, fmt.Errorf("link message: %w", err)
	}
	return l, nil
}

// attr finds one attribute in a sequence; what cannot be read is not there.
func attr(b []byte, typ uint16) []byte {
	var found []byte
	_ = eachAttr(b, func(t uint16, v []byte) {
		if t == typ {
			found = v
		}
	})
	return found
}
