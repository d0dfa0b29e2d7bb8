// Package settings says of every setting that Manx knows what it does with it:
// acts on it, refuses it, or knows it and does not act on it, and why. It covers the
// fields of the objects of api/v1, the environment variables of manx-node and of
// install-cni, the keys of the CNI configuration, and the annotations of pods,
// namespaces, nodes and pools.
//
// Everything that tells users of settings without effect is made from these tables:
// Events and conditions on objects, lines of manxctl status, log lines, the
// reference pages docs/reference/objects.md and cni.md, and the descriptions that
// kubectl explain prints. A test fails for a field of api/v1 that has no entry and
// for an entry that has no field, so that a field cannot be accepted in silence.
//
// When a field begins to work, its entry becomes acted(…) in the same commit: one
// line, and with it every text above is right.
//
// The package is a leaf: it imports nothing of Manx, not even api/v1, so that the
// CNI plugin can use it too. It is on no packet path.
package settings
