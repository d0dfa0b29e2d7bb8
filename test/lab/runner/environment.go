package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab/contain"
	"github.com/manx-cni/manx/test/lab/host"
)

// environment is a container's: what its spec says, and where the API server is. That is
// its own address: a light node has no kube-proxy, or has it late.
func (w *worker) environment(ctx context.Context, c corev1.Container) ([]string, error) {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOSTNAME=" + w.Machine,
		"KUBERNETES_SERVICE_HOST=" + w.Server.Addr().String(),
		fmt.Sprintf("KUBERNETES_SERVICE_PORT=%d", w.Server.Port()),
	}
	if w.static && host.Emulated() {
		env = append(env, host.GoEnv()...)
	}
	for _, e := range c.Env {
		value := e.Value
		if from := e.ValueFrom; from != nil {
			var err error
			if value, err = w.valueFrom(ctx, from); err != nil {
				return nil, fmt.Errorf("variable %s: %w", e.Name, err)
			}
		}
		env = append(env, e.Name+"="+value)
	}
	return env, nil
}

func (w *worker) valueFrom(ctx context.Context, from *corev1.EnvVarSource) (string, error) {
	switch {
	case from.FieldRef != nil:
		switch from.FieldRef.FieldPath {
		case "spec.nodeName":
			return w.Node, nil
		case "metadata.name":
			return w.pod.Name, nil
		case "metadata.namespace":
			return w.pod.Namespace, nil
		case "status.podIP":
			if w.pod.Spec.HostNetwork {
				return w.Addrs[0].String(), nil
			}
			ips := w.ips()
			return strings.Join(ips[:min(1, len(ips))], ""), nil
		case "status.hostIP":
			return w.Addrs[0].String(), nil
		}
		return "", fmt.Errorf("a light node does not know the field %s", from.FieldRef.FieldPath)
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := w.client.CoreV1().ConfigMaps(w.pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		value, ok := cm.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", fmt.Errorf("ConfigMap %s/%s has no key %s", cm.Namespace, cm.Name, ref.Key)
		}
		return value, nil
	}
	return "", errors.New("a light node takes values from fields and ConfigMaps only")
}

// tokenDir is where every container finds its service account.
const tokenDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// mounts are a container's volumes, with its service account unless something else is there.
func (w *worker) mounts(ctx context.Context, c corev1.Container) (mounts []contain.Mount, err error) {
	covered := false
	for _, m := range c.VolumeMounts {
		covered = covered || m.MountPath == tokenDir
		i := slices.IndexFunc(w.pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			return nil, fmt.Errorf("there is no volume %s", m.Name)
		}
		source := ""
		switch v := w.pod.Spec.Volumes[i]; {
		case v.HostPath != nil:
			source = v.HostPath.Path
		case v.EmptyDir != nil:
			source = filepath.Join(w.dir, "volumes", v.Name)
			if err := os.MkdirAll(source, 0o755); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("volume %s: a light node has hostPath and emptyDir only", v.Name)
		}
		mounts = append(mounts, contain.Mount{Source: filepath.Join(source, m.SubPath), Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	if covered || w.pod.Spec.AutomountServiceAccountToken != nil && !*w.pod.Spec.AutomountServiceAccountToken {
		return mounts, nil
	}
	account, err := w.serviceAccount(ctx)
	if err != nil {
		return nil, err
	}
	return append(mounts, contain.Mount{Source: account, Target: tokenDir, ReadOnly: true}), nil
}

// tokenLife is longer than any lab lives. A token ends with its Node all the same, and a
// container that starts again gets another.
const tokenLife = 30 * 24 * time.Hour

// tokenPatience is how long a container that has a token waits for another.
const tokenPatience = 2 * time.Second

// serviceAccount makes a directory with what a pod gets of its service account, in memory
// as everything below /run. What is there already serves when the API server is away.
func (w *worker) serviceAccount(ctx context.Context) (string, error) {
	dir := filepath.Join(w.dir, "serviceaccount")
	_, err := os.Stat(filepath.Join(dir, "token"))
	if err != nil {
		return dir, w.writeAccount(ctx, dir)
	}
	ctx, cancel := context.WithTimeout(ctx, tokenPatience)
	defer cancel()
	if err := w.writeAccount(ctx, dir); err != nil {
		w.log.Warn("the container starts with its former token", "pod", w.pod.Name, "error", err)
	}
	return dir, nil
}

// writeAccount asks for a token. As a kubelet's it says on which node its pod is, by which
// the admission policies judge; but it is bound to the Node and not to the pod: a static
// pod's object is made when the pod runs.
func (w *worker) writeAccount(ctx context.Context, dir string) error {
	name := w.pod.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	seconds := int64(tokenLife.Seconds())
	spec := authv1.TokenRequestSpec{ExpirationSeconds: &seconds}
	if w.Node != "" {
		spec.BoundObjectRef = &authv1.BoundObjectReference{Kind: "Node", APIVersion: "v1", Name: w.Node}
	}
	token, err := w.client.CoreV1().ServiceAccounts(w.pod.Namespace).CreateToken(ctx,
		name, &authv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("token of service account %s/%s: %w", w.pod.Namespace, name, err)
	}
	ca, err := os.ReadFile(w.CA)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The token comes last: it says that the directory is complete. The user that a
	// container runs as may be any, so all may read it, as in a kubelet's volume; only
	// root gets to the directory.
	for _, f := range []struct {
		name    string
		content []byte
	}{{"ca.crt", ca}, {"namespace", []byte(w.pod.Namespace)}, {"token", []byte(token.Status.Token)}} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path+".new", f.content, 0o644); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

// known lists the images that there are programs for.
func (r *runner) known() string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(r.Images)), maps.Keys(r.Programs))
	slices.Sort(names)
	return strings.Join(names, ", ")
}
