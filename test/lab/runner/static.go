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

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// staticEvery is how often the directory of static pods is looked at while one of
	// them is to begin or to end.
	staticEvery = 200 * time.Millisecond
	// staticAtLeast is how often when nothing is heard of it. Each look wakes the process,
	// which an emulated CPU feels.
	staticAtLeast = 5 * time.Second
)

// watchStatic is told when something happens in the directory of static pods; without
// inotify it is looked at often.
func (r *runner) watchStatic(ctx context.Context) (happened <-chan fsnotify.Event, atLeast time.Duration) {
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		context.AfterFunc(ctx, func() { _ = watcher.Close() }) // which ends both channels
		go func() {
			for err := range watcher.Errors { // such as events that were lost: it is looked at again anyway
				r.log.Warn("watching the static pods", "dir", StaticDir, "error", err)
			}
		}()
		err = watcher.Add(StaticDir)
	}
	if err != nil {
		r.log.Warn("the directory of static pods is not watched but looked at", "dir", StaticDir, "every", staticEvery, "error", err)
		return nil, staticEvery
	}
	return watcher.Events, staticAtLeast
}

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
	read := map[string]readFile{}
	happened, atLeast := r.watchStatic(ctx)
	for wait := time.Duration(0); ; wait = atLeast {
		for f, w := range running {
			if read[f].pod == nil || w.ending.Err() != nil {
				wait = staticEvery // it is about to end, and another may be about to begin
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-happened:
		case <-time.After(wait):
		}
		files, _ := filepath.Glob(filepath.Join(StaticDir, "*.json"))
		there, before := map[string]*corev1.Pod{}, read
		read = map[string]readFile{}
		for _, f := range files {
			// Reading a Pod takes an emulated CPU so long that it is done only when there
			// is something new. Whoever writes such a file renames it into place.
			is, err := os.Stat(f)
			if err != nil {
				continue // it has gone
			}
			if was, known := before[f]; known && os.SameFile(was.info, is) &&
				was.info.ModTime().Equal(is.ModTime()) && was.info.Size() == is.Size() {
				read[f] = was
			} else {
				now := readFile{info: is}
				if now.pod, err = r.readStatic(f); err != nil {
					r.log.Error("a static pod is not run", "file", f, "error", err)
				}
				read[f] = now
			}
			pod := read[f].pod
			if pod == nil {
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

// readFile is a file as it was read.
type readFile struct {
	info os.FileInfo
	pod  *corev1.Pod // nil: it describes none
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
