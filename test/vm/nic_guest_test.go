//go:build vm

package vm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/test/lab/netns"
)

// fabric makes a namespace with two bridges, br0 with Ethernet's MTU and br1 with
// jumbo frames, and a host at 192.0.2.1 and 198.51.100.1 that is on both.
func fabric(t *testing.T) (bridges, host nltest.NS) {
	t.Helper()
	bridges, host = nltest.NewNS(t), nltest.NewNS(t)
	for i, net := range []struct{ mtu, address string }{{"1500", "192.0.2.1/24"}, {"9000", "198.51.100.1/24"}} {
		bridge, port, iface := fmt.Sprintf("br%d", i), fmt.Sprintf("port%d", i), fmt.Sprintf("eth%d", i)
		bridges.Run(t, "ip", "link", "add", bridge, "type", "bridge")
		bridges.Run(t, "ip", "link", "set", bridge, "up", "mtu", net.mtu)
		bridges.Run(t, "ip", "link", "add", port, "mtu", net.mtu, "type", "veth", "peer", "name", iface, "mtu", net.mtu, "netns", string(host))
		bridges.Run(t, "ip", "link", "set", port, "master", bridge, "up")
		host.Run(t, "ip", "addr", "add", net.address, "dev", iface)
		host.Run(t, "ip", "link", "set", iface, "up")
	}
	return bridges, host
}

// exchange sends blob to the one who connects while it reads what that sends; it returns the sum of that.
func exchange(l net.Listener, blob []byte) (string, error) {
	conn, err := l.Accept()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(blob)
		sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	sum := sha256.New()
	_, err = io.Copy(sum, conn)
	return hex.EncodeToString(sum.Sum(nil)), errors.Join(err, <-sent)
}

// csumErrors prints how many segments came with a wrong checksum, in a program's own namespace.
const csumErrors = `awk '/^Tcp:/ { n = $NF } END { print n }' /proc/net/snmp`

// TestNIC is one boot with two cards. One has an address itself; the other is a port of
// a bridge of the guest, behind which is a namespace, as the machines of a lab are.
func TestNIC(t *testing.T) {
	bridges, host := fabric(t)
	blob := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range blob {
		blob[i] = byte(r.Uint32())
	}
	sum := sha256.Sum256(blob)
	want := hex.EncodeToString(sum[:])
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "blob"), blob, 0o644); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if err := netns.Do(nsPath(host), func() (err error) {
		l, err = net.Listen("tcp4", ":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	type received struct {
		sum string
		err error
	}
	got := make(chan received, 2)
	go func() {
		for range cap(got) {
			sum, err := exchange(l, blob)
			got <- received{sum, err}
		}
	}()
	var stdout, stderr bytes.Buffer
	code, err := Run(t.Context(), Options{
		Args: []string{"bash", "-c", `
			set -eo pipefail
			port=$1
			for card in uplink0 uplink1; do
				ip -o link show dev $card
				echo "$card has $(ip -o addr show dev $card | wc -l) addresses"
			done
			exchange() { "$@" timeout 60 busybox nc $to $port <blob | sha256sum; }

			ip addr add 192.0.2.2/24 dev uplink0
			ip link set uplink0 up
			to=192.0.2.1
			ping -q -c 3 -w 20 -M do -s 1472 $to >&2
			exchange
			! ping -q -c 1 -w 5 -M do -s 1473 $to >&2

			ip link add br0 type bridge
			ip link set br0 up mtu 9000
			ip link set uplink1 master br0 up
			ip netns add node
			ip link add node mtu 9000 type veth peer name eth0 mtu 9000 netns node
			ip link set node master br0 up
			ip -n node addr add 198.51.100.2/24 dev eth0
			ip -n node link set eth0 up
			to=198.51.100.1
			ip netns exec node ping -q -c 3 -w 20 -M do -s 8972 $to >&2
			exchange ip netns exec node
			echo "wrong checksums: $(` + csumErrors + `) $(ip netns exec node ` + csumErrors + `)"`,
			"bash", fmt.Sprint(l.Addr().(*net.TCPAddr).Port)},
		Dir: dir, Memory: 1024, Timeout: 5 * time.Minute, Stdout: &stdout, Stderr: &stderr, Progress: func(s string) { t.Log(s) },
		NICs: []NIC{{nsPath(bridges), "br0"}, {nsPath(bridges), "br1"}},
	})
	l.Close()
	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v; it wrote:\n%s%s", code, err, &stdout, &stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if len(lines) != 7 {
		t.Fatalf("it wrote:\n%s", &stdout)
	}
	for i, mtu := range []string{"mtu 1500", "mtu 9000"} {
		link, addrs := lines[2*i], lines[2*i+1]
		if !strings.Contains(link, mtu) || strings.Contains(link, "UP") {
			t.Errorf("want a card that is down and has %s: %s", mtu, link)
		}
		if addrs != Uplink(i)+" has 0 addresses" {
			t.Error(addrs)
		}
	}
	for i, line := range lines[4:6] {
		if line != want+"  -" {
			t.Errorf("exchange %d: the guest received what has the sum %s, want %s", i, line, want)
		}
		if r := <-got; r.err != nil || r.sum != want {
			t.Errorf("exchange %d: the host received what has the sum %s (%v), want %s", i, r.sum, r.err, want)
		}
	}
	if lines[6] != "wrong checksums: 0 0" {
		t.Error("in the guest: " + lines[6])
	}
	if n := host.Run(t, "sh", "-c", csumErrors); n != "0" {
		t.Errorf("%s segments came to the host with a wrong checksum", n)
	}
	if left := taps(t, bridges); len(left) > 0 {
		t.Errorf("taps are left: %q", left)
	}
}

// TestNICOfKilledRun kills the process that called Run while the command runs.
func TestNICOfKilledRun(t *testing.T) {
	runtime.LockOSThread() // The process dies with this thread.
	defer runtime.UnlockOSThread()
	bridges, _ := fabric(t)
	cmd := process(NIC{nsPath(bridges), "br0"})
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }() // It is dead already unless the test failed.
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "began\n" {
		t.Errorf("the process said %q (%v)", line, err)
	}
	if got := taps(t, bridges); len(got) != 1 {
		t.Errorf("taps %q while the guest runs, want one", got)
	}
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // An error: a signal has ended it.
	nltest.Eventually(t, "the tap is gone", func() bool { return len(taps(t, bridges)) == 0 })
}
