// Package obs sets up how the agent is observed: its log, its metrics registry
// and its HTTP listeners.
//
// Logs go to standard error, as text on a terminal and as JSON elsewhere;
// client-go's own messages (klog) go the same way. Info is for changes of state:
// an agent at rest is silent. Metrics are registered on a registry that is passed
// around, never on the global one, and their names are linted by a test.
//
// The package sits on no packet path.
package obs

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"
	"k8s.io/klog/v2"

	"github.com/manx-cni/manx/internal/excerpt"
)

// NewLogger returns a logger that writes to w at the given level and above: text
// when w is a terminal, JSON otherwise.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// replace bounds what others have written into a message, and names levels.
func replace(groups []string, a slog.Attr) slog.Attr {
	switch v := a.Value; v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(excerpt.Of(v.String(), excerpt.LogMax))
	case slog.KindAny:
		if err, ok := v.Any().(error); ok && err != nil {
			if text := err.Error(); len(text) > excerpt.LogMax {
				a.Value = slog.StringValue(excerpt.Of(text, excerpt.LogMax))
			}
		}
	}
	return levelNames(groups, a)
}

// levelNames gives the levels outside slog's four their names in
// FELIX_LOGSEVERITYSCREEN, instead of DEBUG-4 and ERROR+4.
func levelNames(groups []string, a slog.Attr) slog.Attr {
	if a.Key != slog.LevelKey || len(groups) > 0 {
		return a
	}
	switch level, _ := a.Value.Any().(slog.Level); {
	case level < slog.LevelDebug:
		a.Value = slog.StringValue("TRACE")
	case level > slog.LevelError:
		a.Value = slog.StringValue("FATAL")
	}
	return a
}

// BridgeKlog sends what client-go logs to l, with component=client-go. It changes
// klog's global state: call it once, from main.
func BridgeKlog(l *slog.Logger) { klog.SetSlogLogger(l.With("component", "client-go")) }
