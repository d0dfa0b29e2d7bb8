package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/manx-cni/manx/internal/settingsreport"
	"github.com/manx-cni/manx/internal/status"
)

// settingsTimeout is how long the objects of the cluster are read for.
const settingsTimeout = 30 * time.Second

// clusterSettings are what is set without effect in the whole cluster.
type clusterSettings struct {
	lines []settingsreport.Line
	err   error // what was not read
}

// readSettings reads what is set without effect. The nodes' own lines, which are a part
// of that, go when everything was read.
func readSettings(ctx context.Context, cfg *rest.Config, nodes []status.Node) clusterSettings {
	objects, err1 := dynamic.NewForConfig(cfg)
	policies, err2 := metadata.NewForConfig(cfg)
	if err := errors.Join(err1, err2); err != nil {
		return clusterSettings{err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, settingsTimeout)
	defer cancel()
	var s clusterSettings
	if s.lines, s.err = settingsreport.Read(ctx, objects, policies); s.err == nil {
		for i := range nodes {
			nodes[i].Settings = nil
		}
	}
	return s
}

// write prints one line for each object and namespace; nothing when there is none. That
// something could not be read is no failure of the command: the nodes have answered.
func (s clusterSettings) write(out io.Writer) error {
	if len(s.lines) == 0 && s.err == nil {
		return nil
	}
	_, err := fmt.Fprintln(out, "\nSet without effect")
	for _, l := range s.lines {
		if err == nil {
			_, err = fmt.Fprintf(out, "  %s: %s\n", l.About, l.Text)
		}
	}
	if s.err != nil && err == nil {
		_, err = fmt.Fprintf(out, "  not known of everything: %s\n", strings.ReplaceAll(s.err.Error(), "\n", "; "))
	}
	return err
}
