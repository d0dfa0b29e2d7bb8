package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// staticEvery is how often the directory of static pods is looked at.
const staticEvery = 200 * time.Millisecond

// static runs the pods that the files of StaticDir describe. A file that goes takes its
// pod with it, and one that changes makes it another.
func (r *runner) static(ctx context.Context) {
	running := map[string]*worker{} // by file, or by id
	r.mu.Lock()
	// What an earlier runner has started and whose file has gone, or says something else.
	for _, pod := range r.kept(true) {
		running[string(pod.UID)] = r.start(ctx, pod, true)
	}
	r.mu.Unlock()
	said := map[string]string{}
	for ; ; pause(ctx, staticEvery) {
		if ctx.Err() != nil {
			return
		}
		files, _ := filepath.Glob(filepath.Join(StaticDir, "*.json"))
		there := map[string]*corev1.Pod{}
		for _, f := range files {
			pod, err := r.readStatic(f)
			if err != nil {
				if said[f] != err.Error() {
					r.log.Error("a static pod is not run", "file", f, "error", err)
					said[f] = err.Error()
				}
				continue
			}
			there[f] = pod
			if w := running[string(pod.UID)]; w != nil {
				running[f] = w
				delete(running, string(pod.UID))
			}
		}
		for f, w := range running {
			// A file that comes back while its pod ends is another pod.
			if pod := there[f]; pod == nil || pod.UID != w.pod.UID || w.ending.Err() != nil {
				w.end()
				if r.find(w.pod.Namespace, w.pod.Name) == nil {
					delete(running, f) // it has ended: another of its name may begin
				}
			}
		}
		for f, pod := range there {
			if running[f] == nil && r.find(pod.Namespace, pod.Name) == nil {
				r.mu.Lock()
				running[f] = r.start(ctx, pod, true)
				r.mu.Unlock()
			}
		}
	}
}

// readStatic reads a static pod. Its UID is made from what it says, so that the next
// runner knows it again.
func (r *runner) readStatic(file string) (*corev1.Pod, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pod := new(corev1.Pod)
	if err := json.Unmarshal(b, pod); err != nil {
		return nil, err
	}
	if pod.Name == "" || pod.Namespace == "" || len(pod.Spec.Containers) == 0 {
		return nil, fmt.Errorf("want a Pod with a name, a namespace and a container")
	}
	sum := sha256.Sum256(b)
	hash := hex.EncodeToString(sum[:16])
	pod.UID = types.UID("static-" + hash)
	pod.Spec.NodeName = r.Node
	if r.Node == "" {
		pod.Spec.NodeName = r.Machine
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[corev1.MirrorPodAnnotationKey] = hash
	return pod, nil
}
