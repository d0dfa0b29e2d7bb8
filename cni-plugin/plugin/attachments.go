package plugin

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// listKeys are the spellings under which a GC is told what is in use: the one that
// libcni and section 4 of the specification have, and the one that section 2 of its
// version 1.1.0 printed by mistake. libcni sends both.
var listKeys = []string{"cni.dev/valid-attachments", "cni.dev/attachments"}

const wantList = `a list such as [{"containerID":"…","ifname":"eth0"}]; [] when nothing is in use`

// attachmentLists are the lists that a configuration has, one for each key that is
// there. A list that is null counts as absent: nothing is concluded from it.
type attachmentLists map[string][]types.GCAttachment

// take reads one key's value and returns what is accepted when it is something else.
func (l *attachmentLists) take(key string, raw json.RawMessage) (want string) {
	var list []types.GCAttachment
	if json.Unmarshal(raw, &list) != nil {
		return wantList
	}
	if list == nil {
		return "" // null
	}
	for _, a := range list {
		if a.ContainerID == "" || a.IfName == "" {
			return wantList + ", each with both of its fields"
		}
	}
	if *l == nil {
		*l = attachmentLists{}
	}
	(*l)[key] = list
	return ""
}

// attachments are the attachments that a GC may not touch. What is in one list is in
// use, whatever the other says. Without a list there is no answer: what is not said
// to be in use is removed, so absent must not be read as empty.
func (c *NetConf) attachments() (map[types.GCAttachment]bool, error) {
	if len(c.lists) == 0 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(
			"GC of network %s: the network configuration has neither %s (null counts as absent), "+
				"so nothing is known to be unused and nothing is removed; want %s",
			c.Name, strings.Join(listKeys, " nor "), wantList), "")
	}
	valid := map[types.GCAttachment]bool{}
	for _, list := range c.lists {
		for _, a := range list {
			valid[a] = true
		}
	}
	return valid, nil
}
