package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab/audit"
	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/layout"
)

// Recording is the requests that a lab's API server received from one moment on.
type Recording struct {
	cluster *Cluster
	started time.Time
	file    fs.FileInfo // of the log then
}

// RecordRequests begins a recording. The lab must have been brought up with Options.Audit.
func (c *Cluster) RecordRequests() (*Recording, error) {
	file, err := os.Stat(c.auditLog())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %s has no audit log; bring it up with --audit", c.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("record the requests of lab %s: %w", c.Name, err)
	}
	return &Recording{cluster: c, started: time.Now(), file: file}, nil
}

func (c *Cluster) auditLog() string { return c.Log(layout.Control, controlplane.AuditLog) }

// logPatience bounds the wait for the log, which is milliseconds behind.
const logPatience = 30 * time.Second

// Requests returns what was recorded so far: every request whose answer somebody had
// when it was called, and some later ones. It can be called again.
func (r *Recording) Requests(ctx context.Context) (audit.Log, error) {
	ctx, cancel := context.WithTimeout(ctx, logPatience)
	defer cancel()
	client, err := r.cluster.Clientset()
	if err != nil {
		return nil, err
	}
	// The log is written behind the answers, in their order. A request of our own shows
	// how far it is. The first one gives the server time to enter what it has just answered.
	var marker string
	for range 2 {
		marker = fmt.Sprintf("lab-audit-%d", time.Now().UnixNano())
		_, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, marker, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("mark the audit log of lab %s: %w", r.cluster.Name, err)
		}
	}
	var log audit.Log
	err = poll(ctx, func(context.Context) error {
		if log, err = r.read(); err != nil {
			return err
		}
		if !slices.ContainsFunc(log, func(e audit.Request) bool { return e.Name == marker }) {
			return fmt.Errorf("%s has no line about configmap %s yet", r.cluster.auditLog(), marker)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("requests of lab %s: %w", r.cluster.Name, err)
	}
	return log.Only(func(e audit.Request) bool { return !e.Received.Before(r.started) }), nil
}

func (r *Recording) read() (audit.Log, error) {
	f, err := os.Open(r.cluster.auditLog())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch now, err := f.Stat(); {
	case err != nil:
		return nil, err
	case !os.SameFile(now, r.file):
		return nil, fmt.Errorf("the API server began another %s meanwhile: record a shorter time", f.Name())
	}
	from := bufio.NewReader(f)
	if size := r.file.Size(); size > 0 {
		// The line that was being written then is not ours.
		if _, err := f.Seek(size-1, io.SeekStart); err != nil {
			return nil, err
		}
		if _, err := from.ReadBytes('\n'); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	return audit.Read(from)
}
