package runner

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/google/renameio/v2"

	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/machine"
)

// Prepare writes the runner's configuration and static pods onto a machine's disk.
func (c Config) Prepare(disk string, pods []*corev1.Pod) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the runner's configuration: %w", err)
	}
	path := filepath.Join(disk, ConfigFile)
	for _, dir := range []string{filepath.Dir(path), filepath.Join(disk, StaticDir), filepath.Join(disk, LogDir, "containers")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("prepare the runner: %w", err)
		}
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("prepare the runner: %w", err)
	}
	for _, pod := range pods {
		if err := WriteStatic(disk, pod); err != nil {
			return err
		}
	}
	return nil
}

// staticFile is where a static pod is on a machine's disk.
func staticFile(disk, name string) string { return filepath.Join(disk, StaticDir, name+".json") }

// WriteStatic puts a static pod onto a machine's disk: a runner there starts it.
func WriteStatic(disk string, pod *corev1.Pod) error {
	b, err := json.Marshal(pod)
	if err != nil {
		return fmt.Errorf("encode static pod %s: %w", pod.Name, err)
	}
	if err := renameio.WriteFile(staticFile(disk, pod.Name), b, 0o644); err != nil {
		return fmt.Errorf("write static pod %s: %w", pod.Name, err)
	}
	return nil
}

// RemoveStatic takes a static pod off a machine's disk: the runner there ends it.
func RemoveStatic(disk, name string) error {
	if err := os.Remove(staticFile(disk, name)); err != nil {
		return fmt.Errorf("remove static pod %s: %w", name, err)
	}
	return nil
}

// Component is the runner as a program of a machine. It starts when url says 200, with a
// certificate of the authority ca.
func Component(url, ca string) machine.Component {
	return machine.Component{Name: "runner", Args: []string{Program}, Self: true, Env: host.GoEnv(), WaitURL: url, WaitCA: ca}
}
