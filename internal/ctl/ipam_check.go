package ctl

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/internal/version"
)

type ipamCheckOptions struct {
	ipamFlags
	output  reportOutput
	text    ipamreport.TextOptions
	recheck time.Duration
}

func newIPAMCheckCommand(c *connection) *cobra.Command {
	o := &ipamCheckOptions{ipamFlags: ipamFlags{connection: c}}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare what IPAM says of addresses with what uses them",
		Long: `Compare what IPAM says of addresses with what uses them: pools, blocks, affinities and
handles with pods and nodes, and with what each agent finds in its kernel and learns
over BGP. Nodes whose agents do not answer are judged by the Kubernetes API alone.

Pods come and go while it reads. So what seems wrong is looked at again after a
while (--recheck), and only what is wrong both times is a problem. The exit code is 1
when there is one.

-o FILE also writes a report, which "manxctl ipam release --from-report FILE" takes.

Needs a kubeconfig with "list" on ippools, ipamblocks, blockaffinities and
ipamhandles, and "get" on clusterinformations, of crd.projectcalico.org; with "list"
on pods and nodes; and, to ask the agents, "get" and "create" on pods/exec in their
namespace. Nothing is changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return fmt.Errorf("ipam check: %w", err)
			}
			return o.with("check", func(a ipamAccess) error { return o.run(cmd.Context(), cmd.OutOrStdout(), a) })
		},
	}
	f := cmd.Flags()
	namespaceFlag(f, &o.namespace)
	f.VarP(&o.output, "output", "o", "how to print: text, json or yaml; or a file for the report beside the text, such as report.json")
	f.BoolVar(&o.text.AllIPs, "show-all-ips", false, "print all addresses")
	f.BoolVar(&o.text.ProblemIPs, "show-problem-ips", false, "print what has problems")
	f.DurationVar(&o.recheck, "recheck", 5*time.Second, "how long after the first look what seems wrong is looked at again")
	return c.uses(cmd)
}

func (o *ipamCheckOptions) validate() error {
	if o.recheck < 0 {
		return cmdline.Usagef("--recheck=%v: want a time such as 5s", o.recheck)
	}
	return nil
}

func (o *ipamCheckOptions) run(ctx context.Context, out io.Writer, a ipamAccess) error {
	cluster, silent, err := a.readAll(ctx)
	if err != nil {
		return err
	}
	found := ipamreport.Check(cluster)
	problems := found.Problems
	if len(problems) > 0 {
		end := progress.Wait(ctx,
			progress.Text(fmt.Sprintf("what seems wrong (%d) is looked at again %v after it was seen", len(problems), o.recheck)), "")
		err := pause(ctx, o.recheck)
		end()
		if err != nil {
			return err
		}
		if cluster, silent, err = a.readAll(ctx); err != nil {
			return err
		}
		found = ipamreport.Check(cluster)
		problems = ipamreport.Confirm(problems, found.Problems)
	}
	report := ipamreport.NewReport(cluster, found, problems)
	report.NotAsked = silent
	if err := a.describeCluster(ctx, &report); err != nil {
		return err
	}
	if err := o.write(out, report, cluster, found); err != nil {
		return err
	}
	switch n := len(problems); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("found 1 problem")
	default:
		return fmt.Errorf("found %d problems", n)
	}
}

// readAll reads everything that check compares.
func (a ipamAccess) readAll(ctx context.Context) (ipamreport.Cluster, map[string]string, error) {
	objects, err := a.readIPAM(ctx)
	if err == nil {
		err = a.readUsers(ctx, &objects)
	}
	if err != nil {
		return ipamreport.Cluster{}, nil, err
	}
	var silent map[string]string
	objects.Agents, silent = a.askAgents(ctx, nil)
	return ipamreport.FromObjects(objects), silent, nil
}

func (a ipamAccess) describeCluster(ctx context.Context, r *ipamreport.Report) error {
	info, err := a.clusterInformation(ctx)
	if err != nil {
		return err
	}
	r.Version = version.String()
	r.ClusterGUID, r.ClusterType, r.ClusterInfoRevision = info.Spec.ClusterGUID, info.Spec.ClusterType, info.ResourceVersion
	r.DatastoreLocked = info.Spec.DatastoreReady != nil && !*info.Spec.DatastoreReady
	return nil
}

func (o *ipamCheckOptions) write(out io.Writer, r ipamreport.Report, c ipamreport.Cluster, found ipamreport.Result) error {
	err := o.output.print(out, r, func(out io.Writer) error { return r.WriteText(out, c, found, o.text) })
	if err != nil || o.output.file == "" {
		return err
	}
	encoded, err := (&output{asJSON}).encode(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.output.file, encoded, 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	_, err = fmt.Fprintf(out, "\nThe report is in %s.\n", o.output.file)
	return err
}

// reportOutput is output, or text and a file for the report.
type reportOutput struct {
	output
	file string
}

func (o *reportOutput) Set(text string) error {
	if strings.ContainsAny(text, "./") {
		o.format, o.file = asText, text
		return nil
	}
	if err := o.output.Set(text); err != nil {
		return fmt.Errorf("%w; or a file such as report.json", err)
	}
	o.file = ""
	return nil
}

// pause waits, or returns early with the reason why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
