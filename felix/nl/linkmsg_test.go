package nl

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

func linkExample() []byte {
	m := make([]byte, unix.SizeofIfInfomsg)
	m[4], m[8] = 7, unix.IFF_UP
	conf := make([]byte, 4*devconfRPFilter)
	conf[4*(devconfRPFilter-1)] = RPFilterLoose
	stats := make([]byte, 16)
	stats[0], stats[8] = 5, 6
	m = appendAttr(m, unix.IFLA_IFNAME, []byte("tunl0\x00"))
	m = appendAttr(m, unix.IFLA_IFALIAS, []byte("an alias\x00"))
	m = appendAttr32(m, unix.IFLA_MTU, 1480)
	m = appendAttr(m, unix.IFLA_LINKINFO, appendAttr(nil, unix.IFLA_INFO_KIND, []byte("ipip\x00")))
	m = appendAttr(m, unix.IFLA_STATS64, stats)
	return appendAttr(m, unix.IFLA_AF_SPEC, appendAttr(nil, unix.AF_INET, appendAttr(nil, iflaInetConf, conf)))
}

func TestParseLink(t *testing.T) {
	want := Link{
		Index: 7, Name: "tunl0", Alias: "an alias", Kind: "ipip", MTU: 1480, Up: true, NoCarrier: true,
		RPFilter: RPFilterLoose, Settings: Settings{}.With(Forwarding, 0).With(ProxyARP, 0), RxPackets: 5, TxPackets: 6,
	}
	if got, err := parseLink(linkExample()); got != want || err != nil {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	m := linkExample()
	binary.NativeEndian.PutUint32(m[8:], unix.IFF_UP|unix.IFF_LOWER_UP)
	want.NoCarrier = false
	if got, err := parseLink(m); got != want || err != nil {
		t.Errorf("with a carrier: %+v, %v; want %+v", got, err, want)
	}
	binary.NativeEndian.PutUint32(m[8:], 0)
	want.Up = false
	if got, err := parseLink(m); got != want || err != nil {
		t.Errorf("set down: %+v, %v; want %+v", got, err, want)
	}
	if _, err := parseLink(make([]byte, unix.SizeofIfInfomsg-1)); err == nil {
		t.Error("accepted a message that is too short")
	}
}

// FuzzParseLink: whatever arrives, no panic.
func FuzzParseLink(f *testing.F) {
	f.Add(linkExample())
	f.Fuzz(func(t *testing.T, m []byte) {
		if l, err := parseLink(m); err != nil && l != (Link{}) {
			t.Errorf("an error and a link: %+v", l)
		}
	})
}
