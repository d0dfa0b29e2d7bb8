package bgp

import "time"

// Drain is how far a node has gone on its planned way out of BGP.
type Drain uint8

// The stages, each of which lasts until peers have had time to act on it.
const (
	NotDrained Drain = iota
	// DrainShutdown: what the node announces carries the community GRACEFUL_SHUTDOWN
	// (RFC 8326) and LOCAL_PREF 0, so that peers take another way where there is one.
	DrainShutdown
	// DrainWithdrawn: the node announces nothing.
	DrainWithdrawn
	// DrainClosed: the node has ended its sessions with a Cease, RFC 4486.
	DrainClosed
)

// How long the first two stages last.
const (
	shutdownFor  = 10 * time.Second
	withdrawnFor = 5 * time.Second
)

// GracefulShutdown is the community GRACEFUL_SHUTDOWN, RFC 8326 §5.
var GracefulShutdown = Community{Global: 65535, Local1: 0}

// DrainAfter is the stage that a drain is at after so long, and when the next one begins;
// 0: there is none.
func DrainAfter(since time.Duration) (stage Drain, next time.Duration) {
	switch {
	case since < shutdownFor:
		return DrainShutdown, shutdownFor - since
	case since < shutdownFor+withdrawnFor:
		return DrainWithdrawn, shutdownFor + withdrawnFor - since
	}
	return DrainClosed, 0
}

// String says it in words.
func (d Drain) String() string {
	switch d {
	case DrainShutdown:
		return "announced with GRACEFUL_SHUTDOWN and LOCAL_PREF 0"
	case DrainWithdrawn:
		return "everything is withdrawn"
	case DrainClosed:
		return "the sessions are closed"
	}
	return "not drained"
}
