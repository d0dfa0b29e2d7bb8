package ipamreport

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// TextOptions says how much WriteText prints of single addresses.
type TextOptions struct {
	AllIPs, ProblemIPs bool
}

// WriteText prints what was compared, step by step, what was found and what to do.
func (r Report) WriteText(w io.Writer, c Cluster, found Result, o TextOptions) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("Checking IPAM for inconsistencies...")
	r.writeIPAM(p, c, found, o)
	r.writeUsers(p, c, found, o)
	r.writeScan(p, o)
	_, err := io.WriteString(w, b.String())
	return err
}

type printf func(format string, args ...any)

func (r Report) writeIPAM(p printf, c Cluster, found Result, o TextOptions) {
	byBlock := map[string][]Assignment{}
	total := 0
	for _, a := range found.Addresses {
		for _, held := range a.Assigned {
			byBlock[held.Block.String()] = append(byBlock[held.Block.String()], held)
			total++
		}
	}
	p("\nIPAM blocks:")
	blocks := slices.SortedFunc(slices.Values(c.Blocks), func(a, b Block) int { return a.CIDR.Compare(b.CIDR) })
	for _, b := range blocks {
		if b.Unreadable {
			p("  %s: malformed", b.CIDR)
			continue
		}
		held := byBlock[b.CIDR.String()]
		p("  %s affinity=%s: %s", b.CIDR, b.Affinity(), count(len(held), "allocation"))
		if o.AllIPs {
			for _, a := range held {
				p("    %s allocated to %s; handle %s", a.Addr, a.Holder(), cmp.Or(a.Handle, "<none>"))
			}
		}
	}
	p("Found %s with %s, %s and %s.", count(len(c.Blocks), "IPAM block"), count(total, "allocation"),
		plural(len(c.Affinities), "affinity", "affinities"), count(len(c.Handles), "handle"))
	p("\nIP pools:")
	active := 0
	for _, pool := range slices.SortedFunc(slices.Values(c.Pools), func(a, b Pool) int { return cmp.Compare(a.Name, b.Name) }) {
		if pool.Disabled {
			p("  %s (%s, disabled)", pool.CIDR, pool.Name)
			continue
		}
		active++
		p("  %s (%s)", pool.CIDR, pool.Name)
	}
	p("Found %s.", count(active, "active IP pool"))
}

func (r Report) writeUsers(p printf, c Cluster, found Result, o TextOptions) {
	tunnels, pods, used := 0, 0, 0
	for _, n := range c.Nodes {
		tunnels += len(n.Tunnels)
	}
	for _, pod := range c.Pods {
		if !pod.Finished {
			pods += len(pod.Addrs)
		}
	}
	p("\nNodes, pods and agents:")
	for _, a := range found.Addresses {
		if len(a.Users) == 0 {
			continue
		}
		used++
		if o.AllIPs {
			p("  %s belongs to %s", a.Addr, listOf(a.Users, func(s string) string { return s }))
		}
	}
	p("Found %s of tunnels on %s and %s of pods; %s in use.",
		count(tunnels, "address"), count(len(c.Nodes), "node"), count(pods, "address"), count(used, "address"))
	if len(found.Foreign) > 0 {
		p("Of these, %s in no pool and no block: another network's.", count(len(found.Foreign), "address"))
	}
	p("Asked the agents for their kernels and for BGP; %s answered.", count(len(c.Agents), "agent"))
	for _, node := range slices.Sorted(maps.Keys(r.NotAsked)) {
		p("  %s is judged by the Kubernetes API alone: %s", node, r.NotAsked[node])
	}
}

func (r Report) writeScan(p printf, o TextOptions) {
	p("\nProblems, looked for twice:")
	by := map[Kind][]Problem{}
	for _, x := range r.Problems {
		by[x.Kind] = append(by[x.Kind], x)
	}
	var remedies []string
	for _, info := range kinds {
		found := by[info.kind]
		p("  %s: %d", info.what, len(found))
		if len(found) == 0 {
			continue
		}
		remedies = append(remedies, fmt.Sprintf("  %s: %s", info.what, info.remedy))
		if !o.AllIPs && !o.ProblemIPs {
			continue
		}
		for _, x := range found {
			p("    %s %s", x.Subject, x.Detail)
		}
	}
	p("\nCheck complete; found %s.", count(len(r.Problems), "problem"))
	if len(r.Problems) == 0 {
		return
	}
	p("\nWhat to do:")
	for _, text := range remedies {
		p("%s", text)
	}
	if !o.AllIPs && !o.ProblemIPs {
		p("  --show-problem-ips names each of them.")
	}
}

// count is "1 node" or "2 nodes".
func count(n int, noun string) string {
	if strings.HasSuffix(noun, "s") {
		return plural(n, noun, noun+"es")
	}
	return plural(n, noun, noun+"s")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
