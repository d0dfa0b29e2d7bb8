package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/spf13/cobra"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/ipam/store"
)

type ipamConfigureOptions struct {
	ipamFlags
	output       output
	strict, auto optionalBool
	maxBlocks    int
	setMaxBlocks bool
}

// optionalBool is a flag that is true, false or not given. Both --flag=true and
// --flag true set it, as with calicoctl.
type optionalBool struct{ value *bool }

func (b *optionalBool) String() string {
	if b.value == nil {
		return ""
	}
	return strconv.FormatBool(*b.value)
}

func (b *optionalBool) Set(text string) error {
	v, err := strconv.ParseBool(text)
	if err != nil {
		return errors.New("want true or false")
	}
	b.value = &v
	return nil
}

func (b *optionalBool) Type() string { return "true|false" }

func newIPAMConfigureCommand(c *connection) *cobra.Command {
	o := &ipamConfigureOptions{ipamFlags: ipamFlags{connection: c}}
	cmd := &cobra.Command{
		Use:   "configure",
		Short: "Change the settings of IPAM",
		Long: `Change the settings of IPAM, in the IPAMConfig default, which is made if it is not
there. What is not given stays as it is. The agents follow within seconds; addresses
that are in use stay, borrowed ones too.

Needs a kubeconfig with "get", "create" and "update" on
ipamconfigs.crd.projectcalico.org.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.setMaxBlocks = cmd.Flags().Changed("max-blocks-per-host")
			if err := o.validate(); err != nil {
				return fmt.Errorf("ipam configure: %w", err)
			}
			return o.with("configure", func(a ipamAccess) error { return o.run(cmd.Context(), cmd.OutOrStdout(), a) })
		},
	}
	f := cmd.Flags()
	o.output.add(f)
	f.Var(&o.strict, "strictaffinity", "nodes do not borrow addresses from other nodes' blocks")
	f.Var(&o.auto, "auto-allocate-blocks", "nodes claim blocks when they need addresses")
	f.IntVar(&o.maxBlocks, "max-blocks-per-host", 0, "how many blocks of each address family a node may have; 0 is 20")
	return c.uses(cmd)
}

func (o *ipamConfigureOptions) validate() error {
	if o.strict.value == nil && o.auto.value == nil && !o.setMaxBlocks {
		return cmdline.Usagef("nothing to change: want --strictaffinity, --auto-allocate-blocks or --max-blocks-per-host")
	}
	if o.maxBlocks < 0 || o.maxBlocks > math.MaxInt32 {
		return cmdline.Usagef("--max-blocks-per-host=%d: want 0 to %d", o.maxBlocks, math.MaxInt32)
	}
	return nil
}

// errNoBlocks is what the API server says of it too.
var errNoBlocks = errors.New("strictAffinity false needs autoAllocateBlocks true: " +
	"a node without a block of its own would borrow every address")

func (o *ipamConfigureOptions) run(ctx context.Context, out io.Writer, a ipamAccess) error {
	var spec apiv1.IPAMConfigSpec
	err := store.Retry(ctx, func() (err error) {
		spec, err = o.write(ctx, a.backend)
		if errors.Is(err, store.ErrExists) { // created meanwhile: with what is there now
			err = fmt.Errorf("%w: %w", store.ErrConflict, err)
		}
		return err
	})
	if err != nil {
		return err
	}
	return o.output.printSettings(out, spec)
}

// write changes the object once, and returns what it says then. Fields that this
// version does not know are kept.
func (o *ipamConfigureOptions) write(ctx context.Context, b store.Backend) (spec apiv1.IPAMConfigSpec, err error) {
	fresh := apiv1.IPAMConfig{Spec: apiv1.DefaultIPAMConfigSpec()}
	fresh.APIVersion, fresh.Kind, fresh.Name = apiv1.SchemeGroupVersion.String(), "IPAMConfig", apiv1.DefaultName
	text, err := b.Get(ctx, apiv1.PluralIPAMConfigs, apiv1.DefaultName)
	missing := errors.Is(err, store.ErrNotFound)
	if missing {
		text, err = json.Marshal(fresh)
	}
	if err != nil {
		return spec, fmt.Errorf("read IPAMConfig %s: %w", apiv1.DefaultName, err)
	}
	text, spec, err = o.change(text)
	if err != nil {
		return spec, err
	}
	if missing {
		_, err = b.Create(ctx, apiv1.PluralIPAMConfigs, text)
	} else {
		_, err = b.Update(ctx, apiv1.PluralIPAMConfigs, apiv1.DefaultName, text)
	}
	if err != nil {
		return spec, fmt.Errorf("write IPAMConfig %s: %w", apiv1.DefaultName, err)
	}
	return spec, nil
}

// change puts what was given into the object's text.
func (o *ipamConfigureOptions) change(text []byte) ([]byte, apiv1.IPAMConfigSpec, error) {
	var object map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&object); err != nil {
		return nil, apiv1.IPAMConfigSpec{}, fmt.Errorf("read IPAMConfig %s: %w", apiv1.DefaultName, err)
	}
	spec, _ := object["spec"].(map[string]any)
	if spec == nil {
		spec = map[string]any{}
		object["spec"] = spec
	}
	if o.strict.value != nil {
		spec["strictAffinity"] = *o.strict.value
	}
	if o.auto.value != nil {
		spec["autoAllocateBlocks"] = *o.auto.value
	}
	if o.setMaxBlocks {
		spec["maxBlocksPerHost"] = o.maxBlocks
	}
	text, err := json.Marshal(object)
	if err != nil {
		return nil, apiv1.IPAMConfigSpec{}, err
	}
	var typed apiv1.IPAMConfig
	if err := json.Unmarshal(text, &typed); err != nil {
		return nil, typed.Spec, fmt.Errorf("read IPAMConfig %s: %w", apiv1.DefaultName, err)
	}
	if !typed.Spec.StrictAffinity && !typed.Spec.AutoAllocateBlocks {
		return nil, typed.Spec, errNoBlocks
	}
	return text, typed.Spec, nil
}
