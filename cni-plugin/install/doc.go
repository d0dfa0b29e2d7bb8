// Package install puts the CNI plugin on a node: what `manx-node install-cni`
// does in an init container, before the agent starts.
//
//	/opt/cni/bin of the image   ──▶  /host/opt/cni/bin      manx, manx-ipam, portmap, loopback
//	CNI_NETWORK_CONFIG, filled  ──▶  /host/etc/cni/net.d    10-manx.conflist, mode 0600, last
//
// The configuration comes last, because its appearance is what makes the kubelet
// call the node ready and start pods. Every file is written under another name
// and renamed, so a plugin that is being executed is replaced without "text file
// busy" and nobody reads half a file; a file that is right already is not touched,
// so the container runtime sees no change where there is none.
//
// The configuration offers versions 1.0.0 and 1.1.0 of the CNI specification, in
// "cniVersions"; what a plugin that it chains does not speak is taken out, so that a
// runtime of 1.1.0 sends GC and STATUS and an older one starts pods as before.
//
// Nothing here is a secret: the plugin needs no kubeconfig and no token, and a
// configuration that asks for one is refused.
//
// With CNI_EXCLUSIVE=true, other configurations that come before Manx's are renamed once
// Manx's is there (package confdir); Uninstall renames them back.
//
// Its own leftovers, from a run that was killed, are the dot files ".<name><digits>"
// beside the targets; the next run removes them.
package install
