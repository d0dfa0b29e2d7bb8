package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/crd"
)

func newIPAMCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ipam",
		Short: "Show who has which address, find what is wrong, release what nobody uses",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newIPAMShowCommand(c), newIPAMCheckCommand(c), newIPAMReleaseCommand(c), newIPAMConfigureCommand(c))
	return cmd
}

// ipamFlags are what every ipam command takes.
type ipamFlags struct {
	connection *connection
	namespace  string
}

// ipamAccess is what the ipam commands work on.
type ipamAccess struct {
	backend   store.Backend
	kube      kubernetes.Interface
	namespace string
	exec      execFunc
}

// requestTimeout bounds one request, a page of a list included, unless the user says
// otherwise.
const requestTimeout = 30 * time.Second

// connect makes the clients. It asks nothing yet.
func (f *ipamFlags) connect() (ipamAccess, error) {
	cfg, err := f.connection.userConfig()
	if err != nil {
		return ipamAccess{}, err
	}
	cfg.Timeout = f.connection.requestTimeout(requestTimeout)
	backend, err := crd.NewBackend(cfg)
	if err != nil {
		return ipamAccess{}, err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return ipamAccess{}, err
	}
	return ipamAccess{backend: backend, kube: kube, namespace: f.namespace, exec: execIn(cfg, kube)}, nil
}

// with runs a command against the cluster and says what to do about what fails.
func (f *ipamFlags) with(name string, run func(ipamAccess) error) error {
	access, err := f.connect()
	if err == nil {
		err = run(access)
	}
	if err == nil {
		return nil
	}
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return fmt.Errorf("ipam %s: %w; use a kubeconfig whose user may do that: manxctl help ipam %s lists the rights that are needed",
			name, err, name)
	}
	return fmt.Errorf("ipam %s: %w", name, err)
}

// list reads all objects of a kind. What does not decode is handed to bad.
func list[T any](ctx context.Context, b store.Backend, resource string, bad func(name string, err error)) ([]*T, error) {
	items, err := b.List(ctx, resource, "")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", resource, err)
	}
	out := make([]*T, 0, len(items))
	for _, item := range items {
		o := new(T)
		if err := json.Unmarshal(item, o); err != nil {
			bad(store.NameOf(item), err)
			continue
		}
		out = append(out, o)
	}
	return out, nil
}

// clusterInformation returns the cluster's description, empty when there is none.
func (a ipamAccess) clusterInformation(ctx context.Context) (apiv1.ClusterInformation, error) {
	var info apiv1.ClusterInformation
	text, err := a.backend.Get(ctx, apiv1.PluralClusterInformations, apiv1.DefaultName)
	if errors.Is(err, store.ErrNotFound) {
		return info, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &info)
	}
	if err != nil {
		return info, fmt.Errorf("read ClusterInformation %s: %w", apiv1.DefaultName, err)
	}
	return info, nil
}
