package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
)

// DefaultPort is BGP's, RFC 4271 §4.
const DefaultPort = 179

// Where is the peer's address, with its port where that is not DefaultPort.
func (p Peer) Where() string {
	if p.Port == 0 || p.Port == DefaultPort {
		return p.Addr.String()
	}
	return netip.AddrPortFrom(p.Addr, p.Port).String()
}

// Unheard says what to look at while there is no connection with the peer.
func (p Peer) Unheard() string {
	if p.Passive {
		return fmt.Sprintf("no connection yet: %s has to make it, is its agent running and our TCP port open to it?", p.Addr)
	}
	text := fmt.Sprintf("no connection yet: is TCP port %d of %s open", cmp.Or(p.Port, DefaultPort), p.Addr)
	if p.Password != (Secret{}) {
		text += ", does it have the same password"
	}
	if p.TTLSecurity > 0 {
		text += fmt.Sprintf(", is it %d hop(s) away at most", p.TTLSecurity)
	}
	return text + "?"
}

// Why says in words why the session is not established; empty when it is.
func (s Session) Why() string {
	switch {
	case s.State == Established:
		return ""
	case s.Peer.Held != "":
		return s.Peer.Held
	}
	return cmp.Or(s.LastError, s.Peer.Unheard())
}
