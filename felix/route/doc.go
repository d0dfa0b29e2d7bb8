// Package route is the only writer of routes.
//
// It owns every route of the main table that carries protocol number 70
// (state.RouteProtocol), and nothing else. That mark is all it needs to find
// its leftovers after a crash: the first Apply reads the table back, and only
// differences are written, so a restart that changes nothing prints nothing in
// "ip monitor route".
//
// How a change is made:
//
//   - What is new is created with NLM_F_EXCL. The kernel tells routes apart by
//     destination and metric, not by protocol, and a plain replace would
//     overwrite somebody else's route in silence. With EXCL it refuses; the
//     route then is a condition ForeignRoute until the other one is gone.
//   - What changes is replaced in place: there is no moment without a route.
//   - Deletions come after all creations and replacements, and name our
//     protocol, so that they cannot hit anything else.
//   - Routes through a next hop are not removed before BGP has converged: a
//     freshly started agent has learned nothing yet, and its predecessor's
//     routes are the best knowledge there is.
//
// IPv4 and IPv6 are one table here: the destination tells them apart, and a pod's
// routes of both are written together. What the kernel does differently in IPv6,
// felix/nl says as in IPv4 (the default metric, a blackhole's device), with one
// exception: a second route with a destination, metric and a gateway becomes
// another next hop of the first one (RTA_MULTIPATH). Ours are created with EXCL and
// replaced in place, never deleted to be added again, so that they never do that.
// Where somebody appends his to ours, that is a ForeignRoute, too: replacing would
// remove his next hop with ours.
//
// A route the kernel refuses stays pending and is tried again; the others go on.
package route
