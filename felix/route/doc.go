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
//     protocol, so that they can not hit anything else.
//   - Routes through a next hop are not removed before BGP has converged: a
//     freshly started agent has learned nothing yet, and its predecessor's
//     routes are the best knowledge there is.
//
// A route the kernel refuses stays pending and is tried again; the others go on.
package route
