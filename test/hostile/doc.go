// Package hostile is a BGP speaker for tests that says what a test wants, when it wants it:
// whole messages, broken ones, or more of them than anyone asked for. It keeps no table, obeys
// no timer but its own keepalives, and reads only while it is told to.
//
// It owns one TCP connection, which the caller opens: over loopback, or from a network
// namespace. Messages are written with GoBGP's packet package where that can, and byte by byte
// where it refuses.
//
//	p, err := hostile.Open(conn, hostile.Config{AS: 64512, ID: addr})   // Established
//	err = p.Send(hostile.Announce(hostile.Attributes(addr), prefixes...)...)
//	sent, err := p.Flood(ctx, func(i int) [][]byte { … })               // until ctx ends or the session does
//	ended, notification := p.Ended()
package hostile
