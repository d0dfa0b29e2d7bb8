package lab

import (
	"fmt"

	"github.com/manx-cni/manx/test/lab/runner"
)

// StopPods takes the pods of the manifest, Manx's agent above all, off a light node; its
// other pods stay. It returns before they have ended.
func (c *Cluster) StopPods(node string) error {
	return c.eachPod(node, func(p lightPlan) error {
		for _, pod := range on(node, p.Pods) {
			if err := runner.RemoveStatic(c.Disk(node), pod.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

// StartPods puts them back. It returns before they have started.
func (c *Cluster) StartPods(node string) error {
	return c.eachPod(node, func(p lightPlan) error {
		for _, pod := range on(node, p.Pods) {
			if err := runner.WriteStatic(c.Disk(node), pod); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Cluster) eachPod(node string, do func(lightPlan) error) error {
	s, err := loadState(c.Lab)
	if err != nil {
		return err
	}
	if s.machine(node) == nil {
		return unknownMachine(c.Name, node, s)
	}
	if !s.Light {
		return fmt.Errorf("lab %s is a full one: its DaemonSets say what runs on %s", c.Name, node)
	}
	p, err := c.loadPlan()
	if err != nil {
		return err
	}
	return do(p)
}
