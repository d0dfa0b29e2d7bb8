package settings

var ipPool = Kind{
	Kind: "IPPool", Plural: "ippools",
	Entries: []Entry{
		acted("spec.cidr", "ipam/pool.TestSelect"),
		refused("spec.vxlanMode",
			"this version of Manx does not carry VXLAN: packets to the pool's addresses travel as they are, and no new address is assigned "+
				"from it; set ipipMode, or Never", "Never"),
		acted("spec.ipipMode", "internal/agent.TestModeStatus"),
		acted("spec.natOutgoing", "felix/calc.TestCalculate"),
		acted("spec.disabled", "ipam/pool.TestSelect"),
		acted("spec.disableBGPExport", "bgp/advertise.TestPaths"),
		acted("spec.blockSize", "ipam/pool.TestSelect"),
		acted("spec.nodeSelector", "ipam/pool.TestSelect"),
		acted("spec.namespaceSelector", "ipam/pool.TestSelect"),
		acted("spec.allowedUses", "ipam/pool.TestSelect"),
		acted("spec.assignmentMode", "ipam/pool.TestSelect"),
		none("spec.ipip", "a field of Calico's first API; use ipipMode"),
		none("spec.nat-outgoing", "a field of Calico's first API; use natOutgoing", "false"),
		acted("status.*", "internal/controllers.TestRealAPIServer"),
	},
}

var ipReservation = Kind{
	Kind: "IPReservation", Plural: "ipreservations",
	Entries: []Entry{acted("spec.reservedCIDRs", "internal/datastore.TestReserved")},
}

var ipamConfig = Kind{
	Kind: "IPAMConfig", Plural: "ipamconfigs", Only: []string{"default"},
	Entries: []Entry{
		acted("spec.strictAffinity", "ipam.TestStrict"),
		acted("spec.autoAllocateBlocks", "ipam.TestExactRefused"),
		acted("spec.maxBlocksPerHost", "ipam.TestFull"),
		none("spec.kubeVirtVMAddressPersistence", "addresses belong to pods and not to virtual machines", "Disabled"),
		none("spec.ipCooldownSeconds", "an address that is free is the last of its block to be assigned again, after no set time", "0"),
	},
}

var ipamBlock = Kind{
	Kind: "IPAMBlock", Plural: "ipamblocks", Record: true,
	Entries: []Entry{
		acted("spec.cidr", "ipam/block.TestForeignFieldsSurvive"),
		acted("spec.affinity", "ipam/block.TestForeignFieldsSurvive"),
		acted("spec.affinityClaimTime", "ipam.TestReclaim"),
		none("spec.strictAffinity", "deprecated; always false", Any),
		acted("spec.allocations", "ipam/block.TestForeignFieldsSurvive"),
		acted("spec.unallocated", "ipam/block.TestForeignFieldsSurvive"),
		acted("spec.attributes[].handle_id", "ipam/block.TestForeignFieldsSurvive"),
		acted("spec.attributes[].secondary", "ipam/block.TestForeignFieldsSurvive"),
		none("spec.attributes[].alternateOwnerAttrs", "kept for Calico's live migration, and not acted on", Any),
		none("spec.attributes[].releasedAt", "kept for Calico's cooling down, and not acted on", Any),
		acted("spec.deleted", "ipam/store/fake.TestConformance"),
		acted("spec.sequenceNumber", "ipam/block.TestForeignFieldsSurvive"),
		acted("spec.sequenceNumberForAllocation", "ipam/block.TestForeignFieldsSurvive"),
	},
}

var blockAffinity = Kind{
	Kind: "BlockAffinity", Plural: "blockaffinities", Record: true,
	Entries: []Entry{
		acted("spec.state", "internal/datastore.TestOwners"),
		acted("spec.node", "internal/datastore.TestOwners"),
		acted("spec.type", "internal/datastore.TestOwners"),
		acted("spec.cidr", "internal/datastore.TestOwners"),
		acted("spec.deleted", "internal/datastore.TestOwners"),
	},
}

var ipamHandle = Kind{
	Kind: "IPAMHandle", Plural: "ipamhandles", Record: true,
	Entries: []Entry{
		acted("spec.handleID", "internal/controllers.TestSnapshot"),
		acted("spec.block", "internal/controllers.TestSnapshot"),
		acted("spec.deleted", "internal/controllers.TestSnapshot"),
	},
}
