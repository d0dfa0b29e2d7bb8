package plugin

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
)

// BenchmarkPlugin times whole processes, ADD and DEL, of manx with an agent that
// has nothing behind it, and of bridge with host-local where they are installed:
//
//	go test -run '^$' -bench Plugin -benchtime 60x ./cni-plugin/plugin
func BenchmarkPlugin(b *testing.B) {
	b.Run("manx", func(b *testing.B) {
		r := newRig(b)
		timeAddDel(b, r.node, func(verb, id, netns string) *exec.Cmd {
			return r.command(call{verb: verb, id: id, pod: "web-" + id, netns: netns})
		})
	})
	b.Run("bridge", func(b *testing.B) {
		const dir = "/usr/lib/cni"
		node := nettest.NewNode(b)
		conf := fmt.Sprintf(`{"name":"bench","cniVersion":"1.0.0","type":"bridge","bridge":"cni0","isGateway":true,
			"ipam":{"type":"host-local","subnet":"10.98.0.0/16","dataDir":%q,"routes":[{"dst":"0.0.0.0/0"}]}}`, b.TempDir())
		timeAddDel(b, node, func(verb, id, netns string) *exec.Cmd {
			cmd := exec.Command(filepath.Join(dir, "bridge"))
			cmd.Stdin = strings.NewReader(conf)
			cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=" + dir}
			return cmd
		})
	})
}

func timeAddDel(b *testing.B, node *nettest.Namespace, command func(verb, id, netns string) *exec.Cmd) {
	took := map[string][]time.Duration{}
	for i := range b.N {
		pod := nettest.New(b, "pod")
		for _, verb := range []string{"ADD", "DEL"} {
			cmd := command(verb, fmt.Sprintf("c%d", i), pod.Path)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			var err error
			var d time.Duration
			node.Do(b, func() {
				begin := time.Now()
				err = cmd.Run()
				d = time.Since(begin)
			})
			if err != nil {
				b.Fatalf("%s: %v: %s", verb, err, &out)
			}
			took[verb] = append(took[verb], d)
		}
		pod.Delete()
	}
	for verb, all := range took {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, verb+"-p50-ms")
		b.ReportMetric(float64(all[len(all)*95/100].Microseconds())/1000, verb+"-p95-ms")
	}
	b.ReportMetric(0, "ns/op")
}
