package nft

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// Config is what a Driver needs.
type Config struct {
	// Family is the table's.
	Family family.Family
	// NewRunner finds nft; NewRunner of this package when nil. It is called
	// until it succeeds.
	NewRunner func(family.Family) (Runner, error)
	Log       *slog.Logger
}

// Driver keeps the table "ip manx", or "ip6 manx", as it should be. One goroutine
// owns it.
type Driver struct {
	cfg    Config
	table  string // in words
	runner Runner

	want    image
	wantErr error
	absent  bool // no table is wanted
	gone    bool // and there is none
	has     image
	resync  bool

	drops       tally
	unavailable string
	forward     []state.Condition
	status      state.DriverStatus
}

// New makes a driver. It does nothing before the first Apply.
func New(cfg Config) *Driver {
	if cfg.NewRunner == nil {
		cfg.NewRunner = NewRunner
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{cfg: cfg, table: TableName, resync: true, drops: newTally(), status: state.DriverStatus{Name: "nft"}}
	if cfg.Family == family.IPv6 {
		d.table, d.status.Name = "ip6 "+TableName, "nft6"
		d.cfg.Log = cfg.Log.With("family", nameOf(family.IPv6))
	}
	return d
}

// SetTable says what the table should be.
func (d *Driver) SetTable(t state.Table) {
	d.want, d.wantErr = imageOf(d.cfg.Family, t)
	if d.absent {
		d.absent, d.gone, d.resync = false, false, true
	}
	d.status.Desired = size(d.want)
	d.drops.expect(t)
}

// SetAbsent says that there should be no table.
func (d *Driver) SetAbsent() {
	if !d.absent {
		d.want, d.wantErr, d.absent, d.resync = image{}, nil, true, true
		d.status.Desired = 0
	}
}

// QueueResync makes the next Apply read the table back. One that is gone for good
// is not looked for again.
func (d *Driver) QueueResync() { d.resync = d.resync || !d.gone }

// Apply makes the table what it should be.
func (d *Driver) Apply(ctx context.Context) error {
	start := time.Now()
	err := d.apply(ctx)
	d.status.LastApply, d.status.LastApplySeconds = start, time.Since(start).Seconds()
	d.status.Failed, d.status.LastError = 0, ""
	if err != nil {
		if d.status.Errors++; d.status.Pending == 0 {
			d.status.Pending = 1
		}
		d.status.Failed, d.status.LastError = d.status.Pending, err.Error()
	}
	return err
}

func (d *Driver) apply(ctx context.Context) error {
	if d.absent {
		return d.remove(ctx)
	}
	if d.wantErr != nil {
		return fmt.Errorf("render table %s: %w", d.table, d.wantErr)
	}
	if err := d.start(); err != nil {
		return err
	}
	justRead := d.resync
	if d.resync {
		if err := d.read(ctx); err != nil {
			return err
		}
	}
	tx := d.runner.NewTransaction()
	d.status.Pending = plan(d.cfg.Family, tx, d.want, d.has)
	if d.status.Pending == 0 {
		d.status.InKernel = size(d.has)
		return nil
	}
	if !justRead && rewritesRules(d.want, d.has) {
		// A rule written anew counts from zero: take what the old one has.
		if err := d.LookCounters(ctx); err != nil {
			d.cfg.Log.Debug("drops counted since the last look are lost", "err", err)
		}
	}
	if err := d.runner.Run(ctx, tx); err != nil {
		// Perhaps it was not as we thought it was.
		d.resync = true
		return fmt.Errorf("program table %s: %w", d.table, err)
	}
	d.cfg.Log.Info("packet filter programmed", "table", d.table, "changes", d.status.Pending)
	d.status.Writes += uint64(d.status.Pending)
	d.has, d.status.Pending = d.want, 0
	d.status.InKernel = size(d.has)
	return nil
}

// start finds nft once.
func (d *Driver) start() error {
	if d.runner != nil {
		return nil
	}
	r, err := d.cfg.NewRunner(d.cfg.Family)
	if err != nil {
		if d.unavailable == "" {
			d.cfg.Log.Error("nftables is not available: no masquerading, "+
				"no protection against spoofed sources, tunnel packets and strangers at the BGP port", "err", err)
		}
		d.unavailable = err.Error()
		return fmt.Errorf("find nft: %w", err)
	}
	d.runner, d.unavailable = r, ""
	return nil
}

// Version is nft's version, empty while there is none.
func (d *Driver) Version() string {
	if d.runner == nil {
		return ""
	}
	return d.runner.Version()
}

func (d *Driver) read(ctx context.Context) error {
	out, err := d.runner.ListTable(ctx)
	if err != nil {
		return fmt.Errorf("read table %s back: %w", d.table, err)
	}
	l, err := parseListing(out)
	if err != nil {
		return fmt.Errorf("read table %s back: %w", d.table, err)
	}
	has, err := imageIn(d.cfg.Family, l)
	if err != nil {
		return fmt.Errorf("read table %s back: %w", d.table, err)
	}
	d.drops.look(l)
	d.has, d.resync = has, false
	d.status.Resyncs++
	// Reading the others' chains is for a condition only: no failure of ours.
	if out, err := d.runner.ListChains(ctx); err == nil {
		d.forward, err = droppingForwardChains(d.cfg.Family, out)
		if err != nil {
			d.cfg.Log.Debug("other tables' chains not understood", "err", err)
		}
	}
	return nil
}

// LookCounters reads what the counted rules have dropped, for Dropped. It
// writes nothing, and is cheap enough for every time somebody asks.
func (d *Driver) LookCounters(ctx context.Context) error {
	if d.runner == nil || d.absent {
		return nil // no nft yet, so no rules; Apply says what is wrong
	}
	out, err := d.runner.ListRules(ctx)
	if err != nil {
		return fmt.Errorf("read the counters of table %s: %w", d.table, err)
	}
	l, err := parseListing(out)
	if err != nil {
		return fmt.Errorf("read the counters of table %s: %w", d.table, err)
	}
	d.drops.look(l)
	return nil
}

// Dropped says how many packets every counted rule has dropped, as of the last
// look, sorted by reason. What the kernel had counted before the agent started
// is in it, so a restart does not begin anew.
func (d *Driver) Dropped() []state.DropCount { return d.drops.counts() }

// rewritesRules reports whether going from has to want replaces any rule.
func rewritesRules(want, has image) bool {
	for name, c := range has.chains {
		if w, ok := want.chains[name]; !ok || w.hook != c.hook || !slices.Equal(w.comments, c.comments) {
			return true
		}
	}
	return false
}

// plan puts what differs into tx and returns how many objects do. Sets come
// before the rules that name them; what is not wanted goes last.
func plan(f family.Family, tx *knftables.Transaction, want, has image) int {
	table := &knftables.Table{Comment: knftables.PtrTo("Manx pod networking; rewritten by manx-node")}
	changes := 0
	if mustRebuild(want, has) {
		// Only inside one transaction: nobody sees the table gone.
		tx.Add(table)
		tx.Delete(&knftables.Table{})
		has = image{}
		changes++
	}
	tx.Add(table)
	for _, name := range slices.Sorted(maps.Keys(want.sets)) {
		changes += planSet(f, tx, name, want.sets[name], has.sets)
	}
	for _, name := range slices.Sorted(maps.Keys(want.chains)) {
		changes += planChain(tx, name, want.chains[name], has.chains)
	}
	for _, name := range slices.Sorted(maps.Keys(has.chains)) {
		if _, keep := want.chains[name]; !keep {
			tx.Flush(&knftables.Chain{Name: name})
			tx.Delete(&knftables.Chain{Name: name})
			changes++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(has.sets)) {
		if _, keep := want.sets[name]; !keep {
			tx.Delete(&knftables.Set{Name: name})
			changes++
		}
	}
	return changes
}

// mustRebuild reports what cannot be changed in place: a base chain's hook,
// and objects of kinds we do not know how to remove one by one.
func mustRebuild(want, has image) bool {
	for name, c := range want.chains {
		if h, ok := has.chains[name]; ok && h.hook != c.hook {
			return true
		}
	}
	return has.odd
}

func planSet(f family.Family, tx *knftables.Transaction, name string, want map[string]bool, has map[string]map[string]bool) int {
	had, exists := has[name]
	if exists && maps.Equal(want, had) {
		return 0
	}
	set := &knftables.Set{Name: name, Type: setType(f), Flags: []knftables.SetFlag{knftables.IntervalFlag}}
	if exists {
		// Old and new networks may overlap, which adding before deleting would
		// trip over; within a transaction no packet sees the set empty.
		tx.Flush(set)
	} else {
		tx.Add(set)
	}
	for _, e := range slices.Sorted(maps.Keys(want)) {
		tx.Add(&knftables.Element{Set: name, Key: []string{e}})
	}
	return 1
}

func planChain(tx *knftables.Transaction, name string, want chainImage, has map[string]chainImage) int {
	had, exists := has[name]
	if exists && slices.Equal(want.comments, had.comments) {
		return 0
	}
	chain := &knftables.Chain{
		Name:     name,
		Type:     knftables.PtrTo(knftables.BaseChainType(want.hook.typ)),
		Hook:     knftables.PtrTo(knftables.BaseChainHook(want.hook.hook)),
		Priority: knftables.PtrTo(knftables.BaseChainPriority(fmt.Sprint(want.hook.priority))),
		Policy:   knftables.PtrTo(knftables.AcceptPolicy),
	}
	tx.Add(chain)
	tx.Flush(chain)
	for i, text := range want.texts {
		tx.Add(&knftables.Rule{Chain: name, Rule: text, Comment: &want.comments[i]})
	}
	return 1
}

func size(img image) int { return len(img.chains) + len(img.sets) }

// Status reports how the driver is doing.
func (d *Driver) Status() state.DriverStatus { return d.status }

// Conditions says what keeps the packet filter from working as meant.
func (d *Driver) Conditions() []state.Condition {
	out := slices.Clone(d.forward)
	if d.unavailable != "" {
		out = append(out, state.Condition{
			Kind: state.NftablesUnavailable, Subject: "nft",
			Message: d.unavailable + ": install nft 1.0.1 or newer and give the agent CAP_NET_ADMIN; " +
				"until then pods are not masqueraded, their source addresses not checked, and tunnel packets and BGP taken from anybody",
		})
	}
	return out
}

// remove removes a table that is not wanted, if there is one.
func (d *Driver) remove(ctx context.Context) error {
	d.status.Pending, d.status.InKernel = 0, 0
	if !d.resync {
		return nil
	}
	d.forward, d.unavailable = nil, ""
	d.drops.last = nil // the rules go; the sum stays
	if d.runner == nil {
		r, err := d.cfg.NewRunner(d.cfg.Family)
		if err != nil {
			// Where no table can be made there is hardly one; it is looked for again
			// with the next resync.
			d.cfg.Log.Debug("not looked for a table to remove", "err", err)
			d.resync = false
			return nil
		}
		d.runner = r
	}
	out, err := d.runner.ListRules(ctx)
	if err != nil {
		return fmt.Errorf("look for table %s: %w", d.table, err)
	}
	if out != nil {
		if err := d.Uninstall(ctx); err != nil {
			return err
		}
		d.cfg.Log.Info("packet filter removed", "table", d.table)
		d.status.Writes++
	}
	d.has, d.gone, d.resync = image{}, true, false
	d.status.Resyncs++
	return nil
}

// Uninstall removes the table.
func (d *Driver) Uninstall(ctx context.Context) error {
	if err := d.start(); err != nil {
		return err
	}
	tx := d.runner.NewTransaction()
	tx.Add(&knftables.Table{}) // so that deleting it cannot fail
	tx.Delete(&knftables.Table{})
	if err := d.runner.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove table %s: %w", d.table, err)
	}
	d.has = image{}
	return nil
}
