// Package nodeapi is how the CNI plugin and manxctl talk to the agent of their
// node: one unix socket, newline-framed JSON, root only.
//
//	manx ADD                                 manx-node
//	   │ add {container, pod} ───────────────▶ Handler.Add     an address is assigned
//	   │   (creates the veth meanwhile)       │
//	   │ ◀───────── {addresses, MTU, MAC} ────┘
//	   │   (configures both ends)
//	   │ ready ──────────────────────────────▶ Handler.Ready   the host route is written
//	   │ ◀──────────── {} ─────────────────────
//	   ✕ connection lost before ready ───────▶ Handler.Abort   the address goes back
//
// One connection carries one conversation: an ADD as drawn, or one request and
// its answer. Requests of one container never interleave; those of different
// containers run side by side. While a handler works, the server sends a "busy"
// frame every half second, which says what the handler waits for (package progress):
//
//	{"busy":true,"awaits":{"missing":"the API server has not answered the write of
//	block 10.244.1.64/26","remedy":"check …","for":12000000000}}
//
// So a client tells a slow agent from a dead one without guessing how long work may
// take, and names the reason when its own time is over ([SlowError]):
//
//	the agent                                 the client
//	answers, or says that it is busy          waits, a CNI verb for [Deadline]
//	is killed or was never there              knows at once, by the socket
//	is stopped                                knows after [Patience], by /proc/PID/stat
//	wants the processor and gets none         waits, as for one that is busy
//	sleeps and says nothing                   gives up after [Silence]
//
// The agent works on one request for [Limit], a little less than the client waits, so
// that it is mostly the agent's own error that the user reads. Both ends read what has
// arrived before they believe a deadline that has passed: on a crowded node it may be
// they that did not run.
//
// Who may talk: the socket is mode 0600 in a directory of mode 0700, and the
// peer's credentials (SO_PEERCRED, unix(7)) must be uid 0. Frames are limited in
// size and time and every field is checked before a handler sees it.
//
// The socket is bound under a second name and renamed into place: a path left
// behind by a killed agent is replaced in one step, and a connect never meets a
// path that nobody listens on while the new agent starts.
//
// A DEL must succeed while no agent runs. The plugin then removes the interface
// itself and leaves a file in "deferred-del" beside the socket ([Defer]); the
// server replays these files when it starts and until none is left.
//
// The package is linked into the CNI plugin, whose process start is part of
// every pod's start: it imports no HTTP, no client-go and no logging backend.
package nodeapi
