package agent

import (
	"strings"

	"github.com/manx-cni/manx/api/settings"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// maxEventText bounds the note of an Event, in bytes; the API takes 1,024.
const maxEventText = 1000

// ignored tells, by an Event on the pod, of annotations that it or its namespace has and
// that have no effect. Those that must not be passed over have failed the ADD.
func (a *Agent) ignored(e nodeapi.Endpoint, meta podMeta) {
	if note := podSettings(meta); note != "" {
		a.log.Warn("annotations without effect", "namespace", e.Namespace, "pod", e.Pod, "note", note)
		a.datastore.PodEvent(e.Namespace, e.Pod, e.PodUID, "SettingWithoutEffect", note)
	}
}

// podSettings says which annotations have no effect; empty when all that there are have.
func podSettings(meta podMeta) string {
	var notes []string
	for _, on := range []struct {
		who         string
		annotations map[string]string
	}{{"", meta.annotations}, {"of the namespace: ", meta.namespace}} {
		if found := settings.OfPod(on.annotations); len(found) > 0 {
			notes = append(notes, on.who+settings.Summary(found, maxEventText))
		}
	}
	return settings.Bounded(strings.Join(notes, "; "), maxEventText)
}
