package router

import (
	"fmt"
	"slices"
	"strings"

	"github.com/manx-cni/manx/test/lab/machine"
)

// daemon is what there is to know of a make of router.
type daemon struct {
	// name is that of its process, of the component and so of the log.
	name string
	args []string
	// config is its file on the machine's disk.
	config string
	// beside runs all the time, also while the daemon is stopped.
	beside *machine.Component
	// after is where that accepts connections when the daemon can start. A bgpd that finds no
	// zebra refuses IPv6 routes for ten seconds, as it knows no interfaces.
	after string
	users []user
	dirs  []string // of the first user
	files map[string]string
	// pkg is Debian's package; programs are files of it, the first the daemon's own.
	pkg      string
	programs []string
	// alive is a question that it answers when it serves.
	alive []string
	// reload has it read its file again without a session lost that need not be; nil is a restart.
	reload []string
}

const (
	birdFile    = "/etc/bird/bird.conf"
	frrFile     = "/etc/frr/bgpd.conf"
	gobgpFile   = "/etc/gobgpd.toml"
	openbgpFile = "/etc/bgpd.conf"

	birdSocket = "/run/bird.ctl"
	// vtyDir is on the disk, as FRR's own in /run would have to be made after each boot.
	vtyDir        = "/var/lib/frr"
	zebraSocket   = vtyDir + "/zserv.api"
	openbgpHome   = "/var/lib/openbgpd"
	openbgpSocket = openbgpHome + "/bgpd.sock"
)

func bgpctl(args ...string) []string { return append([]string{"bgpctl", "-s", openbgpSocket}, args...) }

func vtysh(command string) []string { return []string{"vtysh", "--vty_socket", vtyDir, "-c", command} }

func birdc(args ...string) []string { return append([]string{"birdc", "-s", birdSocket}, args...) }

func frrArgs(program, config string, more ...string) []string {
	return append([]string{
		"/usr/lib/frr/" + program, "-f", config, "-i", vtyDir + "/" + program + ".pid", "-z", zebraSocket,
		"--vty_socket", vtyDir, "-A", "127.0.0.1", "--log", "stdout",
	}, more...)
}

// daemons are the makes, by name.
var daemons = map[string]daemon{
	BIRD: {
		name: "bird", args: []string{"bird", "-f", "-c", birdFile, "-s", birdSocket}, config: birdFile,
		pkg: "bird2", programs: []string{"/usr/sbin/bird", "/usr/sbin/birdc"},
		alive: birdc("show", "status"), reload: birdc("configure"),
	},
	FRR: {
		name: "bgpd", args: frrArgs("bgpd", frrFile, "-P", "0"), config: frrFile,
		beside: &machine.Component{Name: "zebra", Args: frrArgs("zebra", "/dev/null", "-P", "2601")}, after: "127.0.0.1:2601",
		users: []user{{name: "frr", home: "/nonexistent", id: 64901}, {name: "frrvty", member: "frr", id: 64902}},
		dirs:  []string{vtyDir},
		files: map[string]string{
			"/etc/pam.d/frr":      "auth sufficient pam_rootok.so\naccount sufficient pam_rootok.so\n",
			"/etc/frr/vtysh.conf": "",
		},
		pkg: "frr", programs: []string{"/usr/lib/frr/bgpd", "/usr/lib/frr/zebra", "/usr/bin/vtysh"},
		alive: vtysh("show bgp summary json"),
	},
	GoBGP: {
		name: "gobgpd", config: gobgpFile,
		args: []string{"gobgpd", "-t", "toml", "-f", gobgpFile, "--api-hosts", "127.0.0.1:50051", "--pprof-disable"},
		pkg:  "gobgpd", programs: []string{"/usr/bin/gobgpd", "/usr/bin/gobgp"},
		alive: []string{"gobgp", "global"},
	},
	OpenBGPD: {
		name: "bgpd", args: []string{"bgpd", "-d", "-f", openbgpFile}, config: openbgpFile,
		users: []user{{name: "_openbgpd", home: openbgpHome, id: 64903}}, dirs: []string{openbgpHome},
		pkg: "openbgpd", programs: []string{"/usr/sbin/bgpd", "/usr/sbin/bgpctl"},
		alive: bgpctl("show"), reload: bgpctl("reload"),
	},
}

func (r *Router) daemon() (daemon, error) {
	d, err := find(r.Daemon)
	if err != nil {
		return d, fmt.Errorf("router %s: %w", r.Name, err)
	}
	return d, nil
}

func find(name string) (daemon, error) {
	d, ok := daemons[name]
	if !ok {
		return d, fmt.Errorf("there is no daemon %q: want one of %s", name, strings.Join(Daemons(), ", "))
	}
	d.args = slices.Clone(d.args)
	return d, nil
}

// Check says whether there is a daemon of that name.
func Check(name string) error {
	_, err := find(name)
	return err
}
