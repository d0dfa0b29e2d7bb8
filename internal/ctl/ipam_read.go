package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
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

// maxAsked is how many agents are asked at the same time.
const maxAsked = 16

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
	for _, n := range names {
		if byNode[n] == nil {
			silent[n] = "no agent runs there"
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxAsked)
	for node, pod := range byNode {
		if names != nil && !slices.Contains(names, node) {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			answer, err := a.askAgent(ctx, node, pod)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent[node] = err.Error()
				return
			}
			answers = append(answers, answer)
		})
	}
	wg.Wait()
	return answers, silent
}

func (a ipamAccess) askAgent(ctx context.Context, node string, pod *corev1.Pod) (n status.Node, err error) {
	if !running(pod) {
		return n, fmt.Errorf("its agent (pod %s) is not running: %s", pod.Name, phase(pod))
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	raw, err := a.exec(ctx, pod, "status", "-o", "json")
	if err != nil {
		return n, fmt.Errorf("manxctl in pod %s: %w", pod.Name, err)
	}
	var answer []status.Node
	switch err := json.Unmarshal(raw, &answer); {
	case err != nil || len(answer) != 1 || answer[0].Name != node:
		return n, fmt.Errorf("unexpected answer of manxctl in pod %s: %.80q", pod.Name, raw)
	case answer[0].Addresses == nil:
		return n, fmt.Errorf("its agent (pod %s) has not read its kernel back yet, or is of an older version", pod.Name)
	}
	return answer[0], nil
}
