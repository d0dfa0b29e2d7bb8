// Package settingsreport tells the users of a cluster, on the objects themselves, what
// they have set that has no effect. It is a part of manx-controllers, so that there is
// one Event for a fault, however many nodes there are.
//
//	objects of our group ─▶ api/settings ─▶ one Event on the object, after each change of what is said
//	NetworkPolicies ─▶ by namespace ─▶ the namespace's condition ManxNetworkPolicyEnforced, and one Event in it
//
// Everything is a level: what is said is computed from the objects that there are, and
// an Event's name from what it says, so that a new leader, or a second look, finds that
// it has been said. A condition goes when its cause does.
//
// It also keeps the objects in being that Calico's controllers make and Calico's tools
// ask for: the KubeControllersConfiguration default.
//
// What concerns a node (its readiness, its condition ManxSettingsEffective) its agent
// says, and what concerns a pool's readiness is with the pools in internal/controllers.
// The package is on no packet path.
package settingsreport
