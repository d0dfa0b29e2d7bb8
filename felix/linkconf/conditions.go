package linkconf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/manx-cni/manx/felix/state"
)

// Conditions says what others have changed: one for each setting, whatever the number of
// links.
func (d *Driver) Conditions() (out []state.Condition) {
	type group struct {
		what   string
		failed bool
	}
	links := map[group][]string{}
	last := map[group]*repaired{}
	times := map[group]int{}
	for t, r := range d.repair {
		if r.times == 0 && r.err == nil {
			continue
		}
		g := group{t.what, r.err != nil}
		links[g] = append(links[g], t.link)
		times[g] += r.times
		if old := last[g]; old == nil || r.at.After(old.at) {
			last[g] = r
		}
	}
	for g, names := range links {
		slices.Sort(names)
		r := last[g]
		text := fmt.Sprintf("of %s it was %d, and has been set to %d again (%d times): ", some(names), r.was, r.want, times[g])
		remedy := "find out what sets it, such as a file in /etc/sysctl.d, tuned, NetworkManager or an operator"
		if g.failed {
			text = fmt.Sprintf("of %s it is %d, and cannot be set to %d: %v: ", some(names), r.was, r.want, r.err)
			remedy = fmt.Sprintf("set it on the node, sysctl -w %s=%d, and find out what else sets it",
				strings.Replace(g.what, "*", names[0], 1), r.want)
		}
		if g.what == linkMTU || g.what == linkUp {
			remedy = "find out what changes the interfaces of pods on this node"
		}
		out = append(out, state.Condition{Kind: state.SettingChanged, Subject: g.what, Message: text + remedy})
	}
	slices.SortFunc(out, func(a, b state.Condition) int { return cmp.Compare(a.Subject, b.Subject) })
	return out
}

// some names a few of many links.
func some(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
