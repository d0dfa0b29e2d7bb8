package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const nodePort = "32000"

// pod is what the story needs of a pod.
type pod struct{ Name, IP, Node, HostIP string }

// pods lists the workload: the web pods by node, and the client.
func (d *demo) pods() (web []pod, client pod, err error) {
	raw, err := d.kubectl("get", "pods", "-l", "app in (web,client)", "-o", "json")
	if err != nil {
		return nil, pod{}, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
			Status   struct{ PodIP, HostIP string }
		}
	}
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		return nil, pod{}, fmt.Errorf("read the list of pods: %w", err)
	}
	for _, i := range list.Items {
		p := pod{i.Metadata.Name, i.Status.PodIP, i.Spec.NodeName, i.Status.HostIP}
		if p.Name == "client" {
			client = p
		} else {
			web = append(web, p)
		}
	}
	slices.SortFunc(web, func(a, b pod) int { return strings.Compare(a.Node, b.Node) })
	return web, client, nil
}

// The shape of a node's pod routes.
var (
	own   = regexp.MustCompile(`(?m)^blackhole 10\.244\.\d+\.\d+/26 proto manx *$`)
	local = regexp.MustCompile(`(?m)^10\.244\.\d+\.\d+ dev cali[0-9a-f]{11} proto manx scope link *$`)
)

// story shows what a user would look at, and checks it.
func (d *demo) story() error {
	addressed := regexp.MustCompile(`10\.244\.\d+\.\d+`)
	nodes := d.mode.nodes
	all := func(out string) bool { return len(addressed.FindAllString(out, -1)) == nodes+1 }
	out := d.showKubectl(all, "get", "pods", "-o", "wide")
	d.check(all(out), "a web pod on every node and the client have addresses",
		fmt.Sprint(nodes+1, " addresses"), fmt.Sprint(addressed.FindAllString(out, -1)))
	web, client, err := d.pods()
	if err != nil {
		return err
	}
	far := slices.DeleteFunc(slices.Clone(web), func(p pod) bool { return p.Node == client.Node })
	if len(far) != nodes-1 {
		return fmt.Errorf("web pods on %d nodes other than the client's, want %d", len(far), nodes-1)
	}
	d.routes(web, client)
	if d.mode.tunnels() {
		d.tunnel(client.Node)
	}
	for _, p := range far {
		hops := func(out string) bool { return strings.Count(out, "ttl=62") == 3 }
		out := d.showKubectl(hops, "exec", "client", "--", "ping", "-c", "3", "-i", "0.2", "-W", "2", p.IP)
		d.check(hops(out), fmt.Sprintf("the client on %s reaches %s on %s; two nodes routed the packet (64 − 2)", client.Node, p.IP, p.Node),
			"3 answers with ttl=62", fmt.Sprint(strings.Count(out, "ttl=62")))
	}
	for _, p := range d.oneOfEach(client, far) {
		d.wire(client, p)
	}
	answered := func(out string) bool { return strings.HasPrefix(out, "web-") }
	for _, p := range append([]pod{client}, d.oneOfEach(client, far)...) {
		out := d.showKubectl(answered, "exec", "client", "--", "curl", "-sS", "-m", "5", "-w", `\n`, "http://"+p.HostIP+":"+nodePort+"/hostname")
		d.check(answered(out), "NodePort "+nodePort+" of "+p.Node+" answers a pod", "the name of a web pod", fmt.Sprintf("%q", out))
	}
	established := func(out string) bool { return strings.Count(out, " Established ") >= nodes-1 } // or with the routers
	out = d.showKubectl(established, "-n", "kube-system", "exec", "daemonset/manx-node", "-c", "manx-node", "--", "manxctl", "status")
	d.check(established(out), "BGP sessions with all other nodes are Established",
		fmt.Sprint(nodes-1), fmt.Sprint(strings.Count(out, " Established ")))
	if d.ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return nil
}

// routes shows each node's pod routes.
func (d *demo) routes(web []pod, client pod) {
	for _, w := range web {
		others := slices.DeleteFunc(slices.Clone(web), func(p pod) bool { return p.Node == w.Node })
		pods := 1
		if w.Node == client.Node {
			pods = 2
		}
		tunnelled := len(d.mode.tunnelledTo(w, others))
		want := said(len(others)-tunnelled, tunnelled, 1, pods)
		ok := func(out string) bool {
			return d.counted(out, w, others) == want && strings.Count(out, "\n") == len(others)+1+pods
		}
		out := d.showOn(w.Node, ok, "ip", "route", "show", "root", "10.244.0.0/16")
		d.check(ok(out), w.Node+" has "+want, "these and no other", d.counted(out, w, others))
	}
}

// counted says how many routes of each kind a node has. One to another node counts
// when it goes there the way that the mode asks for.
func (d *demo) counted(out string, from pod, others []pod) string {
	plain, tunnelled := 0, 0
	for _, to := range others {
		switch {
		case !d.mode.route(from, to).MatchString(out):
		case d.mode.tunnelled(from, to):
			tunnelled++
		default:
			plain++
		}
	}
	return said(plain, tunnelled, len(own.FindAllString(out, -1)), len(local.FindAllString(out, -1)))
}

func said(plain, tunnelled, own, local int) string {
	return fmt.Sprintf("routes to blocks of other nodes: %d plain, %d through tunl0; its own block as a blackhole: %d; its pods: %d",
		plain, tunnelled, own, local)
}

// oneOfEach picks the first pod that the client reaches plainly and the first that it reaches through a tunnel.
func (d *demo) oneOfEach(client pod, far []pod) []pod {
	var picked []pod
	for _, tunnelled := range []bool{false, true} {
		i := slices.IndexFunc(far, func(p pod) bool { return d.mode.tunnelled(client, p) == tunnelled })
		if i >= 0 {
			picked = append(picked, far[i])
		}
	}
	return picked
}
