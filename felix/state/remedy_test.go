package state

// remedies say what to do about each condition, for the reference page. The message of a
// condition says the same of the case at hand.
var remedies = map[string]string{
	"AddressConflict": "Delete one of the two pods that the message names. If it comes back: `manxctl ipam check`.",
	"BGPDrained":      "`manxctl bgp undrain NODE` when the node is to serve again.",
	"BGPPeerShutOut": "Find out what the peer sends, on the peer: a loop, a flapping link, a table that is not meant for the node. " +
		"It is let in again by itself; to let it in at once, change its BGPPeer or delete the node's manx-node pod.",
	"BGPPeerUnusable": "Correct the BGPPeer, or create the BGPFilter that the message names; the sessions follow at once.",
	"BGPSessionHeld": "Create the Secret in kube-system with the key that the message names; " +
		"`kubectl describe role manx-node-bgp-secrets -n kube-system` says which may be read.",
	"BlockUnusable": "`manxctl ipam check` says what is wrong with the block; " +
		"repair the object with `kubectl edit ipamblocks.crd.projectcalico.org NAME`. " +
		"Pods that have addresses of it keep them.",
	"CNIConfigMissing": "Delete the manx-node pod of the node: its container install-cni writes the configuration again.",
	"CNIConfigShadowed": "Remove the file that the message names if its plugin is gone, " +
		"or set `CNI_EXCLUSIVE=true` in the container install-cni, " +
		"which moves it out of the way. Then delete the pods that it was used for.",
	"CNIKeyWithoutEffect": "Correct or remove the key in the network's configuration; the message has the nearest known name.",
	"DatastoreLocked":     "Set `datastoreReady` of ClusterInformation `default` to true when what you locked it for is done.",
	"EncapsulationUnsupported": "Set the pool's `vxlanMode` to Never; `ipipMode` Always or CrossSubnet does the same for the fabric. " +
		"Until then packets of its pods travel plainly.",
	"EncryptionUnsupported":  "Set `wireguardEnabled` to false if plain packets are what you want; the message has the command.",
	"EndpointWithoutAddress": "If the pod is gone: `ip link del IFACE` on the node. If it runs: delete it, and its successor gets an address.",
	"ForeignRoute": "Find what writes the route (`ip route show DESTINATION`, " +
		"its protocol number) and stop it, or remove the route with `ip route del`. " +
		"A leftover of another network plugin goes with a reboot.",
	"ForwardDropped": "Accept packets of pods in the chain that the message names: `iptables -A FORWARD -i cali+ -j ACCEPT; " +
		"iptables -A FORWARD -o cali+ -j ACCEPT`, " +
		"or the same in its own firewall tool.",
	"ForwardingDisabled": "`sysctl -w` the setting to 1, and look in /etc/sysctl.d for what turns it off.",
	"IPIPOwnerUnknown":   "See that manx-node runs on the node that the message names, or delete the BlockAffinity of a node that is gone.",
	"IPIPUnavailable": "`modprobe ipip` on the node. " +
		"Where the module is missing: install the package with this kernel's modules, or do without tunnels: " +
		"`manxctl ippool mode POOL Never`.",
	"InvalidObject": "Correct the object; its Event says which field. `kubectl get events -A --field-selector reason=Invalid`.",
	"LearnedInsideOwnBlock": "Find the peer by its next hop. " +
		"A node that announces another's address: restart its agent. A router: have it not announce pools.",
	"LearnedPartOfBlock": "Find the peer by its next hop, and have it announce whole blocks or nothing of the pools.",
	"LinkNotRemoved": "Nothing at once: it is tried again. " +
		"If it stays: `ip link del IFACE` on the node, and the kernel log says why that fails.",
	"ModeHeld": "Bring the nodes back that the message names, or delete the Nodes that will not come back. " +
		"Where a probe fails: `manxctl preflight ipip`; " +
		"`manxctl ippool mode --force` goes on all the same. See [ipip.md](../ipip.md).",
	"NextHopDown": "Bring the link back: `ip link show IFACE` on the node, the cable, the port of the switch. " +
		"Routes and sessions come back by themselves.",
	"NextHopNotOnLink": "Nodes in different subnets need IPIP: `manxctl ippool mode POOL CrossSubnet`. " +
		"Otherwise correct the node's address or its prefix length (`IP`).",
	"NftablesUnavailable": "Use Manx's image, which has nft, and keep CAP_NET_ADMIN in the DaemonSet; " +
		"the kernel needs nf_tables (CONFIG_NF_TABLES).",
	"NoBGPSession": "Open TCP port 179 between the nodes; `manxctl status` shows each session's state, `manxctl preflight` tries the port.",
	"OverlapsNodes": "Give the pool a range that no node, " +
		"next hop or uplink subnet is in: make a new pool, set the old one `disabled`, restart its pods, delete it.",
	"PathsRefused": "Nothing, if the peer is a router that announces more than pods' blocks: the rest is refused on purpose. " +
		"Otherwise the reason says what does not fit.",
	"PoolNotExported": "Set the pool's `disableBGPExport` to false, unless its pods are to be reached on their own node only.",
	"RouteFailed":     "The message has the kernel's words. Often the uplink is down, or a table is full (`net.ipv6.route.max_size`).",
	"SettingChanged": "Find what changes the setting that the message names (a file in /etc/sysctl.d, " +
		"a network manager, another agent) and stop it. " +
		"Manx sets it again, ever more seldom; the condition goes ten minutes after the last change.",
	"SettingRefused":  "Remove the setting that the message names, or set it to what it says.",
	"SourceUnchecked": "`sysctl -w net.ipv4.conf.IFACE.rp_filter=1` on the node; the message has the kernel's words.",
	"StartupNote":     "As the note says; it is repeated at every start until then.",
	"TunnelFailed": "The message has the kernel's words. " +
		"`ip -d link show tunl0` shows what others have made of the device; it is tried again.",
	"UplinkUnknown": "Give the node's address back to an interface, or restart the agent so that it finds the new one.",
}
