package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const modulesDep = `kernel/lib/crc.ko:
kernel/drivers/virtio/virtio.ko.xz:
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz
kernel/net/9p/9pnet.ko:
kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/net/ipv4/ip_tunnel.ko:
kernel/net/ipv4/ipip.ko: kernel/net/ipv4/ip_tunnel.ko
kernel/crypto/crypto-engine.ko: kernel/lib/crc.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
`

func TestLoadOrder(t *testing.T) {
	deps := parseDeps(modulesDep)
	tests := []struct {
		name  string
		names []string
		want  []string // nil is an error
	}{
		{"none", nil, []string{}},
		{"needs nothing", []string{"9pnet"}, []string{"kernel/net/9p/9pnet.ko"}},
		{"what is needed comes first", []string{"9pnet_virtio"}, []string{
			"kernel/drivers/virtio/virtio.ko.xz", "kernel/drivers/virtio/virtio_ring.ko.xz",
			"kernel/net/9p/9pnet.ko", "kernel/net/9p/9pnet_virtio.ko",
		}},
		{"each once", []string{"virtio", "virtio_ring", "virtio_ring"}, []string{
			"kernel/drivers/virtio/virtio.ko.xz", "kernel/drivers/virtio/virtio_ring.ko.xz",
		}},
		{"hyphen and underscore are one", []string{"crypto_engine"}, []string{"kernel/lib/crc.ko", "kernel/crypto/crypto-engine.ko"}},
		{"a card's driver comes after what it stands on", []string{"virtio_net"}, []string{
			"kernel/net/core/failover.ko", "kernel/drivers/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko",
		}},
		{"built in", []string{"overlay"}, []string{}},
		{"unknown", []string{"nonsense"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loadOrder(deps, []string{"overlay"}, tt.names...)
			if (err != nil) != (tt.want == nil) {
				t.Fatalf("error %v", err)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestHasModule(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  bool
	}{
		{"no directory of modules", nil, false},
		{"loadable", map[string]string{"modules.dep": modulesDep}, true},
		{"built in", map[string]string{"modules.dep": "", "modules.builtin": "kernel/net/ipv4/ipip.ko\n"}, true},
		{"another's name begins so", map[string]string{"modules.dep": "kernel/ipip2.ko:\n", "modules.builtin": "kernel/x_ipip.ko\n"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := hasModule(dir, "ipip"); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestDependency(t *testing.T) {
	const out = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n |Suggests: x\n"
	if got := dependency(out); got != "6.1.0-56-amd64" {
		t.Errorf("got %q", got)
	}
	if got := dependency("linux-image-amd64\n  Conflicts: linux-image-6.1\n"); got != "" {
		t.Errorf("got %q of a package that depends on nothing", got)
	}
}

func TestNewestCached(t *testing.T) {
	cache := t.TempDir()
	if _, ok := newestCached(cache); ok {
		t.Error("an empty cache has a kernel")
	}
	now := time.Now()
	for i, version := range []string{"6.9-amd64", "6.12-amd64", "6.10-amd64"} {
		k := Kernel{Version: version, Dir: filepath.Join(cache, version)}
		if err := os.MkdirAll(filepath.Join(k.Dir, "boot"), 0o755); err != nil {
			t.Fatal(err)
		}
		if version != "6.10-amd64" { // The last one was never finished.
			if err := os.WriteFile(k.Image(), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(k.Dir, now, now.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if k, ok := newestCached(cache); !ok || k.Version != "6.12-amd64" {
		t.Errorf("got %q", k.Version)
	}
}

func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	f := &framer{w: &wire}
	output := bytes.Repeat([]byte{0, 1, 0xff, '\n'}, maxPayload/4+1)
	for _, err := range []error{f.send(frameUp, nil), f.copyFrom(bytes.NewReader(output), frameStdout), f.send(frameExit, []byte("3"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := iotest.OneByteReader(&wire)
	var kinds, got []byte
	for {
		kind, payload, err := readFrame(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, kind)
		if kind == frameStdout {
			got = append(got, payload...)
		}
	}
	if !bytes.Equal(got, output) {
		t.Errorf("%d bytes came of %d", len(got), len(output))
	}
	if kinds[0] != frameUp || kinds[len(kinds)-1] != frameExit {
		t.Errorf("frames came in the order %q", kinds)
	}
}

func TestFramesThatAreCut(t *testing.T) {
	var wire bytes.Buffer
	if err := (&framer{w: &wire}).send(frameStdout, []byte("abc")); err != nil {
		t.Fatal(err)
	}
	whole := wire.Bytes()
	for n := 1; n < len(whole); n++ {
		if _, _, err := readFrame(bytes.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes give %v", n, len(whole), err)
		}
	}
	if _, _, err := readFrame(strings.NewReader("o\xff\xff\xff\xff")); err == nil {
		t.Error("a frame of 4 GiB is accepted")
	}
	if _, err := exitCode([]byte("x")); err == nil {
		t.Error("an exit code that is no number is accepted")
	}
}

// TestArchive compares with what cpio(1) makes of a directory and a file, all times and owners zero.
func TestArchive(t *testing.T) {
	a := &archive{}
	a.dir("d")
	a.file("d/abc", 0o644, []byte("hello"))
	header := func(ino, mode, size, name string) string {
		const z = "00000000"
		return "070701" + ino + mode + z + z + "00000001" + z + size + z + z + z + z + name + z
	}
	want := header("00000001", "000041ed", "00000000", "00000002") + "d\x00" +
		header("00000002", "000081a4", "00000005", "00000006") + "d/abc\x00" + "hello\x00\x00\x00" +
		header("00000003", "00000000", "00000000", "0000000b") + "TRAILER!!!\x00" + "\x00\x00\x00"
	if got := string(a.bytes()); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestOptions(t *testing.T) {
	tests := []struct {
		name string
		o    Options
		want string // in the error; "" is none
	}{
		{"defaults", Options{Args: []string{"true"}}, ""},
		{"nothing to run", Options{}, "no command"},
		{"variable without value", Options{Args: []string{"true"}, Env: []string{"A"}}, `"A"`},
		{"too small", Options{Args: []string{"true"}, Memory: 10}, "256 MiB"},
		{"too short", Options{Args: []string{"true"}, Timeout: time.Millisecond}, "1ms"},
		{"card without bridge", Options{Args: []string{"true"}, NICs: []NIC{{NetNS: "/run/netns/x"}}}, `"/run/netns/x:"`},
		{"negative", Options{Args: []string{"true"}, CPUs: -1}, "-1 CPUs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := tt.o.withDefaults()
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want one with %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if o.Memory != DefaultMemory || o.CPUs != DefaultCPUs || o.Timeout != DefaultTimeout || !filepath.IsAbs(o.Dir) {
				t.Errorf("got %+v", o)
			}
		})
	}
}

func TestSetEnv(t *testing.T) {
	got := setEnv([]string{"PATH=a", "HOME=b", "PATH=c=d", "PATHS=e"})
	if want := []string{"HOME=b", "PATH=c=d", "PATHS=e"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTail(t *testing.T) {
	w := &tail{}
	for range 3 {
		if n, err := w.Write(bytes.Repeat([]byte("line\r\n"), tailSize/6)); err != nil || n == 0 {
			t.Fatal(n, err)
		}
	}
	if _, err := w.Write([]byte("the last\r\n")); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(w.String(), "\n")
	if len(got) != tailLines || got[0] != "line" || got[tailLines-1] != "the last" {
		t.Errorf("got %d lines, from %q to %q", len(got), got[0], got[len(got)-1])
	}
	if len(w.buf) > tailSize {
		t.Errorf("it keeps %d bytes", len(w.buf))
	}
}
