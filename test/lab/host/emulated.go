package host

import (
	"bytes"
	"os"
	"sync"
)

// Emulated reports whether QEMU translates every instruction of this machine, because it
// has no KVM: everything takes many times as long as on a CPU.
var Emulated = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && bytes.Contains(b, []byte("QEMU TCG"))
})

// GoEnv is the environment of a lab's Go programs. The garbage collector runs a fifth as
// often: labs live for minutes, and memory is what a machine has more of than time. On an
// emulated machine none has a second thread either: to look for work that it could take
// over is two fifths of what an idle API server does.
func GoEnv() []string {
	env := []string{"GOGC=400"}
	if Emulated() {
		env = append(env, "GOMAXPROCS=1")
	}
	return env
}
