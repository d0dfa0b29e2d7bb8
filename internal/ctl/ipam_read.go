package ctl

import (
	"context"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/internal/status"
)

// undecoded notes objects of a kind that do not decode.
func undecoded(o *ipamreport.Objects, kind string) func(name string, err error) {
	return func(name string, err error) {
		o.Undecoded = append(o.Undecoded, ipamreport.Malformed{Kind: kind, Name: name, Reason: err.Error()})
	}
}

// readAddresses reads the pools and the blocks.
func (a ipamAccess) readAddresses(ctx context.Context) (o ipamreport.Objects, err error) {
	if o.Pools, err = list[apiv1.IPPool](ctx, a.backend, apiv1.PluralIPPools, undecoded(&o, "IPPool")); err != nil {
		return o, err
	}
	o.Blocks, err = list[apiv1.IPAMBlock](ctx, a.backend, apiv1.PluralIPAMBlocks, undecoded(&o, "IPAMBlock"))
	return o, err
}

// readIPAM reads all that IPAM says.
func (a ipamAccess) readIPAM(ctx context.Context) (o ipamreport.Objects, err error) {
	if o, err = a.readAddresses(ctx); err != nil {
		return o, err
	}
	if o.Affinities, err = list[apiv1.BlockAffinity](ctx, a.backend, apiv1.PluralBlockAffinities, undecoded(&o, "BlockAffinity")); err != nil {
		return o, err
	}
	o.Handles, err = list[apiv1.IPAMHandle](ctx, a.backend, apiv1.PluralIPAMHandles, undecoded(&o, "IPAMHandle"))
	return o, err
}

// podPage is how many pods one list request asks for.
const podPage = 1000

// readUsers reads the nodes and the pods.
func (a ipamAccess) readUsers(ctx context.Context, o *ipamreport.Objects) error {
	nodes, err := a.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	o.Nodes = nodes.Items
	opts := metav1.ListOptions{Limit: podPage}
	for {
		pods, err := a.kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, opts)
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		o.Pods = append(o.Pods, pods.Items...)
		if opts.Continue = pods.Continue; opts.Continue == "" {
			return nil
		}
	}
}

// askAgents asks the agents of the named nodes, or of all with nil, for their view.
// Nodes that did not answer are in silent, with the reason.
func (a ipamAccess) askAgents(ctx context.Context, names []string) (answers []status.Node, silent map[string]string) {
	silent = map[string]string{}
	pods, err := agentPods(ctx, a.kube, a.namespace)
	if err != nil {
		for _, n := range names {
			silent[n] = err.Error()
		}
		if names == nil {
			silent["every node"] = err.Error()
		}
		return nil, silent
	}
	byNode := agentsByNode(pods)
	if names == nil {
		names = slices.Sorted(maps.Keys(byNode))
	}
	for _, said := range askAgents(ctx, a.exec, startTime, names, byNode, forStatus) {
		switch {
		case said.err != nil:
			silent[said.node] = said.err.Error()
		case said.said.Addresses == nil:
			silent[said.node] = fmt.Sprintf("its agent (pod %s) has not read its kernel back yet, or is of an older version", byNode[said.node].Name)
		default:
			answers = append(answers, said.said)
		}
	}
	return answers, silent
}
