package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

//go:embed routers.yaml
var routersYAML string

// torMode is the mode with two top-of-rack routers and no mesh.
const torMode = "tor"

// withoutMesh turns the mesh off and has the addresses of Services announced.
const withoutMesh = `{"spec":{"nodeToNodeMeshEnabled":false,"serviceClusterIPs":[{"cidr":"10.96.0.0/12"}]}}`

// peer makes the routers peers of all nodes, and turns the mesh off.
func (d *demo) peer() error {
	dir, err := os.MkdirTemp("", "manx-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	objects := filepath.Join(dir, "routers.yaml")
	if err := os.WriteFile(objects, []byte(routersYAML), 0o644); err != nil {
		return err
	}
	d.step("two routers: kubectl apply -f test/demo/routers.yaml; then the mesh off, and the addresses of Services announced")
	for _, args := range [][]string{
		{"apply", "-f", objects},
		{"patch", "bgpconfigurations.crd.projectcalico.org", "default", "--type", "merge", "-p", withoutMesh},
	} {
		if _, err := d.kubectl(args...); err != nil {
			return d.explain(err)
		}
	}
	return nil
}

// behindRouters shows the routers' sessions, a host behind them that reaches pods and a
// Service, and that it does so when one router is gone.
func (d *demo) behindRouters(web []pod) error {
	if err := d.peer(); err != nil {
		return err
	}
	nodes := d.mode.nodes
	sessions := func(out string) bool { return strings.Count(out, "Established") == nodes }
	out := d.show("", sessions, func() (string, error) { return d.output("tor", "tor1", "peers") }, d.program, "tor", "tor1", "peers")
	d.check(sessions(out), "the router tor1 has a session with every node", fmt.Sprint(nodes), fmt.Sprint(strings.Count(out, "Established")))

	both := regexp.MustCompile(`(?s)172\.30\.100\.0/24 proto manx.*via 172\.30\.0\.251.*via 172\.30\.0\.252`)
	out = d.showOn("node1", both.MatchString, "ip", "route", "show", "172.30.100.0/24")
	d.check(both.MatchString(out), "node1 reaches what is behind the routers by way of both", "two next hops", fmt.Sprintf("%q", out))

	service, err := d.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	answered := func(out string) bool { return strings.HasPrefix(out, "web-") }
	curl := func(addr, what string) {
		out := d.showOn("behind", answered, "curl", "-sS", "-m", "5", "-w", `\n`, "http://"+addr+"/hostname")
		d.check(answered(out), "the host behind the routers reaches "+what, "the name of a web pod", fmt.Sprintf("%q", out))
	}
	for _, p := range web {
		curl(p.IP, "the pod "+p.IP+" on "+p.Node)
	}
	curl(service, "the Service "+service)

	d.step("tor1 is switched off")
	if err := d.through("node", "stop", "tor1"); err != nil {
		return err
	}
	one := func(out string) bool {
		return strings.Contains(out, "172.30.0.252") && !strings.Contains(out, "172.30.0.251")
	}
	out = d.showOn("node1", one, "ip", "route", "show", "172.30.100.0/24")
	d.check(one(out), "node1 has the way by tor2 alone", "one next hop", fmt.Sprintf("%q", out))
	for _, p := range web[:1] {
		curl(p.IP, "the pod "+p.IP+" on "+p.Node+" as before")
	}
	curl(service, "the Service "+service+" as before")
	d.step("tor1 is switched on again")
	return d.through("node", "start", "tor1")
}
