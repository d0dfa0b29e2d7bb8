// Package former keeps what links of the host were before Manx changed them, for the
// processes that come after: it cannot be seen on the links.
//
// It is on no packet's path. Several drivers write into one file, each its own part of what
// is known of a link: felix/tunnel that a device was up and with which MTU, felix/rpfilter
// what an rp_filter was. Each has a link remembered before it changes it for the first
// time, and its part forgotten after that is put back. The file has no link of which
// nothing is known, and is not there without one.
//
// What it has is believed only about the same device, which is one of the same name and
// index, in the same boot. Without it everything works but putting back what another
// process has changed: nothing waits for a file that cannot be written, and what cannot
// be read is not made up.
package former

import (
	"log/slog"
	"slices"
	"strings"
)

// Store outlasts the process.
type Store interface {
	// Load returns what the last Save of this boot was given.
	Load() ([]Link, error)
	// Save replaces it.
	Save(links []Link) error
}

// Link is what a link was before it was changed.
type Link struct {
	Name string `json:"name"`
	// Index is its number: another device of that name has another one.
	Index int `json:"index"`
	// RPFilter is what an rp_filter that was made loose was; nil when none was.
	RPFilter *int `json:"rpFilter,omitempty"`
	// Tunnel is what the tunnel device was; nil for others.
	Tunnel *Tunnel `json:"tunnel,omitempty"`
}

// Tunnel is what the tunnel device was.
type Tunnel struct {
	// WasUp: it was up, for another user of it. If not, it is up because of Manx.
	WasUp bool `json:"wasUp"`
	// MTU in bytes; 0 when it is not known.
	MTU int `json:"mtu,omitempty"`
}

// noStore forgets everything with the process.
type noStore struct{}

func (noStore) Load() ([]Link, error) { return nil, nil }
func (noStore) Save([]Link) error     { return nil }

// Links are the links that are remembered. One goroutine owns them.
type Links struct {
	store   Store
	log     *slog.Logger
	formers map[string]Link // by name; nil before the first look
	unsaved bool            // the store does not have all of them
}

// New makes what the store has available; with a nil one nothing outlasts the process. It
// reads the store when it is first asked.
func New(store Store, log *slog.Logger) *Links {
	if store == nil {
		store = noStore{}
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Links{store: store, log: log}
}

// recall reads the store once. A process that cannot goes on without.
func (l *Links) recall() {
	if l.formers != nil {
		return
	}
	l.formers = map[string]Link{}
	links, err := l.store.Load()
	if err != nil {
		l.log.Warn("what devices were before the tunnel is not known; they stay as they are when it goes", "err", err)
	}
	for _, f := range links {
		l.formers[f.Name] = f
	}
}

// All returns what is remembered, sorted by name.
func (l *Links) All() []Link {
	l.recall()
	all := make([]Link, 0, len(l.formers))
	for _, f := range l.formers {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Of is what a link was, without any part when it has not been changed.
func (l *Links) Of(name string, index int) Link {
	l.recall()
	if f := l.formers[name]; f.Index == index {
		return f
	}
	return Link{Name: name, Index: index}
}

// Remember saves what a link was, before it is changed. It replaces what is known of the
// link, and of another one that had the name.
func (l *Links) Remember(f Link) {
	l.recall()
	l.formers[f.Name] = f
	l.save()
}

// Forget clears one part of what a link was, and the rest with the last part.
func (l *Links) Forget(name string, part func(*Link)) {
	l.recall()
	f, known := l.formers[name]
	if !known {
		return
	}
	part(&f)
	if f.RPFilter == nil && f.Tunnel == nil {
		delete(l.formers, name)
	} else {
		l.formers[name] = f
	}
	l.save()
}

// Retry saves what could not be saved before.
func (l *Links) Retry() {
	if l.unsaved {
		l.save()
	}
}

// save writes the store. Traffic does not wait for it: when it fails, the next process
// knows less.
func (l *Links) save() {
	err := l.store.Save(l.All())
	switch {
	case err != nil && !l.unsaved:
		l.log.Warn("what devices were before the tunnel is not saved; trying again; the next process would leave them as they are", "err", err)
	case err == nil && l.unsaved:
		l.log.Info("what devices were before the tunnel is saved after failing")
	}
	l.unsaved = err != nil
}
