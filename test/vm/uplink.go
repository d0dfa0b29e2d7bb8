package vm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// nameUplinks renames, in the guest, the cards with these hardware addresses to
// uplink0, uplink1, … in this order. They stay down and have no address.
func nameUplinks(macs []string) error {
	if len(macs) == 0 {
		return nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list the guest's links: %w", err)
	}
	for n, mac := range macs {
		i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().HardwareAddr.String() == mac })
		if i < 0 {
			return fmt.Errorf("the guest has no card with address %s; its links are %s", mac, describe(links))
		}
		if err := netlink.LinkSetName(links[i], Uplink(n)); err != nil {
			return fmt.Errorf("rename %s to %s: %w", links[i].Attrs().Name, Uplink(n), err)
		}
	}
	return nil
}

func describe(links []netlink.Link) string {
	var all []string
	for _, l := range links {
		all = append(all, fmt.Sprintf("%s (%s)", l.Attrs().Name, l.Attrs().HardwareAddr))
	}
	return strings.Join(all, ", ")
}

// addresses are the cards' hardware addresses, by which the guest knows them.
func addresses(cables []cable) []string {
	var macs []string
	for _, c := range cables {
		macs = append(macs, c.mac.String())
	}
	return macs
}
