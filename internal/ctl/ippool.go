package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/cmdline"
)

func newIPPoolCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ippool",
		Short: "Change how packets to a pool travel",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newIPPoolModeCommand(c))
	return cmd
}

func newIPPoolModeCommand(c *connection) *cobra.Command {
	var force bool
	var o output
	cmd := &cobra.Command{
		Use:   "mode POOL Always|CrossSubnet|Never",
		Short: "Change a pool's ipipMode, while pods run",
		Long: `Change a pool's ipipMode, while pods run and without losing a packet: the agents
first agree that all of them accept the new way, and then send it. An agent that
does not answer holds all of them at the old way; "manxctl status" names it.

--force goes on although probes between nodes fail: it sets the annotation
manx.io/force-ipip-mode of the pool. That every agent must accept the new way
before anyone sends it holds all the same; delete the Node of a machine that is
gone. Without --force the annotation is removed. Try "manxctl preflight ipip" first.

Needs a kubeconfig with "get" and "patch" on ippools.crd.projectcalico.org.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			mode, err := parseMode(args[1])
			if err != nil {
				return err
			}
			cfg, err := c.userConfig()
			if err != nil {
				return fmt.Errorf("ippool mode: %w", err)
			}
			client, err := dynamic.NewForConfig(cfg)
			if err != nil {
				return err
			}
			done, err := setPoolMode(cmd.Context(), client, args[0], mode, force)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), done, done.writeText)
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "go on although probes between nodes fail")
	return c.uses(cmd)
}

// parseMode accepts any case.
func parseMode(text string) (apiv1.EncapMode, error) {
	m, err := cmdline.Choice("mode", text, string(apiv1.EncapAlways), string(apiv1.EncapCrossSubnet), string(apiv1.EncapNever))
	return apiv1.EncapMode(m), err
}

// setPoolMode patches the pool and returns what has changed.
func setPoolMode(ctx context.Context, client dynamic.Interface, name string, mode apiv1.EncapMode, force bool) (done PoolMode, err error) {
	pools := client.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools))
	u, err := pools.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return done, noSuchPool(ctx, pools, name, err)
	}
	if err != nil {
		return done, fmt.Errorf("read IPPool %s: %w", name, err)
	}
	var pool apiv1.IPPool
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &pool); err != nil {
		return done, fmt.Errorf("read IPPool %s: %w", name, err)
	}
	before := pool.Spec.IPIPMode
	if before == "" {
		before = apiv1.EncapNever
	}
	pool.Spec.IPIPMode = mode
	if v := pool.Spec.VXLANMode; v != "" && v != apiv1.EncapNever && mode != apiv1.EncapNever {
		return done, fmt.Errorf("IPPool %s has vxlanMode %s, and a pool has one encapsulation only: set spec.vxlanMode to Never first", name, v)
	}
	if err := pool.Validate(); err != nil {
		return done, fmt.Errorf("IPPool %s with ipipMode %s: %w", name, mode, err)
	}
	forced, annotation, err := forceAnnotation(&pool, mode, force)
	if err != nil {
		return done, fmt.Errorf("IPPool %s: %w", name, err)
	}
	patch := map[string]any{"spec": map[string]any{"ipipMode": mode}}
	if forced != "" || force {
		patch["metadata"] = map[string]any{"annotations": map[string]any{apiv1.AnnotationPoolForceMode: annotation}}
	}
	raw, err := json.Marshal(patch)
	if err != nil {
		return done, err
	}
	if _, err := pools.Patch(ctx, name, types.MergePatchType, raw, metav1.PatchOptions{}); err != nil {
		return done, fmt.Errorf("change IPPool %s to ipipMode %s: %w", name, mode, err)
	}
	done = PoolMode{Pool: name, Before: string(before), Mode: string(mode), Forced: force}
	if !force {
		done.Unforced = forced
	}
	return done, nil
}

// forceAnnotation returns what forces the pool now, and what the pool's annotation
// has to become: nil, to be removed, or empty where calicoctl's annotation would
// count without it.
func forceAnnotation(pool *apiv1.IPPool, mode apiv1.EncapMode, force bool) (forced string, annotation any, err error) {
	_, user, err := apiv1.UserMetadata(pool.ObjectMeta)
	if err != nil {
		return "", nil, err
	}
	forced, own := pool.Annotations[apiv1.AnnotationPoolForceMode]
	inUser := ""
	if _, ok := pool.Annotations[apiv1.AnnotationMetadata]; ok {
		inUser = user[apiv1.AnnotationPoolForceMode]
	}
	if !own {
		forced = inUser
	}
	switch {
	case force:
		annotation = string(mode)
	case inUser != "":
		annotation = ""
	}
	return forced, annotation, nil
}

// writeText says what was done and how to watch what comes of it.
func (d PoolMode) writeText(w io.Writer) error {
	var b strings.Builder
	if d.Before == d.Mode {
		fmt.Fprintf(&b, "IPPool %s: ipipMode is %s already\n", d.Pool, d.Mode)
	} else {
		fmt.Fprintf(&b, "IPPool %s: ipipMode %s -> %s\n", d.Pool, d.Before, d.Mode)
	}
	switch {
	case d.Forced:
		fmt.Fprintf(&b, "IPPool %s: %s=%s: agents go over to it although probes between them fail\n",
			d.Pool, apiv1.AnnotationPoolForceMode, d.Mode)
		fmt.Fprintf(&b, "Once all nodes send it, end that with: manxctl ippool mode %s %s\n", d.Pool, d.Mode)
	case d.Unforced != "":
		fmt.Fprintf(&b, "IPPool %s: %s=%s has been taken back\n", d.Pool, apiv1.AnnotationPoolForceMode, d.Unforced)
	}
	b.WriteString("Watch the nodes change, and what holds them, with: manxctl status\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// noSuchPool is an error that names those that exist.
func noSuchPool(ctx context.Context, pools dynamic.ResourceInterface, name string, notFound error) error {
	list, err := pools.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("read IPPool %s: %w (are the CustomResourceDefinitions of the Manx manifest there?)", name, notFound)
	}
	var names []string
	for _, p := range list.Items {
		names = append(names, p.GetName())
	}
	slices.Sort(names)
	if len(names) == 0 {
		return fmt.Errorf("there is no IPPool %s, nor any other", name)
	}
	return fmt.Errorf("there is no IPPool %s; there are: %s", name, strings.Join(names, ", "))
}
